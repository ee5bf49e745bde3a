"""All that a model returns is a result: logits beside a cache, scores beside losses, sound beside a spectrogram."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prismify import scan
from tests.graph.nets import C, Chain, conv

CHAIN = {"head": "input", "body.0": "inner", "body.2": "inner", "tail": "output"}


class ScoresBesideAMap(Chain):
    """lightweight-gan's discriminator: the trunk's logits have a lower rank than a small second map."""

    def __init__(self) -> None:
        super().__init__()
        self.small = nn.Sequential(conv(3), conv(), nn.AdaptiveAvgPool2d(1), conv(C, 1, 1))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return super().forward(x).flatten(1), self.small(x)


class ScoreBesideALoss(Chain):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return super().forward(x).mean((1, 2, 3)).squeeze(), torch.zeros(1)


class ScoreBesideATable(Chain):
    """The one result of higher rank depends on no layer."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return super().forward(x).mean(), x.mean((2, 3))


class JudgedByANetwork(Chain):
    """The loss beside the picture is computed from it by layers of its own: the picture's last layer stays the last."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(conv(3), conv())

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        picture = super().forward(x)
        return {"picture": picture, "loss": (self.features(picture) - self.features(x)).square().mean()}


class LogitsBesideACache(nn.Module):
    """A decoder that returns (logits of rank 3, keys and values of rank 4)."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.tail = nn.Linear(3, C), nn.Linear(C, 5)
        self.q, self.k, self.v, self.out = (nn.Linear(C, C) for _ in range(4))

    def forward(self, x: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        h = self.head(x)
        q, k, v = (p(h).unflatten(-1, (2, -1)).transpose(1, 2) for p in (self.q, self.k, self.v))
        attended = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return self.tail(h + self.out(attended)), (k, v)


class SoundBesideASpectrogram(nn.Module):
    """(B, T) beside (B, 1, F, T): the vocoder goes on from the spectrogram."""

    def __init__(self) -> None:
        super().__init__()
        self.acoustic = nn.Sequential(nn.Conv1d(3, C, 3, padding=1), nn.Conv1d(C, C, 3, padding=1))
        self.vocoder = nn.Sequential(nn.Conv1d(C, C, 3, padding=1), nn.Conv1d(C, 1, 3, padding=1))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        spectrogram = self.acoustic(x)
        return self.vocoder(spectrogram).squeeze(1), spectrogram.unsqueeze(1)


PICTURE, TOKENS, SOUND = (1, 3, 8, 8), (1, 7, 3), (1, 3, 8)
SMALL = {"small.0": "input", "small.1": "inner", "small.3": "output"}
PARTS = dict.fromkeys(("q", "k", "v", "out"), "inner")
CASES = [
    (ScoresBesideAMap, PICTURE, {**CHAIN, **SMALL}),
    (ScoreBesideALoss, PICTURE, CHAIN),
    (ScoreBesideATable, PICTURE, CHAIN),
    (JudgedByANetwork, PICTURE, {**CHAIN, "features.0": "input", "features.1": "output"}),
    (LogitsBesideACache, TOKENS, {"head": "input", "tail": "output", **PARTS}),
    (
        SoundBesideASpectrogram,
        SOUND,
        {"acoustic.0": "input", "acoustic.1": "inner", "vocoder.0": "inner", "vocoder.1": "output"},
    ),
]


@pytest.mark.parametrize(("net", "size", "expected"), CASES, ids=lambda v: getattr(v, "__name__", ""))
def test_every_result_counts(net, size, expected):
    found = {row.name: row.role for row in scan(net(), (torch.randn(size),)).layers}
    assert found == expected
