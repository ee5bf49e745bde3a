"""What a layer that is replaced fixes about what takes its place, whatever its kind: widths, geometry, device."""

from __future__ import annotations

from math import prod
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from ...errors import ShapeError

_CONVOLUTIONS: dict[tuple[bool, int], Any] = {
    (False, 1): nn.Conv1d,
    (False, 2): nn.Conv2d,
    (False, 3): nn.Conv3d,
    (True, 1): nn.ConvTranspose1d,
    (True, 2): nn.ConvTranspose2d,
    (True, 3): nn.ConvTranspose3d,
}


def convolution(layer: _ConvNd, in_channels: int, out_channels: int, *, bias: bool, groups: int = 1) -> Any:
    """A fresh convolution with the geometry of `layer` and other widths."""
    options: dict[str, Any] = {name: getattr(layer, name) for name in ("stride", "padding", "dilation", "padding_mode")}
    if layer.transposed:
        options["output_padding"] = layer.output_padding
    made = _CONVOLUTIONS[layer.transposed, len(layer.kernel_size)]
    return made(in_channels, out_channels, layer.kernel_size, groups=groups, bias=bias, **options, **like(layer))


def pointwise(layer: _ConvNd, in_channels: int, out_channels: int, *, bias: bool) -> Any:
    """A fresh convolution of one position over as many axes as `layer` has."""
    made = _CONVOLUTIONS[False, len(layer.kernel_size)]
    return made(in_channels, out_channels, 1, bias=bias, **like(layer))


def linear(layer: nn.Module, in_features: int, out_features: int, *, bias: bool) -> nn.Linear:
    """A fresh linear layer where `layer` is."""
    return nn.Linear(in_features, out_features, bias, **like(layer))


def down_and_up(layer: nn.Module, between: int) -> tuple[Any, Any]:
    """Two fresh layers that go from a layer's inputs to so many channels and on to its outputs, where it has its bias.

    The layer's own kernel is in the first; in the second where it is transposed.
    """
    channels_in, channels_out = widths(layer)
    bias = has_bias(layer)
    if not isinstance(layer, _ConvNd):
        return linear(layer, channels_in, between, bias=False), linear(layer, between, channels_out, bias=bias)
    if is_transposed(layer):
        return pointwise(layer, channels_in, between, bias=False), convolution(layer, between, channels_out, bias=bias)
    return convolution(layer, channels_in, between, bias=False), pointwise(layer, between, channels_out, bias=bias)


def like(layer: nn.Module) -> dict[str, Any]:
    """Where a layer's weight is, and of what type."""
    weight = layer._parameters["weight"]
    assert weight is not None
    return {"device": weight.device, "dtype": weight.dtype}


def widths(layer: nn.Module) -> tuple[int, int]:
    """(in, out): channels of a convolution, or features of a linear layer, transformers' transposed one as well.

    Raises:
        ShapeError: it is neither, or a convolution in groups.
    """
    if isinstance(layer, _ConvNd):
        if layer.groups != 1:
            raise ShapeError(f"a convolution in {layer.groups} groups is no dense layer")
        return layer.in_channels, layer.out_channels
    if isinstance(layer, nn.Linear):
        return layer.in_features, layer.out_features
    weight = layer._parameters.get("weight")
    if weight is None or weight.dim() != 2 or not hasattr(layer, "nf"):
        raise ShapeError(f"a {type(layer).__name__} is neither a convolution nor a linear layer")
    return weight.shape[0], weight.shape[1]


def fan(layer: nn.Module) -> tuple[int, int]:
    """Numbers that one output depends on, and outputs that one position makes: C_in * kernel, C_out.

    Of a transposed convolution C_in, and C_out * kernel.
    """
    channels_in, channels_out = widths(layer)
    taps = prod(layer.kernel_size) if isinstance(layer, _ConvNd) else 1
    return (channels_in, channels_out * taps) if is_transposed(layer) else (channels_in * taps, channels_out)


def is_transposed(layer: nn.Module) -> bool:
    """Whether it is a transposed convolution."""
    return isinstance(layer, _ConvNd) and layer.transposed


def has_bias(layer: nn.Module) -> bool:
    """Whether a layer adds one."""
    return layer._parameters.get("bias") is not None


def drawn(part: Any) -> None:
    """Draw weights that keep the variance of the signal, in place; the bias starts at zero."""
    nn.init.normal_(part.weight, std=fan(part)[0] ** -0.5)
    if part.bias is not None:
        nn.init.zeros_(part.bias)


def whole(value: Any, name: str, least: int = 1, most: int | None = None) -> int:
    """`value`, seen to be a whole number within bounds.

    Raises:
        ShapeError: it is not.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < least or (most is not None and value > most):
        text = f"from {least} to {most}" if most is not None else f"at least {least}"
        raise ShapeError(f"{name} {value!r} must be a whole number {text}")
    return value


class InPlace(nn.Module):
    """What takes the place of a convolution or a linear layer, and tells callers its widths and geometry."""

    kernel_size: tuple[int, ...]

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.in_channels, self.out_channels = widths(layer)
        if isinstance(layer, _ConvNd):
            for name in ("kernel_size", "stride", "padding", "dilation", "padding_mode", "output_padding"):
                setattr(self, name, getattr(layer, name))
            self.groups, self.transposed = 1, layer.transposed
        else:
            self.in_features, self.out_features = self.in_channels, self.out_channels
            if hasattr(layer, "nf"):
                self.nx, self.nf = self.in_channels, self.out_channels

    def _per_channel(self, numbers: Tensor) -> Tensor:
        """One number a channel, in the shape that multiplies an output."""
        axes = len(self.kernel_size) if hasattr(self, "kernel_size") else 0
        return numbers.reshape(-1, *(1,) * axes) if axes else numbers
