"""What is known of a layer, and of a model's layers together, as plain data."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..graph import Attention, Role
from ..graph.dataflow import Widths
from .count import Work
from .projections import AttentionPart, InProjection


@dataclass(frozen=True)
class Layer:
    """One convolution, linear or attention layer.

    Args:
        name: qualified name of its module, or of the module that owns its weight.
        kind: "conv1d" ... "conv_transpose3d", "linear", or "attention" (a packed `nn.MultiheadAttention`).
        role: from the dataflow, over every entry point and call.
        obstacle: why no operator can take its place, apart from any policy; None when one can.
        parameters: unique numbers it owns that no earlier layer owns (tied weights count once).
        frozen: whether its weights are kept from training (`requires_grad=False`), in a model that trains others.
        by_chance: whether the model chooses at random if it runs, or if its result counts, and chose against it.
        only_training: whether training calls it, and evaluation, which roles are read off, does not.
        owns: "weight" and "bias", where no earlier layer owns them.
        tied: names of the other modules that hold its weight or its bias.
        bare: whether its weight is used without a call of the layer.
        calls: operators it ran over all entry points; input_shape and output_shape are those of the first.
        within: name of the `nn.MultiheadAttention` that applies it without calling it; they change together.
        projections: of a packed attention.
        removed_by: operators that take away again, on every path to a result, what is added to all of its output;
            none where that is not so, or not proven.
        pointwise: whether it acts on each position by itself, with stride 1.
        macs: multiply-adds of one pass over the entry points that make up the whole model; input_numel and
            output_numel are the elements it reads and makes in it.
    """

    name: str
    kind: str
    role: Role
    in_channels: int
    out_channels: int
    kernel_size: tuple[int, ...] = ()
    groups: int = 1
    bias: bool = False
    pointwise: bool = False
    parameters: int = 0
    itemsize: int = 4
    obstacle: str | None = None
    frozen: bool = False
    by_chance: bool = False
    only_training: bool = False
    owns: frozenset[str] = frozenset()
    tied: tuple[str, ...] = ()
    attention: AttentionPart | None = None
    within: str | None = None
    projections: tuple[InProjection, ...] = ()
    partial: tuple[str, ...] = ()
    removed_by: tuple[str, ...] = ()
    bare: bool = False
    calls: int = 0
    input_shape: tuple[int, ...] | None = None
    output_shape: tuple[int, ...] | None = None
    macs: int = 0
    input_numel: int = 0
    output_numel: int = 0

    @property
    def work(self) -> Work:
        """What the cost of its replacement depends on."""
        return Work(
            self.kernel_size,
            self.out_channels,
            self.input_numel,
            self.output_numel,
            self.kind.startswith("conv_transpose"),
            self.projections,
        )


@dataclass(frozen=True)
class Inventory:
    """Every layer of a model, its attentions, the multiply-adds outside the layers, and the widths between them."""

    layers: tuple[Layer, ...]
    attention: tuple[Attention, ...]
    macs_elsewhere: int
    widths: Widths = field(default_factory=Widths)
