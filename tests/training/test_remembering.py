"""A teacher's answers that are kept: the same as it gives, once an image, and no more of them than fit."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from prismify.training.losses import Answering, Remembering


class Counting(nn.Module):
    """A teacher that counts the images it was asked about."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 3, 3, padding=1)
        self.asked = 0

    def forward(self, x: Tensor) -> Tensor:
        self.asked += len(x)
        y: Tensor = self.layer(x)
        return y


def test_an_image_that_comes_again_costs_no_pass() -> None:
    model = Counting().double()
    teacher = Answering(model, ["layer"], {"latent", "output"})
    one = 2 * 3 * 8 * 8 * 8  # bytes of an answer: the output and the layer's
    remembering = Remembering(teacher, 3 * one)
    x = torch.randn(5, 3, 8, 8, dtype=torch.float64)
    for order in ([0, 1], [1, 0, 2], [4, 3, 0], [2, 4]):
        found, wanted = remembering(x[order]), teacher(x[order])
        assert found.keys() == wanted.keys() == {"output", "features.layer"}
        for name, value in found.items():
            torch.testing.assert_close(value, wanted[name])
            assert not value.requires_grad
    direct = 2 + 3 + 3 + 2
    # 0, 1 and 2 are kept; 3 and 4 came when there was no room left.
    assert model.asked - direct == 2 + 1 + 2 + 1
    assert remembering.held == 3 * one


def test_without_room_it_is_asked_every_time() -> None:
    model = Counting()
    remembering = Remembering(Answering(model, [], {"latent", "output"}), 0)
    x = torch.randn(2, 3, 8, 8)
    for _ in range(3):
        remembering(x)
    assert model.asked == 6
