"""How the tensors of a model are named inside a larger checkpoint: prefixes, wrappers, averaged (EMA) weights."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from torch import Tensor

from ..errors import SourceError

#: What training scripts keep beside a model, and no model needs.
_BESIDE = ("loss.", "model_ema.", "ema_model.", "ema.")
#: Prefixes of averaged weights whose names are otherwise the model's own.
_EMA_PREFIXES = ("ema_model.", "model_ema.module.", "model_ema.", "ema.")
_LDM_EMA = "model_ema."
_LDM_COUNTERS = ("model_ema.decay", "model_ema.num_updates")
#: Modules that wrap others, by the attribute that holds what they wrap.
_WRAPPERS = ("_orig_mod", "_checkpoint_wrapped_module", "_fsdp_wrapped_module", "_forward_module", "module")
_MOST_SHOWN = 6
T = TypeVar("T")


@dataclass(frozen=True)
class Selection:
    """Which of the tensors of a checkpoint a person wants.

    Args:
        prefix: of the wanted model's names; found by itself when None.
        ema: the averaged weights instead of the raw ones.
        variant: of a folder's files, such as fp16.
    """

    prefix: str | None = None
    ema: bool = False
    variant: str | None = None


def groups(names: Iterable[str]) -> dict[str, int]:
    """The prefixes under which tensors lie together, with their numbers, the largest first.

    Example:
        >>> groups(["model.diffusion_model.a.weight", "model.diffusion_model.b.weight", "first.c", "first.d", "betas"])
        {'model.diffusion_model.': 2, 'first.': 2, 'betas': 1}
    """
    found: dict[str, list[str]] = {}
    for name in names:
        head, dot, _ = name.partition(".")
        found.setdefault(head + dot, []).append(name)
    counted = {_lengthened(prefix, members): len(members) for prefix, members in found.items()}
    return dict(sorted(counted.items(), key=lambda item: -item[1]))


def groups_text(names: Iterable[str]) -> str:
    """One line of the groups and how many tensors each holds."""
    found = groups(names)
    shown = [f"{prefix} ({count} tensor{'s' * (count != 1)})" for prefix, count in list(found.items())[:_MOST_SHOWN]]
    rest = sum(list(found.values())[_MOST_SHOWN:])
    return ", ".join(shown) + (f" and {rest} more" if rest else "")


def find_prefix(state: Mapping[str, Tensor], expected: Mapping[str, Tensor], wanted: str | None, where: str) -> str:
    """The prefix under which `state` holds the tensors of a model; "" where they lie bare or nothing fits.

    Raises:
        SourceError: `wanted` is there under no name, or several prefixes fit.
    """
    if wanted is not None:
        wanted = wanted if not wanted or wanted.endswith(".") else f"{wanted}."
        if not any(name.startswith(wanted) for name in state):
            raise SourceError(f"{where} holds no names that begin with {wanted!r}; it holds {groups_text(state)}")
        return wanted
    if not expected or expected.keys() & state.keys():
        return ""
    fits = {prefix: _fit(state, expected, prefix) for prefix in _candidates(state, expected)}
    best = max(fits.values(), default=0)
    if best < len(expected) / 2:
        return ""
    found = [prefix for prefix, fit in fits.items() if fit == best]
    raw = [prefix for prefix in found if not any(part in prefix for part in ("ema", "average"))]
    found = raw or found
    if len(found) > 1:
        counts = ", ".join(f"{prefix} ({sum(n.startswith(prefix) for n in state)} tensors)" for prefix in sorted(found))
        raise SourceError(f"{where} holds the model more than once: {counts}; choose one with --prefix")
    return found[0]


def under_prefix(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors under a prefix without it; for none, all but what training scripts keep beside a model."""
    if prefix:
        return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
    return dict(state)


def without_beside(state: Mapping[str, Tensor], expected: Iterable[str]) -> dict[str, Tensor]:
    """`state` less the groups that training scripts keep beside a model, where the model itself has none of them."""
    heads = {name.partition(".")[0] + "." for name in expected}
    drop = tuple(prefix for prefix in _BESIDE if prefix not in heads)
    return {name: value for name, value in state.items() if not name.startswith(drop)}


def without_wrappers(state: Mapping[str, T], expected: Iterable[str]) -> dict[str, T]:
    """`state` under names without the words that wrappers put inside them, where the model's own have none.

    torch.compile, activation checkpoints, FSDP and DataParallel around a part of a model. Words at the head, of what
    wraps the whole, stay: they set the model apart from what lies beside it (`find_prefix`).

    Example:
        >>> without_wrappers({"module.encoder._orig_mod.0.weight": 1}, ["encoder.0.weight"])
        {'module.encoder.0.weight': 1}
    """
    own = {part for name in expected for part in name.split(".")}
    words = [word for word in _WRAPPERS if word not in own]
    found: dict[str, T] = {}
    for name, value in state.items():
        *path, leaf = name.split(".")
        head = next((i for i, part in enumerate(path) if part not in words), len(path))
        kept = [*path[:head], *(part for part in path[head:] if part not in words), leaf]
        found[".".join(kept)] = value
    return found if len(found) == len(state) else dict(state)  # two wrappers of one model: a person chooses


def averaged(state: Mapping[str, Tensor], where: str) -> dict[str, Tensor]:
    """`state` with the averaged weights in the place of the raw ones.

    Latent diffusion's `LitEma` keeps them under the raw names without their dots.

    Raises:
        SourceError: it holds none, or some that belong to no weight.
    """
    flat = {name.removeprefix(_LDM_EMA): value for name, value in state.items()
            if name.startswith(_LDM_EMA) and name not in _LDM_COUNTERS}  # fmt: skip
    if flat and not any("." in name for name in flat):
        result, used = {}, set()
        for name, value in state.items():
            if name.startswith(_LDM_EMA):
                continue
            mangled = next((m for m in _mangled(name) if m in flat), None)
            result[name] = value if mangled is None else flat[mangled]
            used |= {mangled} - {None}
        if left := sorted(flat.keys() - used):
            raise SourceError(f"{where}: the averaged {left[0]} belongs to no weight of the checkpoint")
        return result
    for prefix in _EMA_PREFIXES:
        if found := under_prefix({n: v for n, v in state.items() if n.startswith(prefix)}, prefix):
            return found
    raise SourceError(f"{where} holds no averaged (EMA) weights: drop --ema; it holds {groups_text(state)}")


def _mangled(name: str) -> tuple[str, str]:
    return name.removeprefix("model.").replace(".", ""), name.replace(".", "")


def _lengthened(prefix: str, members: list[str]) -> str:
    """`prefix` with as many more parts as all members share, up to their own names."""
    while prefix.endswith("."):
        parts = {name.removeprefix(prefix).partition(".")[:2] for name in members}
        if len(parts) > 1:
            break
        head, dot = next(iter(parts))
        if not dot:
            break
        prefix += head + dot
    return prefix


def _candidates(state: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> set[str]:
    """What stands before the longest few of the expected names."""
    anchors = sorted(expected, key=len, reverse=True)[:3]
    return {name[: -len(anchor)] for anchor in anchors for name in state if name.endswith(f".{anchor}")}


def _fit(state: Mapping[str, Tensor], expected: Mapping[str, Tensor], prefix: str) -> int:
    """How many of the expected tensors are there under a prefix, in the right shape."""
    return sum(
        (value := state.get(prefix + name)) is not None and value.shape == tensor.shape
        for name, tensor in expected.items()
    )
