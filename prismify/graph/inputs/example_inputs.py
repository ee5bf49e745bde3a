"""Example inputs for a model that came without any: from its signature, its config, and probing.

A guess that runs is not proof that it is what the author meant, so what was chosen is always reported.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from ...families.inputs import ARGUMENTS, CONTEXT_LENGTH, WANTED, Rule, rules_by_class
from .containers import map_tensors, named_tensors
from .hints import Hints, noise, parameters_of

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
    "cap_feat_dim",
)


@dataclass(frozen=True)
class ExampleInputs:
    """Arguments for one call of a model."""

    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)

    def tensors(self) -> list[tuple[str, Tensor]]:
        """(name, tensor) for every tensor in the arguments, in order."""
        places = [("arg" + "_".join(path), tensor) for path, tensor in named_tensors(self.args)]
        return places + [("_".join(path), tensor) for path, tensor in named_tensors(self.kwargs)]

    def map(self, function: Callable[[Tensor], Tensor]) -> ExampleInputs:
        """The same arguments with `function` applied to every tensor."""
        args, kwargs = map_tensors(function, (self.args, self.kwargs))
        return ExampleInputs(args, kwargs)

    def describe(self) -> str:
        """One line: names and shapes."""
        return ", ".join(f"{n} {'×'.join(map(str, t.shape)) or 'scalar'}" for n, t in self.tensors())


def given_inputs(args: Any, kwargs: dict[str, Any] | None) -> ExampleInputs | None:
    """The caller's own inputs, or None when there are none; a tensor or a batch object by itself is one argument."""
    if args is None and kwargs is None:
        return None
    several = args is None or (isinstance(args, (list, tuple)) and not hasattr(args, "_fields"))
    return ExampleInputs(tuple(args or ()) if several else (args,), dict(kwargs or {}))


def completed(model: nn.Module, method: str, given: ExampleInputs) -> Iterator[ExampleInputs]:
    """The caller's inputs as they are, where no required argument is left out; then with guesses for the rest."""
    if is_complete(model, method, given):
        yield given
    try:
        bound = inspect.signature(getattr(model, method)).bind_partial(*given.args, **given.kwargs).arguments
    except (TypeError, ValueError):
        return
    names = dict(parameters_of(getattr(model, method)))
    yield from candidates(model, method, given={n: v for n, v in bound.items() if n in names})


def is_complete(model: nn.Module, method: str, given: ExampleInputs) -> bool:
    """Whether no required argument is left out. Too many, or unknown ones, are the call's to complain about."""
    function = getattr(model, method)
    try:
        bound = inspect.signature(function).bind_partial(*given.args, **given.kwargs).arguments
    except (TypeError, ValueError):
        return True
    return all(n in bound or p.default is not p.empty for n, p in parameters_of(function))


def candidates(
    model: nn.Module, method: str = "forward", like: list[Tensor] | None = None, given: dict[str, Any] | None = None
) -> Iterator[ExampleInputs]:
    """Guesses for `model.<method>`, the likeliest first.

    Args:
        like: tensors to try first as the data input (for `decode`: what `encode` returned).
        given: arguments by name that are not to be guessed.
    """
    parameters, given = parameters_of(getattr(model, method)), given or {}
    hints, special = Hints(model), rules_by_class(model)
    known, unknown = _known(hints, parameters, given)
    if like and not unknown and parameters:  # a rule would guess what is already known
        known.pop(parameters[0][0], None)
        unknown = parameters[:1]
    if not unknown and not given and not any(isinstance(v, Tensor) and v.dim() >= 2 for v in known.values()):
        unknown = [(n, p) for n, p in parameters if n not in known][:1]
    dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
    batch = next((v.shape[0] for v in (*given.values(), *(like or [])) if isinstance(v, Tensor) and v.dim() > 1), 1)
    positional = [n for n, p in parameters if p.kind is p.POSITIONAL_ONLY]
    for data in _data(hints, like or []) if unknown else [noise(1)]:
        guess = ExampleInputs((), {**known, **{n: data for n, _ in unknown}})
        guess = guess.map(lambda t: t.to(dtype) if t.is_floating_point() else t)
        repeated = (guess.map(lambda t: _repeated(t, batch)), guess) if batch > 1 else (guess,)
        for version in (timed for one in repeated for timed in _with_times(one, {*given, *special})):
            values = {n: {**version.kwargs, **given}.get(n) for n, _ in parameters if n in version.kwargs or n in given}
            yield ExampleInputs(tuple(values.pop(n) for n in positional if n in values), values)


def _with_times(guess: ExampleInputs, settled: Collection[str]) -> Iterator[ExampleInputs]:
    """A guess, and again with whole numbers as times, which models that look times up in a table need."""
    yield guess
    times = {n: v for n, v in guess.kwargs.items() if n in TIME_NAMES and n not in settled and isinstance(v, Tensor)}
    if times:
        yield ExampleInputs(guess.args, {**guess.kwargs, **{name: value.long() for name, value in times.items()}})


def _repeated(tensor: Tensor, batch: int) -> Tensor:
    """A guess made for one picture, for as many as were given."""
    if tensor.dim() == 0 or tensor.shape[0] != 1:
        return tensor
    return tensor.repeat(batch, *[1] * (tensor.dim() - 1))


def _known(
    hints: Hints, parameters: list[tuple[str, inspect.Parameter]], given: dict[str, Any]
) -> tuple[dict[str, Any], list[tuple[str, inspect.Parameter]]]:
    """The arguments that rules fill in, and the required ones that none does."""
    special = rules_by_class(hints.model)
    rules: dict[str, Rule] = {**RULES, **special}
    known: dict[str, Any] = {}
    unknown = []
    for name, parameter in parameters:
        required = parameter.default is inspect.Parameter.empty
        if name in given or not (required or name in _WANTED or name in WANTED or name in special):
            continue
        value = rules[name](hints) if name in rules else None
        if value is not None:
            known[name] = value
        elif required:
            unknown.append((name, parameter))
    return known, unknown


def inputs_with(model: nn.Module, data: Tensor, method: str = "forward") -> ExampleInputs:
    """Inputs for `model.<method>` in which the data is given and the rest (time, class, text) is guessed."""
    return next(candidates(model, method, [data]))


def _timestep(value: float) -> Rule:
    return lambda hints: torch.full((1,), value)


def _context(hints: Any) -> Tensor | None:
    width = hints.number(*_CONTEXT_WIDTHS)
    return noise(1, CONTEXT_LENGTH, width) if width else None


def _context_mask(hints: Any) -> Tensor | None:
    return torch.ones(1, CONTEXT_LENGTH, dtype=torch.long) if hints.number(*_CONTEXT_WIDTHS) else None


def _class_labels(hints: Any) -> Tensor | None:
    wanted = hints.get("num_class_embeds", "class_embed_type", "num_embeds_ada_norm", "num_classes")
    return torch.zeros(1, dtype=torch.long) if wanted else None


#: Names of arguments, whatever the library: of the time of a denoiser, a class, a text's tokens.
TIME_NAMES = ("timestep", "timesteps", "t", "time", "sigma", "noise_labels", "noise_level")
CLASS_NAMES = ("class_labels", "class_label", "labels", "y")
CONTEXT_NAMES = ("encoder_hidden_states", "context", "text_embeds", "txt")
#: What arguments of these names are.
RULES: dict[str, Rule] = {
    **ARGUMENTS,
    **dict.fromkeys(TIME_NAMES, _timestep(5.0)),
    **dict.fromkeys(("r", "timestep_ratio"), _timestep(0.5)),
    **dict.fromkeys(CLASS_NAMES, _class_labels),
    **dict.fromkeys(CONTEXT_NAMES, _context),
    **dict.fromkeys(("encoder_attention_mask", "encoder_hidden_states_mask"), _context_mask),
}
#: Optional arguments that are filled in all the same, because models need them though they default to None.
_WANTED = {"timestep", "timesteps", "class_labels", "y", "encoder_hidden_states", "context"}


def _data(hints: Hints, like: list[Tensor]) -> Iterator[Tensor]:
    """The data input: what is known, then images, video, sequences, and token ids."""
    yield from like
    tokens = (torch.zeros(1, 8, 8, dtype=torch.long), torch.zeros(1, 8, dtype=torch.long))
    if not hints.convolutions and any(isinstance(m, nn.Embedding) for m in hints.model.modules()):
        yield from reversed(tokens)
    yield from (noise(*shape) for shape in _shapes(hints) if prod(shape) <= _LARGEST)
    yield from tokens


def _shapes(hints: Hints) -> Iterator[tuple[int, ...]]:
    declared = hints.get("pretrained_cfg") or {}
    if isinstance(declared, dict) and isinstance(declared.get("input_size"), (list, tuple)):
        yield (1, *declared["input_size"])
    # A norm over whole pictures tells their size.
    norms = (m.normalized_shape for m in hints.model.modules() if isinstance(m, nn.LayerNorm))
    yield from ((1, *shape) for shape in dict.fromkeys(norms) if len(shape) == 3)
    named = hints.number("in_channels", "num_channels")
    channels = _unique([named, *map(_in_channels, hints.convolutions[:3]), 3, 4, 1])
    wanted = hints.number("sample_size", "image_size", "img_size")
    sizes = _unique([wanted if wanted and wanted <= 64 else None, 32, 64, wanted, 16, 224, 256, 8, 1])
    linears = [m.in_features for m in hints.model.modules() if isinstance(m, nn.Linear)]
    sequences = [s for w in _unique([hints.number("in_channels"), *linears[:3]]) for s in ((1, 16, w), (1, w))]
    if not hints.convolutions:
        yield from sequences
    dims = _unique([*(c.weight.dim() - 2 for c in hints.convolutions[:1]), 2, 3, 1])
    # The likeliest width first in every dimension: video models often begin with a 2-D convolution.
    first = [(d, channels[0], s) for d in dims for s in (sizes if d == dims[0] else sizes[:2])]
    if dims[0] == 1:  # sound
        first = [(1, channels[0], s) for s in _unique([hints.number("sample_size"), 64, 1024, 16384])] + first
    for dim, width, size in dict.fromkeys([*first, *((d, c, s) for d in dims for c in channels for s in sizes)]):
        frames = ((5,), (4,)) if dim == 3 else ((),)
        yield from ((1, width, *f, *[size] * min(dim, 2)) for f in frames)
    yield from sequences


def _in_channels(conv: nn.modules.conv._ConvNd) -> int:
    return int(conv.weight.shape[0] if conv.transposed else conv.weight.shape[1] * conv.groups)


def _unique(values: list[int | None]) -> list[int]:
    return [v for v in dict.fromkeys(values) if v]
