"""The operator on one feature map against the dense layer it replaces and the paper's own code."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..errors import ShapeError
from ..generators import kept_generators
from ..graph import ExampleInputs
from ..layers import DeepPrism
from .models import one_pass
from .timing import measure_machine, side_by_side


@kept_generators()
def bench_shape(
    shape: tuple[int, ...], device: torch.device, dtype: torch.dtype = torch.float32, seconds: float = 1.0
) -> dict[str, Any]:
    """The dense 3×3 convolution, the paper's listing and DeepPrism on one feature map, as plain data.

    Args:
        shape: (B, C, H, W).

    Returns:
        `machine`; for "forward" and "forward and backward" a row for each layer with its timing, how many
        times faster than the dense layer it is, its share of copy bandwidth (two tensors forward, six with
        backward) and of the product's rate, and the peak of tensor memory in bytes.

    Raises:
        ShapeError: `shape` has not four axes.
    """
    if len(shape) != 4 or min(shape) < 1:
        raise ShapeError(f"bench needs a shape (B, C, H, W), got {shape}")
    channels = shape[1]
    options: dict[str, Any] = {"device": device, "dtype": dtype}
    layers = {
        "dense": nn.Conv2d(channels, channels, 3, padding=1, **options),
        "listing": _Listing(nn.Conv3d(1, 1, 3, padding=1, **options)),
        "prismify": DeepPrism(channels, **options),
    }
    u = torch.randn(shape, **options)
    machine = measure_machine(device)
    flops = {"dense": 18 * channels * u.numel(), "listing": 54 * u.numel(), "prismify": 54 * u.numel()}
    result: dict[str, Any] = {
        "machine": vars(machine),
        "shape": list(shape),
        "dtype": str(dtype).removeprefix("torch."),
    }
    for title, passes, tensors in (("forward", 1, 2), ("forward and backward", 3, 6)):
        calls = {n: one_pass(m, ExampleInputs((u,)), passes > 1) for n, m in layers.items()}
        result[title] = {
            name: {
                **row,
                "share_of_copy": tensors * u.nbytes / row["median_ms"] * 1e3 / machine.copy_bytes_per_s,
                "share_of_matmul": passes * flops[name] / row["median_ms"] * 1e3 / machine.matmul_flops_per_s,
            }
            for name, row in side_by_side(calls, "dense", device, seconds).items()
        }
    return result


class _Listing(nn.Module):
    """The paper's own code."""

    def __init__(self, conv: nn.Conv3d) -> None:
        super().__init__()
        self.conv = conv

    def forward(self, u: Tensor) -> Tensor:
        y: Tensor = self.conv(u.unsqueeze(1))
        return y.squeeze(1)
