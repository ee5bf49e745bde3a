"""Narrow: the same layer or norm with fewer channels on either side."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.instancenorm import _InstanceNorm

from ...errors import ShapeError
from ..own import shipped_operator
from .shapes import convolution, drawn, has_bias, like, linear, whole, widths

#: Norms that may have fewer channels; those of layer and RMS norm are the first of the axes over which they go.
NORMS = (nn.GroupNorm, _BatchNorm, _InstanceNorm, nn.LayerNorm, nn.RMSNorm)


@shipped_operator
class Narrow(nn.Module):
    """What a plan says of a layer that makes, or reads, fewer channels than it did; it becomes a layer of its own kind.

    A width is named after the first layer that makes it, and all layers and norms along it change together
    (`prismify.plan.narrowing`): one of them alone does not fit into its model any more.
    """

    @staticmethod
    def from_layer(
        layer: nn.Module, reads: Mapping[str, int] | None = None, makes: Mapping[str, int] | None = None
    ) -> nn.Module:
        """A fresh convolution, linear layer or norm in the place of one.

        Args:
            reads: {name of the width: channels} of its input, where one of these is narrowed; side by side, in order.
            makes: of its output; of a norm, of both.

        Raises:
            ShapeError: `layer` is none of these, or the channels do not fit.
        """
        if not reads and not makes:
            raise ShapeError("Narrow changes all layers along a width together: use policy narrow")
        if isinstance(layer, NORMS):
            return _norm(layer, _channels(makes, norm_width(layer)))
        channels_in, channels_out = widths(layer)
        inside = _channels(reads, channels_in) if reads else channels_in
        outside = _channels(makes, channels_out) if makes else channels_out
        if isinstance(layer, _ConvNd):
            made: nn.Module = convolution(layer, inside, outside, bias=has_bias(layer))
        elif isinstance(layer, nn.Linear):
            made = linear(layer, inside, outside, bias=has_bias(layer))
        else:
            raise ShapeError(f"a {type(layer).__name__} cannot be narrowed")
        drawn(made)
        return made.train(layer.training)


def norm_width(norm: nn.Module) -> int:
    """The channels that a norm expects."""
    if isinstance(norm, (nn.LayerNorm, nn.RMSNorm)):
        return int(norm.normalized_shape[0])
    return int(norm.num_channels if isinstance(norm, nn.GroupNorm) else norm.num_features)  # type: ignore[arg-type]


def _channels(named: Mapping[str, int] | None, most: int) -> int:
    if not isinstance(named, Mapping) or not named:
        raise ShapeError(f"{named!r:.60} must be the names of widths and their channels")
    return whole(sum(whole(count, "channels") for count in named.values()), "channels", most=most)


def _norm(layer: nn.Module, channels: int) -> nn.Module:
    place = like(layer) if layer._parameters.get("weight") is not None else {}
    if isinstance(layer, nn.GroupNorm):
        size = layer.num_channels // layer.num_groups
        if channels % size:
            raise ShapeError(f"{channels} channels are no whole groups of {size}")
        made: Any = nn.GroupNorm(channels // size, channels, layer.eps, layer.affine, **place)
    elif isinstance(layer, nn.LayerNorm):
        sides = (channels, *layer.normalized_shape[1:])
        made = nn.LayerNorm(sides, layer.eps, layer.elementwise_affine, layer.bias is not None, **place)
    elif isinstance(layer, nn.RMSNorm):
        made = nn.RMSNorm((channels, *layer.normalized_shape[1:]), layer.eps, layer.elementwise_affine, **place)
    else:
        norm: Any = layer
        made = type(layer)(channels, norm.eps, norm.momentum, norm.affine, norm.track_running_stats, **place)
    result: nn.Module = made.train(layer.training)
    return result
