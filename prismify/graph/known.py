"""Values that fake tensors lack but that depend on neither weights nor data: masks, ids, lengths, tables of positions.

Models branch on them and cut by them (`mask.sum().tolist()`, `nonzero`), which shapes alone cannot answer.
They are small and follow from the example inputs, so they are computed for real beside the fake ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensor,
    unset_fake_temporarily,
)
from torch.utils import _pytree as pytree

#: Numbers in the largest tensor that is followed.
_LARGEST = 1 << 16
_ATTRIBUTE = "_prismify_value"


def remember(fake: Tensor, tensor: Tensor) -> None:
    """Note on a fake tensor the value it stands for, where that is a mask or ids; floating tensors are data."""
    if not (tensor.is_meta or tensor.is_floating_point() or tensor.is_complex()) and tensor.numel() <= _LARGEST:
        setattr(fake, _ATTRIBUTE, tensor)


class KnownValues:
    """The known values behind the fake tensors of one run, by identity; whoever uses it keeps the tensors alive."""

    def __init__(self, model: nn.Module, inputs: list[Tensor]) -> None:
        tensors = [*inputs, *model.parameters(), *model.buffers()]
        self._fake = any(isinstance(t, FakeTensor) for t in tensors)
        self._values: dict[int, Tensor] = {}
        self._overwritten: set[int] = set()  # storages that something unknown was written to
        for tensor in tensors:
            value = getattr(tensor, _ATTRIBUTE, None)
            if value is not None:
                with unset_fake_temporarily():
                    self._values[id(tensor)] = value.clone()

    def run(self, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], written: list[Tensor]) -> Any:
        """`func(*args, **kwargs)`; where only a known value can tell the result, that one."""
        if not self._fake:
            return func(*args, **kwargs)
        try:
            out = func(*args, **kwargs)
        except (DataDependentOutputException, DynamicOutputShapeException):
            real = self._compute(func, args, kwargs)
            if real is None:
                return self._by_indices(func, args, kwargs)
            out = pytree.tree_map(lambda v: _empty_like(v) if isinstance(v, Tensor) else v, real)
            self._keep(out, real)
            return out
        if all(t.numel() <= _LARGEST for t in _tensors(out)):
            real = self._compute(func, args, kwargs)
            if real is not None:
                self._keep(out, real)
                return out
        self._overwritten.update(t.untyped_storage()._cdata for t in written)
        return out

    def _value(self, tensor: Tensor) -> Tensor | None:
        if not isinstance(tensor, FakeTensor):
            return tensor if tensor.numel() <= _LARGEST and not tensor.is_meta else None
        known = self._values.get(id(tensor))
        return None if known is None or tensor.untyped_storage()._cdata in self._overwritten else known

    def _compute(self, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """The result on real values; None where one of them is not known."""
        flat, spec = pytree.tree_flatten((args, dict(kwargs)))
        if torch.Tag.nondeterministic_seeded in func.tags:
            return None
        if any(isinstance(v, torch.device) and v.type != "cpu" for v in flat):
            return None
        real = [self._value(v) if isinstance(v, Tensor) else v for v in flat]
        if any(value is None and isinstance(v, Tensor) for v, value in zip(flat, real, strict=True)):
            return None
        real_args, real_kwargs = pytree.tree_unflatten(real, spec)
        try:
            with unset_fake_temporarily():
                return func(*real_args, **real_kwargs)
        except Exception:  # an operator that real tensors do not have: the fake result stands
            return None

    def _keep(self, out: Any, real: Any) -> None:
        for fake, value in zip(_tensors(out), _tensors(real), strict=False):
            if isinstance(fake, FakeTensor) and fake.shape == value.shape:
                self._values[id(fake)] = value

    def _by_indices(self, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """`x[mask]` with a known mask, as a look-up at the mask's positions; anything else asks in vain again."""
        if func is not torch.ops.aten.index.Tensor:
            return func(*args, **kwargs)
        positions: list[Tensor | None] = []
        for index in args[1]:
            value = self._value(index) if isinstance(index, Tensor) and index.dtype == torch.bool else None
            if value is None:
                positions.append(index)
                continue
            with unset_fake_temporarily():
                found = value.nonzero(as_tuple=True)
            positions += [_empty_like(p) for p in found]
        return func(args[0], positions)


def _empty_like(value: Tensor) -> Tensor:
    """A fake tensor of the same form: the fake mode is on."""
    return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype)


def _tensors(value: Any) -> list[Tensor]:
    return [t for t in pytree.tree_leaves(value) if isinstance(t, Tensor)]
