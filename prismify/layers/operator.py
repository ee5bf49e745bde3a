"""What a plan writes down about a replacement, and how that becomes a module."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field, fields
from typing import Any, Literal, cast, get_args

from torch import Tensor, nn

from ..errors import ShapeError
from ..kernels import Topology
from .deep_prism import Bias, DeepPrism, DeepPrism1d, DeepPrism3d
from .deep_prism_transposed import DeepPrismTranspose1d, DeepPrismTranspose2d, DeepPrismTranspose3d
from .multihead import PROJECTIONS, PrismMultihead, Projection
from .own import OperatorType, build_own, described_operators, own_operators
from .prism import Prism, is_pointwise
from .prism_conv import PrismConv
from .volumes import check_channel_kernel, check_words
from .within import within

#: Every layer of this package that takes another's place.
LAYERS: tuple[type[nn.Module], ...] = (
    DeepPrism,
    DeepPrism1d,
    DeepPrism3d,
    DeepPrismTranspose1d,
    DeepPrismTranspose2d,
    DeepPrismTranspose3d,
    Prism,
    PrismConv,
    PrismMultihead,
)
#: The DeepPrism for each convolution.
_BY_CONVOLUTION: dict[type[nn.Module], Any] = {
    nn.Conv1d: DeepPrism1d,
    nn.Conv2d: DeepPrism,
    nn.Conv3d: DeepPrism3d,
    nn.ConvTranspose1d: DeepPrismTranspose1d,
    nn.ConvTranspose2d: DeepPrismTranspose2d,
    nn.ConvTranspose3d: DeepPrismTranspose3d,
}

OperatorBias = Literal["scalar", "channel", "none"]


@dataclass(frozen=True)
class Operator:
    """A replacement, apart from the geometry it takes from the layer it replaces.

    Args:
        type: "DeepPrism" (Eq. 3), "Prism" (Eq. 1), "PrismConv" (Eq. 2) or "PrismMultihead" (Eq. 5); or one that knows
            `options` alone: one of `layers.spectrum`, or one's own that is registered.
        volumes: (P, Q) input and output volumes; PrismConv has one of each; of a PrismMultihead, those of
            the queries' projection.
        channel_kernel_size: K along the channels; odd.
        topology: padding of the channel axis (Table 1).
        bias: the form a bias takes where the replaced layer has one; "none" leaves it out.
        form: of a PrismConv, "composition" or "sum".
        interleave: of a Prism that makes q, k and v in one: into how many runs its output volumes are cut
            and dealt out in turn, so that channels lie as the replaced layer's did.
        projections: of a PrismMultihead, which of "q", "k", "v" are Prisms; the others keep their weights.
        channel_dilation: of a DeepPrism that is not transposed: its kernel reads every d-th channel.
        options: of one that knows nothing else, as JSON holds them.
    """

    type: str
    volumes: tuple[int, int] = (1, 1)
    channel_kernel_size: int = 3
    topology: Topology = "zero"
    bias: OperatorBias = "scalar"
    form: Literal["composition", "sum"] = "composition"
    interleave: int = 1
    projections: tuple[Projection, ...] = PROJECTIONS
    channel_dilation: int = 1
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        known = (*get_args(OperatorType), *described_operators())
        if self.type not in known:
            raise ShapeError(
                f"type {self.type!r} is not one of {', '.join(known)}: import the module that registers it "
                "(prismify.register_operator; --import at the command line)"
            )
        if self.options and not self.by_options:
            raise ShapeError(f"a {self.type} has no options, and is given {', '.join(self.options)}")
        check_words(self.topology, self.bias_kind)
        check_channel_kernel(self.channel_kernel_size)

    @property
    def is_own(self) -> bool:
        """Whether it is none of prismify's."""
        return self.type in own_operators()

    @property
    def by_options(self) -> bool:
        """Whether options describe it, and it is counted by what it runs."""
        return self.type not in get_args(OperatorType)

    def to_dict(self) -> dict[str, Any]:
        """Plain data of what applies to its type; what is missing has its default when it is read."""
        if self.by_options:
            return {"type": self.type, **({"options": self.options} if self.options else {})}
        apart = {"form": "PrismConv", "interleave": "Prism", "projections": "PrismMultihead"}
        names = [f.name for f in fields(self) if f.name != "options" and apart.get(f.name, self.type) == self.type]
        names = [name for name in names if name != "channel_dilation" or self.channel_dilation != 1]
        return {name: getattr(self, name) for name in names}

    @property
    def bias_kind(self) -> Bias | None:
        """`bias` as layers name it, which have None for none."""
        return None if self.bias == "none" else self.bias


def operator_for(layer: nn.Module) -> OperatorType:
    """Prism for a linear layer or pointwise convolution, DeepPrism for any other convolution, else PrismMultihead."""
    if isinstance(layer, nn.MultiheadAttention):
        return "PrismMultihead"
    tokens = isinstance(layer, nn.Linear) or is_transposed_linear(layer)
    return "Prism" if tokens or is_pointwise(layer) else "DeepPrism"


def build_operator(operator: Operator, layer: nn.Module) -> nn.Module:
    """The module that takes the place of `layer`: same geometry, device and dtype.

    A convolution of a class of its own keeps its forward, around the operator.

    Raises:
        ShapeError: the operator cannot take the place of such a layer.
    """
    base = convolution_base(layer)
    if base is not None and type(layer).forward is not base.forward:
        return within(layer, _bare_operator(operator, layer))
    return _bare_operator(operator, layer)


def stand_in(layer: nn.Module) -> nn.Module:
    """A layer with its geometry, and without memory for its weights."""
    made = copy.copy(layer)
    made._parameters = {
        name: None if p is None else nn.Parameter(p.detach().to("meta"), requires_grad=False)
        for name, p in layer._parameters.items()
    }
    return made


def refusal(operator: Operator, layer: nn.Module) -> str | None:
    """Why the operator's own constructor would not take the place of `layer`, or None: asked on `meta`, for nothing."""
    try:
        build_operator(operator, stand_in(layer))
    except ShapeError as error:
        return str(error)
    return None


def is_transposed_linear(layer: nn.Module | None) -> bool:
    """Whether a module is transformers' `Conv1D`: a linear layer whose weight is (in, out)."""
    if layer is None or type(layer).__name__ != "Conv1D":
        return False
    weight = layer._parameters.get("weight")
    return weight is not None and weight.dim() == 2 and getattr(layer, "nf", None) == weight.shape[1]


def convolution_base(layer: nn.Module) -> type[nn.Module] | None:
    """Which of torch's convolutions a module is, or is derived from; None for none."""
    return next((base for base in _BY_CONVOLUTION if isinstance(layer, base)), None)


def _prism(operator: Operator, layer: nn.Module) -> nn.Module | None:
    """In the place of a linear layer, of transformers' transposed one, or of a pointwise convolution; else None."""
    asked: dict[str, Any] = {
        "volumes": operator.volumes,
        "topology": operator.topology,
        "bias": operator.bias_kind,
        "interleave": operator.interleave,
    }
    if isinstance(layer, nn.Linear):
        return Prism.from_linear(layer, kernel_size=operator.channel_kernel_size, **asked)
    if isinstance(layer, (nn.Conv1d, nn.Conv2d, nn.Conv3d)):
        return Prism.from_conv(layer, kernel_size=operator.channel_kernel_size, **asked)
    if not is_transposed_linear(layer):
        return None
    weight = cast(Tensor, layer.weight)
    if layer._parameters.get("bias") is None:
        asked["bias"] = None
    channels_in, channels_out = weight.shape
    made = Prism(
        channels_in, channels_out, operator.channel_kernel_size, **asked, device=weight.device, dtype=weight.dtype
    )
    made.__dict__.update(nx=channels_in, nf=channels_out)  # what callers of a Conv1D read
    return made.train(layer.training)


def _bare_operator(operator: Operator, layer: nn.Module) -> nn.Module:
    if operator.by_options:
        return build_own(operator.type, operator.options, layer)
    if operator.channel_dilation != 1 and operator.type != "DeepPrism":
        raise ShapeError(f"only a DeepPrism has a channel dilation, not a {operator.type}")
    if operator.type == "Prism" and (made := _prism(operator, layer)) is not None:
        return made
    if operator.type == "PrismMultihead" and isinstance(layer, nn.MultiheadAttention):
        if layer.embed_dim % operator.volumes[1] or operator.volumes[0] != operator.volumes[1]:
            raise ShapeError(f"{layer.embed_dim} channels are not {operator.volumes} volumes of one depth")
        return PrismMultihead.from_multihead(
            layer,
            projections=operator.projections,
            depth=layer.embed_dim // operator.volumes[1],
            kernel_size=operator.channel_kernel_size,
            topology=operator.topology,
            bias=operator.bias_kind,
        )
    if operator.interleave != 1:
        raise ShapeError(f"only a Prism interleaves its volumes, not a {operator.type}")
    base = convolution_base(layer)
    if operator.type == "DeepPrism" and base is not None:
        form = _BY_CONVOLUTION[base]
        more = {} if operator.channel_dilation == 1 else {"channel_dilation": operator.channel_dilation}
        if more and form.transposed:
            raise ShapeError("a transposed DeepPrism has no channel dilation")
        converted: nn.Module = form.from_conv(
            layer,
            channel_kernel_size=operator.channel_kernel_size,
            volumes=operator.volumes,
            topology=operator.topology,
            bias=operator.bias_kind,
            **more,
        )
        return converted
    if operator.type == "PrismConv" and isinstance(layer, nn.Conv2d):
        if tuple(operator.volumes) != (1, 1):
            raise ShapeError("a PrismConv has one volume on each side")
        return PrismConv.from_conv2d(
            layer,
            form=operator.form,
            channel_kernel_size=operator.channel_kernel_size,
            topology=operator.topology,
            bias=operator.bias_kind,
        )
    raise ShapeError(f"{operator.type} cannot take the place of a {type(layer).__name__}")
