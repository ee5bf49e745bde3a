"""The tensors of a model: which are saved, which are one, how they lie in memory, and what puts them back."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import SourceError
from ..layouts import find_prefix, groups_text, under_prefix, without_beside, without_wrappers

_COUNTER, _MEAN = "num_batches_tracked", "running_mean"


def fit_weights(
    model: nn.Module,
    state: Mapping[str, Tensor],
    where: str,
    *,
    shapes: bool = False,
    prefix: str | None = None,
    rename: Callable[[dict[str, Tensor]], dict[str, Tensor] | None] | None = None,
    modernise: Callable[[dict[str, Tensor]], dict[str, Tensor]] | None = None,
) -> tuple[dict[str, Tensor], str]:
    """Give `model` (real or on `meta`) the tensors of `state`: every key, every shape, the file's dtypes.

    Tied weights stay tied, and may be missing from `state` under all names but one. The prefix under which a
    larger checkpoint keeps the model is found, and what training scripts keep beside it is left.

    Args:
        shapes: `state` lies on `meta`, and so will the model.
        prefix: of the model's names in `state`, where the right one is not to be found.
        modernise: brings names of an older release of the model's library up to date.
        rename: brings the whole of `state` to the model's names where it holds none of them; None where it cannot.

    Returns:
        the tensors by the model's names, and the prefix that was dropped.

    Raises:
        SourceError: keys or shapes differ; the first three are named with both shapes; or the model is there twice.
    """
    expected = _saved(model)
    state = without_wrappers(state, expected)
    prefix = prefix and next(iter(without_wrappers({f"{prefix.rstrip('.')}.": 0}, expected)))
    found = find_prefix(state, expected, prefix, where)
    everything, state = state, under_prefix(state, found)
    if rename is not None and len(expected.keys() & state.keys()) < len(expected) / 2:
        state = rename(state) or rename(dict(everything)) or state
    if modernise is not None:
        state = modernise(dict(state))
    state = _without_wrapper(without_beside(state, expected), expected)
    for name in expected:  # batch norms had no counter before torch 0.4.1
        if name.endswith(_COUNTER) and name not in state and name.replace(_COUNTER, _MEAN) in state:
            state[name] = torch.tensor(0, device="meta" if shapes else "cpu")
    tied = [sorted(names, key=lambda name: name not in expected) for names in _aliases(_all_tensors(model))]
    for names in tied:
        present = [name for name in names if name in state]
        _check_same(present, state, where)
        state |= {name: state[present[0]] for name in names if present and name in expected and name not in state}
    _compare(expected, state, where)
    left = [name for name, tensor in state.items() if tensor.is_meta]
    if left and not shapes:
        raise SourceError(f"{where} holds no value for {left[0]}: it was saved from the meta device")
    try:
        # Not a load_state_dict of the model's own: those from before there was `assign` do not take it.
        nn.Module.load_state_dict(model, state, strict=False, assign=True)
    except Exception as error:
        raise SourceError(f"{where} does not fit the model: {' '.join(str(error).split())[:300]}") from error
    for names in tied:
        if names[0] in expected:
            _tie(model, names)
    return state, found


def _check_same(names: Sequence[str], state: Mapping[str, Tensor], where: str) -> None:
    """See that a weight that is one in the model is one in the file, under whichever of its names it is there.

    Raises:
        SourceError: two of its names hold different numbers, of which one would be lost.
    """
    first = state[names[0]] if names else None
    for name in names[1:]:
        other = state[name]
        if first is None or first.is_meta or other.is_meta or first.shape != other.shape:
            continue  # other shapes are told with the rest of the names
        if not torch.equal(first, other.to(first.dtype)):
            raise SourceError(
                f"{where} holds different numbers for {names[0]} and {name}, which are one weight in this model: "
                "remove one of them, or untie them in the model"
            )


def unique_state(model: nn.Module) -> dict[str, Tensor]:
    """The state dict with each tied tensor once and no two tensors sharing memory, ready for safetensors.

    Raises:
        SourceError: a tensor has no value.
    """
    return _separate(saved_once(model))


def separate_state(model: nn.Module) -> dict[str, Tensor]:
    """The state dict with tied tensors under all their names, each in memory of its own: what any loader reads.

    Raises:
        SourceError: a value has no form in safetensors; the message names it.
    """
    for name, value in model.state_dict(keep_vars=True).items():
        if not isinstance(value, Tensor) or value.layout is not torch.strided:
            found = f"a tensor of layout {value.layout}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
            raise SourceError(
                f"{name} of the {type(model).__name__} is {found}, which safetensors cannot hold: keep it out of the "
                "state dict, or make it a plain tensor"
            )
    return _separate(_saved(model))


def saved_once(model: nn.Module) -> dict[str, Tensor]:
    """The tensors of the state dict, tied ones under their first name."""
    saved = _saved(model)
    drop = {name for names in _aliases(saved) for name in names[1:]}
    return {name: tensor for name, tensor in saved.items() if name not in drop}


def loose_buffers(model: nn.Module) -> dict[str, Tensor]:
    """The buffers that no state dict holds (`persistent=False`), each once."""
    saved = {id(tensor) for tensor in _saved(model).values()}
    return {name: buffer for name, buffer in model.named_buffers() if id(buffer) not in saved}


def changed_buffers(model: nn.Module, fresh: nn.Module) -> dict[str, Tensor]:
    """The loose buffers of `model` that are not the same in one just built: cast, random, or computed since."""
    built = dict(fresh.named_buffers())
    changed = {name: b for name, b in loose_buffers(model).items() if not _same(b, built.get(name))}
    return _separate(changed)


def put_buffers(model: nn.Module, buffers: Mapping[str, Tensor], where: str) -> None:
    """Give a model buffers that no state dict holds, in every place the old ones stood.

    Raises:
        SourceError: the model has no module of that name.
    """
    for name, tensor in buffers.items():
        owner, _, leaf = name.rpartition(".")
        try:
            module = model.get_submodule(owner)
            old = module._buffers.get(leaf)
            module.register_buffer(leaf, tensor, persistent=False)
        except (AttributeError, KeyError) as error:
            raise SourceError(f"{where}: the model has no place for {name}") from error
        for other in model.modules() if old is not None else ():
            other._buffers.update({key: tensor for key, value in other._buffers.items() if value is old})


def strides_of(model: nn.Module) -> dict[str, list[int]]:
    """The strides of saved tensors that are dense but not laid out row by row, as channels-last ones.

    Convolutions and matrix products pick their algorithm by layout, so bit-identical results need it.
    """
    found = {}
    for name, tensor in _saved(model).items():
        if tensor.layout is not torch.strided or tensor.stride() == torch.empty(tensor.shape, device="meta").stride():
            continue
        if _dense(tensor.shape, tensor.stride()):
            found[name] = list(tensor.stride())
    return found


def lay_out(state: Mapping[str, Tensor], strides: Any, where: str) -> dict[str, Tensor]:
    """The tensors of `state` with the strides that `strides_of` noted.

    Raises:
        SourceError: the strides are not those of a dense tensor.
    """
    if not isinstance(strides, dict):
        raise SourceError(f"{where} is damaged: its strides are not an object")
    laid_out = dict(state)
    for name, stride in strides.items():
        tensor = state.get(name)
        if tensor is None:
            continue
        integers = isinstance(stride, list) and all(type(step) is int and step >= 0 for step in stride)
        if not integers or len(stride) != tensor.dim() or not _dense(tensor.shape, stride):
            raise SourceError(f"{where} is damaged: the strides of {name} are not those of a dense tensor")
        laid_out[name] = torch.empty_strided(tensor.shape, stride, dtype=tensor.dtype).copy_(tensor)
    return laid_out


def meta_names(model: nn.Module) -> list[str]:
    """Names of parameters and buffers that still have no memory."""
    return [name for name, tensor in [*model.named_parameters(), *model.named_buffers()] if tensor.is_meta]


def _saved(model: nn.Module) -> dict[str, Tensor]:
    """The tensors of the state dict themselves, so that tied ones are the same object."""
    return {k: v for k, v in model.state_dict(keep_vars=True).items() if isinstance(v, Tensor)}


def _all_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers, saved or not, under all their names."""
    return dict([*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)])


def _separate(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Contiguous copies on the CPU where needed, no two in one memory."""
    separate: dict[str, Tensor] = {}
    memory: set[int] = set()
    for name, value in tensors.items():
        if value.is_meta:
            raise SourceError(f"{name} has no value: the model lies on the meta device")
        tensor = value.detach().cpu().contiguous()
        if tensor.numel() and tensor.untyped_storage().data_ptr() in memory:
            tensor = tensor.clone()
        memory.add(tensor.untyped_storage().data_ptr())
        separate[name] = tensor
    return separate


def _without_wrapper(state: dict[str, Tensor], expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    inner = state
    while inner and not inner.keys() & expected.keys():
        heads = {name.partition(".")[0] for name in inner}
        if len(heads) > 1 or not all("." in name for name in inner):
            return state
        inner = {name.partition(".")[2]: value for name, value in inner.items()}
    return inner or state


def _compare(expected: Mapping[str, Tensor], state: Mapping[str, Tensor], where: str) -> None:
    problems = []
    if expected and state and not expected.keys() & state.keys():
        raise SourceError(
            f"{where} does not fit the model: it holds {groups_text(state)}, and none of the model's names, such as "
            f"{next(iter(expected))} {_shape(next(iter(expected.values())))}; is it another model's?"
        )
    for name in dict.fromkeys([*expected, *state]):
        if name not in state:
            problems.append(f"{name} is missing (the model has {_shape(expected[name])})")
        elif name not in expected:
            problems.append(f"{name} {_shape(state[name])} is not in the model")
        elif state[name].shape != expected[name].shape:
            problems.append(f"{name} is {_shape(state[name])}, in the model {_shape(expected[name])}")
    if problems:
        more = f"; and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise SourceError(f"{where} does not fit the model: " + "; ".join(problems[:3]) + more)


def _shape(tensor: Tensor) -> str:
    return "(" + ", ".join(map(str, tensor.shape)) + ")"


def _aliases(tensors: Mapping[str, Tensor]) -> list[list[str]]:
    """Groups of names that are one parameter or buffer."""
    groups: dict[int, list[str]] = {}
    for name, tensor in tensors.items():
        groups.setdefault(id(tensor), []).append(name)
    return [names for names in groups.values() if len(names) > 1]


def _tie(model: nn.Module, names: list[str]) -> None:
    def slot(name: str) -> tuple[dict[str, Any], str]:
        owner, _, leaf = name.rpartition(".")
        module = model.get_submodule(owner)
        return (module._parameters if leaf in module._parameters else module._buffers), leaf

    slots, leaf = slot(names[0])
    first = slots[leaf]
    for name in names[1:]:
        slots, leaf = slot(name)
        slots[leaf] = first


def _same(tensor: Tensor, other: Tensor | None) -> bool:
    if other is None or other.is_meta or tensor.is_meta:
        return other is not None and other.is_meta and tensor.is_meta
    return tensor.dtype == other.dtype and tensor.shape == other.shape and torch.equal(tensor.cpu(), other.cpu())


def _dense(shape: Sequence[int], stride: Sequence[int]) -> bool:
    expected = 1
    for step, size in sorted((t, s) for s, t in zip(shape, stride, strict=True) if s > 1):
        if step != expected:
            return False
        expected *= size
    return True
