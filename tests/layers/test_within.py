"""Convolutions of classes of their own: what their forward prepares stays, the convolution in it is another."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prismify import convert, convert_, load, save, scan
from prismify.layers import DeepPrism3d, Prism
from prismify.layers.within import made_within
from tests.tolerances import exact


class Causal(nn.Conv3d):
    """Wan's: pads in time, on one side, and then convolves without padding; keeps frames from call to call."""

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        t, h, w = self.padding
        self._padding = (w, w, h, h, 2 * t, 0)
        self.padding = (0, 0, 0)

    def forward(self, x: Tensor, cache_x: Tensor | None = None) -> Tensor:
        padding = list(self._padding)
        if cache_x is not None and padding[4] > 0:
            x = torch.cat([cache_x, x], 2)
            padding[4] -= cache_x.shape[2]
        return super().forward(F.pad(x, padding))


class Standardised(nn.Conv2d):
    """Reads its weight: another weight would break it."""

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        return F.conv2d(x, weight, self.bias, self.stride, self.padding)


class Borrowing(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * getattr(self, "weight").mean()  # noqa: B009


class Gated(nn.Conv2d):
    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.gate = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * self.gate


class Video(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head, self.tail = nn.Conv3d(3, 16, 3, padding=1), nn.Conv3d(16, 3, 3, padding=1)
        self.body, self.point = Causal(16, 16, 3, padding=1), Causal(16, 16, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.tail(self.point(self.body(self.head(x))))


X = torch.randn(1, 3, 4, 5, 6)


def test_a_forward_that_prepares_the_input_stays():
    model = Video()
    converted = convert(model, args=(X,)).eval()
    assert [r.name for r in converted.prismify_plan.replaced] == ["body", "point"]
    body = converted.body
    assert isinstance(body, Causal)
    assert isinstance(body.operator, DeepPrism3d)
    assert isinstance(converted.point.operator, Prism)
    assert isinstance(model.body.weight, nn.Parameter)
    h = torch.randn(1, 16, 4, 5, 6)
    exact(body(h), body.operator(F.pad(h, body._padding)))
    exact(body(h, h[:, :, -2:]), body.operator(F.pad(torch.cat([h[:, :, -2:], h], 2), (1, 1, 1, 1, 0, 0))))
    later = h.clone()
    later[:, :, 3:] += 1  # the future changes nothing before it
    exact(body(later)[:, :, :3], body(h)[:, :, :3])
    assert sum(p.numel() for p in converted.parameters()) == converted.prismify_plan.parameters.after


def test_it_is_copied_pickled_saved_loaded_and_scanned_again(tmp_path):
    converted = convert(Video(), args=(X,)).eval()
    expected = converted(X)
    for other in (copy.deepcopy(converted), pickle.loads(pickle.dumps(converted))):
        exact(other(X), expected)
        # By name: pickle imports this file once more, under the name that pytest gave it.
        assert type(other.body).__qualname__ == type(converted.body).__qualname__
    rows = {row.name: row for row in scan(converted, (X,)).layers}
    assert "already" in rows["body.operator"].reason
    assert "body" not in rows
    converted.prismify_plan = converted.prismify_plan
    save(converted, tmp_path / "out")
    exact(load(tmp_path / "out", model=Video())(X), expected)
    allow = [f"{kind.__module__}.{kind.__qualname__}" for kind in (Video, Causal)]
    exact(load(tmp_path / "out", allow=allow)(X), expected)
    in_place = Video()
    assert convert_(in_place, args=(X,)) is in_place
    assert isinstance(in_place.body, Causal)


def test_nothing_but_a_convolution_is_made_around_an_operator():
    with pytest.raises(ValueError, match="no class of a convolution"):
        made_within(nn.Linear, {})


@pytest.mark.parametrize(("kind", "reason"), [(Standardised, "computes more"), (Borrowing, "computes more"),
                                              (Gated, "holds more")])  # fmt: skip
def test_what_reads_its_weight_or_holds_more_is_kept(kind, reason):
    model = nn.Sequential(nn.Conv2d(3, 16, 3), kind(16, 16, 3), nn.Conv2d(16, 3, 3))
    row = scan(model, (torch.randn(1, 3, 9, 9),)).layers[1]
    assert row.decision == "keep"
    assert reason in row.reason


@pytest.mark.parametrize("held", [{}, [torch.zeros(1)], nn.Identity])
def test_what_holds_things_that_cannot_be_copied_plainly_is_kept(held):
    model = Video()
    model.body.extra = held
    assert scan(model, (X,)).layers[2].decision == "keep"


def test_diffusers_video_autoencoders():
    from diffusers import AutoencoderKLWan

    model = AutoencoderKLWan(base_dim=16, num_res_blocks=1, dim_mult=[1, 1], z_dim=4, temperal_downsample=[False])
    converted = convert(model, check=False)
    kinds = {type(m.operator).__name__ for m in converted.modules() if hasattr(m, "operator")}
    assert kinds == {"DeepPrism3d"}
    kept = [r for r in converted.prismify_plan.layers if r.rule == "unsupported"]
    assert not kept
