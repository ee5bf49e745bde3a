"""What would keep a layer module from being replaced, apart from any policy."""

from __future__ import annotations

from torch import nn
from torch.nn.modules.conv import _ConvNd

from ..layers.operator import convolution_base, is_transposed_linear
from ..layers.within import WithinConvolution, can_stay_around


def is_layer(module: nn.Module | None) -> bool:
    """Whether a module is a convolution, linear or packed attention layer by itself."""
    kinds = (_ConvNd, nn.Linear, nn.MultiheadAttention)
    known = isinstance(module, kinds) and not isinstance(module, WithinConvolution)
    return known or is_transposed_linear(module)


def widths_of(module: nn.Module) -> tuple[int, int]:
    """(C_in, C_out) of a layer."""
    if isinstance(module, nn.Linear):
        return int(module.in_features), int(module.out_features)
    if isinstance(module, _ConvNd):
        return int(module.in_channels), int(module.out_channels)
    if isinstance(module, nn.MultiheadAttention):
        return module.embed_dim, module.embed_dim
    weight = module._parameters["weight"]
    assert weight is not None
    return weight.shape[0], weight.shape[1]


def obstacle_of(module: nn.Module) -> str | None:
    """Why prismify has no operator for such a module, or None when it has one."""
    base: type[nn.Module] | None
    if isinstance(module, nn.MultiheadAttention):
        return _multihead_obstacle(module)
    if isinstance(module, _ConvNd):
        base = convolution_base(module)
        assert base is not None
        if module.groups > 1:
            depthwise = module.groups == module.in_channels
            return "depthwise convolution" if depthwise else f"grouped convolution ({module.groups} groups)"
    else:
        base = nn.Linear
    if hasattr(module, "parametrizations") or any(n in module._parameters for n in ("weight_g", "weight_orig")):
        return "its weight is parametrised (weight or spectral norm, LoRA): merge or remove that first"
    if "forward" in module.__dict__:
        return "its forward was replaced on the instance"
    own = ("forward", "_conv_forward", "_output_padding")
    if is_transposed_linear(module):
        base = type(module)
    inside = isinstance(module, _ConvNd) and not module.transposed and can_stay_around(module, base)
    if not inside and any(getattr(type(module), name, None) is not getattr(base, name, None) for name in own):
        return f"{class_name(module)} computes more than a {base.__name__}"
    if set(module._parameters) != {"weight", "bias"} or module._modules or module._buffers:
        return f"{class_name(module)} holds more than a weight and a bias"
    return None


def _multihead_obstacle(module: nn.MultiheadAttention) -> str | None:
    if type(module).forward is not nn.MultiheadAttention.forward or "forward" in module.__dict__:
        return f"{class_name(module)} computes more than an nn.MultiheadAttention"
    if module.bias_k is not None or module.add_zero_attn:
        return "nn.MultiheadAttention adds a bias or a zero to its keys and values"
    known = {"in_proj_weight", "in_proj_bias", "bias_k", "bias_v", "q_proj_weight", "k_proj_weight", "v_proj_weight"}
    if hasattr(module, "parametrizations") or set(module._parameters) - known:
        return "its weight is parametrised (weight or spectral norm, LoRA): merge or remove that first"
    if set(module._modules) != {"out_proj"} or module._buffers:
        return f"{class_name(module)} holds more than its projections"
    out = obstacle_of(module.out_proj)
    return out and f"its output projection: {out}"


def kind_of(module: nn.Module) -> str:
    """ "conv2d", "conv_transpose1d", "linear" or "attention"."""
    if isinstance(module, _ConvNd):
        return f"conv{'_transpose' if module.transposed else ''}{len(module.kernel_size)}d"
    return "attention" if isinstance(module, nn.MultiheadAttention) else "linear"


def class_name(module: nn.Module) -> str:
    """The name of its class, for a reason in words."""
    return type(module).__name__
