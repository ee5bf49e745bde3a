"""Example inputs for a model that came without any: from its signature, its config, and probing.

A guess that runs is not proof that it is what the author meant, so what was chosen is always reported.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

#: Sequence length of text and other context inputs. A prime, so that it cannot be taken for another axis.
CONTEXT_LENGTH = 7
#: Numbers in the largest data input that is tried.
_LARGEST = 1 << 22
_CONTEXT_WIDTHS = (
    "encoder_hid_dim",
    "caption_channels",
    "joint_attention_dim",
    "text_embed_dim",
    "text_dim",
    "cross_attention_dim",
    "encoder_hidden_size",
    "conditioning_dim",
)


@dataclass(frozen=True)
class ExampleInputs:
    """Arguments for one call of a model."""

    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)

    def tensors(self) -> list[tuple[str, Tensor]]:
        """(name, tensor) for every tensor in the arguments, in order."""
        leaves = pytree.tree_flatten_with_path((self.args, self.kwargs))[0]
        named = []
        for path, value in leaves:
            if isinstance(value, Tensor):
                keys = [str(getattr(k, "key", getattr(k, "idx", k))) for k in path[1:]]
                named.append(("_".join(keys) if not keys[0].isdigit() else "arg" + "_".join(keys), value))
        return named

    def map(self, function: Callable[[Tensor], Tensor]) -> ExampleInputs:
        """The same arguments with `function` applied to every tensor."""
        args, kwargs = pytree.tree_map(lambda v: function(v) if isinstance(v, Tensor) else v, (self.args, self.kwargs))
        return ExampleInputs(args, kwargs)

    def describe(self) -> str:
        """One line: names and shapes."""
        return ", ".join(f"{n} {'×'.join(map(str, t.shape)) or 'scalar'}" for n, t in self.tensors())


def given_inputs(args: tuple[Any, ...] | Tensor | None, kwargs: dict[str, Any] | None) -> ExampleInputs | None:
    """The caller's own inputs, or None when there are none."""
    if args is None and kwargs is None:
        return None
    args = (args,) if isinstance(args, Tensor) else args  # one tensor, not a batch of arguments
    return ExampleInputs(tuple(args or ()), dict(kwargs or {}))


def candidates(model: nn.Module, method: str = "forward", like: list[Tensor] | None = None) -> Iterator[ExampleInputs]:
    """Guesses for `model.<method>`, the likeliest first.

    Args:
        like: tensors to try first as the data input (for `decode`: what `encode` returned).
    """
    hints = _Hints(model)
    known, unknown = {}, []
    if not _parameters(getattr(model, method)):
        yield ExampleInputs()
        return
    for name, parameter in _parameters(getattr(model, method)):
        required = parameter.default is inspect.Parameter.empty
        rule = _RULES.get(name) if required or name in _WANTED else None
        value = rule(hints) if rule else None
        if value is not None:
            known[name] = value
        elif required:
            unknown.append((name, parameter))
    if not unknown and not any(isinstance(v, Tensor) and v.dim() >= 3 for v in known.values()):
        unknown = [(n, p) for n, p in _parameters(getattr(model, method)) if n not in known][:1]
    dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
    for data in _data(hints, like or []):
        positional = tuple(data for _, p in unknown if p.kind is p.POSITIONAL_ONLY)
        named = {n: data for n, p in unknown if p.kind is not p.POSITIONAL_ONLY}
        inputs = ExampleInputs(positional, {**named, **known})
        yield inputs.map(lambda t: t.to(dtype) if t.is_floating_point() else t)


def inputs_with(model: nn.Module, data: Tensor, method: str = "forward") -> ExampleInputs:
    """Inputs for `model.<method>` in which the data is given and the rest (time, class, text) is guessed."""
    return next(candidates(model, method, [data]))


class _Hints:
    """What a model's config and first layers say about its inputs."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.config: Any = getattr(model, "config", None)
        self.convolutions = [
            m for m in model.modules() if isinstance(m, nn.modules.conv._ConvNd) and m.weight is not None
        ]

    def get(self, *keys: str) -> Any:
        """The first of `keys` that the config, or the model itself, has set."""
        for key in keys:
            value = self.config.get(key) if hasattr(self.config, "get") else getattr(self.config, key, None)
            if value is None:
                value = getattr(self.model, key, None)
            if isinstance(value, (nn.Module, Tensor)) or callable(value):
                value = None
            if isinstance(value, (list, tuple)):
                value = value[0] if value else None
            if value is not None:
                return value
        return None

    def number(self, *keys: str) -> int | None:
        value = self.get(*keys)
        return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None

    def size(self, largest: int = 64) -> int:
        return min(self.number("sample_size", "image_size", "img_size") or 32, largest)


def _parameters(function: Any) -> list[tuple[str, inspect.Parameter]]:
    # `inspect.signature` follows decorators' __wrapped__, which `__code__` does not.
    try:
        parameters = inspect.signature(function).parameters
    except ValueError:
        parameters = inspect.signature(lambda x: x).parameters
    return [(n, p) for n, p in parameters.items() if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]


def noise(*shape: int) -> Tensor:
    """Standard normal numbers, the same every time, without touching the global random state."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def _timestep(value: float) -> Callable[[_Hints], Tensor]:
    return lambda hints: torch.full((1,), value)


def _context(hints: _Hints) -> Tensor | None:
    width = hints.number(*_CONTEXT_WIDTHS)
    return noise(1, CONTEXT_LENGTH, width) if width else None


def _context_mask(hints: _Hints) -> Tensor | None:
    return torch.ones(1, CONTEXT_LENGTH) if hints.number(*_CONTEXT_WIDTHS) else None


def _class_labels(hints: _Hints) -> Tensor | None:
    wanted = hints.get("num_class_embeds", "class_embed_type", "num_embeds_ada_norm", "num_classes")
    return torch.zeros(1, dtype=torch.long) if wanted else None


def _pooled(*keys: str) -> Callable[[_Hints], Tensor | None]:
    def rule(hints: _Hints) -> Tensor | None:
        width = hints.number(*keys)
        return noise(1, width) if width else None

    return rule


def _image_tokens(hints: _Hints) -> Tensor | None:
    """Flux takes the image as packed tokens: (B, N, in_channels), with the ids of N = 4×4 positions."""
    width = hints.number("in_channels")
    has_ids = "img_ids" in dict(_parameters(hints.model.forward))
    return noise(1, 16, width) if width and has_ids else None


def _added_conditions(hints: _Hints) -> dict[str, Any] | None:
    kind = hints.get("addition_embed_type")
    if kind == "text_time":
        ids = hints.number("addition_time_embed_dim") or 0
        width = (hints.number("projection_class_embeddings_input_dim") or 0) - 6 * ids
        return {"text_embeds": noise(1, width), "time_ids": torch.zeros(1, 6)} if width > 0 else None
    if kind in ("image", "image_hint"):
        size = 8 * hints.size()
        return {
            "image_embeds": noise(1, hints.number("encoder_hid_dim") or 1),
            "hint": noise(1, 3, size, size),
        }
    if hints.get("use_additional_conditions") is not None:
        if hints.get("use_additional_conditions"):
            return {"resolution": torch.ones(1, 2), "aspect_ratio": torch.ones(1, 1)}
        return {"resolution": None, "aspect_ratio": None}
    return None


def _control(hints: _Hints) -> Tensor:
    """A ControlNet's picture is eight times the size of its latents."""
    size = 8 * hints.size()
    return noise(1, hints.number("conditioning_channels") or 3, size, size)


_RULES: dict[str, Callable[[_Hints], Any]] = {
    **dict.fromkeys(("timestep", "timesteps", "t", "time", "sigma", "noise_labels", "noise_level"), _timestep(5.0)),
    **dict.fromkeys(("r", "timestep_ratio"), _timestep(0.5)),
    "guidance": lambda hints: torch.full((1,), 5.0) if hints.get("guidance_embeds") else None,
    **dict.fromkeys(("class_labels", "class_label", "labels", "y"), _class_labels),
    **dict.fromkeys(("encoder_hidden_states", "context", "text_embeds", "txt"), _context),
    **dict.fromkeys(("encoder_attention_mask", "encoder_hidden_states_mask"), _context_mask),
    "pooled_projections": _pooled("pooled_projection_dim"),
    "pooled_text_emb": _pooled("cond_embed_dim"),
    "proj_embedding": _pooled("embedding_proj_dim", "embedding_dim"),
    "hidden_states": _image_tokens,
    "img_ids": lambda hints: torch.zeros(16, 3),
    "txt_ids": lambda hints: torch.zeros(CONTEXT_LENGTH, 3),
    "added_cond_kwargs": _added_conditions,
    "controlnet_cond": _control,
    "num_frames": lambda hints: 1,
}
#: Optional arguments that are filled in all the same, because models need them though they default to None.
_WANTED = {
    "timestep",
    "class_labels",
    "encoder_hidden_states",
    "pooled_projections",
    "added_cond_kwargs",
    "guidance",
    "img_ids",
    "txt_ids",
}


def _data(hints: _Hints, like: list[Tensor]) -> Iterator[Tensor]:
    """The data input: what is known, then images, video, sequences, and token ids."""
    yield from like
    tokens = (torch.zeros(1, 8, 8, dtype=torch.long), torch.zeros(1, 8, dtype=torch.long))
    if not hints.convolutions and any(isinstance(m, nn.Embedding) for m in hints.model.modules()):
        yield from reversed(tokens)
    yield from (noise(*shape) for shape in _shapes(hints) if prod(shape) <= _LARGEST)
    yield from tokens


def _shapes(hints: _Hints) -> Iterator[tuple[int, ...]]:
    declared = hints.get("pretrained_cfg") or {}
    if isinstance(declared, dict) and isinstance(declared.get("input_size"), (list, tuple)):
        yield (1, *declared["input_size"])
    named = hints.number("in_channels", "num_channels")
    channels = _unique([named, *map(_in_channels, hints.convolutions[:3]), 3, 4, 1])
    wanted = hints.number("sample_size", "image_size", "img_size")
    sizes = _unique([wanted if wanted and wanted <= 64 else None, 32, 64, wanted, 16, 224, 256, 8, 1])
    linears = [m.in_features for m in hints.model.modules() if isinstance(m, nn.Linear)]
    sequences = [s for w in _unique([hints.number("in_channels"), *linears[:3]]) for s in ((1, 16, w), (1, w))]
    if not hints.convolutions:
        yield from sequences
    for dim in _unique([*(c.weight.dim() - 2 for c in hints.convolutions[:1]), 2, 3, 1]):
        for width in channels:
            for size in sizes:
                frames = ((5,), (4,)) if dim == 3 else ((),)
                yield from ((1, width, *f, *[size] * min(dim, 2)) for f in frames)
    yield from sequences


def _in_channels(conv: nn.modules.conv._ConvNd) -> int:
    return int(conv.weight.shape[0] if conv.transposed else conv.weight.shape[1] * conv.groups)


def _unique(values: list[int | None]) -> list[int]:
    return [v for v in dict.fromkeys(values) if v]
