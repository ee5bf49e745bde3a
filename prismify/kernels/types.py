"""The words the operator's arguments are written in."""

from __future__ import annotations

from typing import Literal

#: Padding of the channel axis: interval, line and circle of the paper's Table 1.
Topology = Literal["zero", "replicate", "circular"]

#: Padding of the spatial axes, in the words of `torch.nn.Conv2d`.
PaddingMode = Literal["zeros", "reflect", "replicate", "circular"]

#: What follows a norm in a fused block.
Activation = Literal["silu", "none"]

TOPOLOGIES: tuple[Topology, ...] = ("zero", "replicate", "circular")

PADDING_MODES: tuple[PaddingMode, ...] = ("zeros", "reflect", "replicate", "circular")

ACTIVATIONS: tuple[Activation, ...] = ("silu", "none")
