"""Inputs inside whatever people pass their models are found, run on copies, and left as they were."""

from __future__ import annotations

import collections
import dataclasses
import types
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from prismify import convert, scan
from prismify.graph.inputs import map_tensors, named_tensors, tensors_in
from tests.graph.nets import Chain
from tests.graph.test_results import CHAIN


class Ordered(collections.OrderedDict):
    pass


class Named(collections.UserDict):
    pass


class WithArguments(collections.OrderedDict):
    """Cannot be made from nothing."""

    def __init__(self, image: Tensor, name: str) -> None:
        super().__init__(image=image)
        self.name = name


class Mirrored(collections.OrderedDict):
    """transformers' and pythae's outputs: what is set as an item is set as an attribute as well."""

    def __setitem__(self, key: str, value: Any) -> None:
        super().__setitem__(key, value)
        super().__setattr__(key, value)

    def __setattr__(self, key: str, value: Any) -> None:
        self[key] = value


class Frozen(Mapping):
    def __init__(self, items: dict[str, Any]) -> None:
        self._items = items

    def __getitem__(self, key: str) -> Any:
        return self._items[key]

    def __iter__(self):
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)


@dataclasses.dataclass
class Data:
    image: Tensor
    names: tuple[str, ...] = ("a",)


@dataclasses.dataclass(frozen=True, slots=True)
class FrozenData:
    image: Tensor


class Slots:
    __slots__ = ("__image", "unset")

    def __init__(self, image: Tensor) -> None:
        self.__image = image

    @property
    def image(self) -> Tensor:
        return self.__image


class Around:
    """A batch that knows itself."""

    def __init__(self, image: Tensor) -> None:
        self.image, self.me = image, self


Pair = collections.namedtuple("Pair", "image size")
MAKERS: list[Callable[[Tensor], Any]] = [
    lambda x: {"image": x}, lambda x: Ordered(image=x), lambda x: Named(image=x), lambda x: WithArguments(x, "b"),
    lambda x: Mirrored(image=x), lambda x: Frozen({"image": x}), lambda x: types.MappingProxyType({"image": x}), Data,
    FrozenData, Slots, Around, lambda x: types.SimpleNamespace(image=x), lambda x: Pair(x, 3),
    lambda x: {"image": [Data(x)]}, lambda x: Data({"image": (x,)}), lambda x: collections.defaultdict(list, image=x),
    lambda x: collections.deque([x]),
]  # fmt: skip


def image_in(batch: Any) -> Tensor:
    while not isinstance(batch, Tensor):
        if isinstance(batch, (list, tuple, collections.deque)) and not hasattr(batch, "image"):
            batch = batch[0]
        else:
            batch = batch["image"] if isinstance(batch, Mapping) else batch.image
    return batch


class TakesABatch(Chain):
    def forward(self, batch: Any) -> Tensor:
        return super().forward(image_in(batch))


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("by_name", [False, True])
def test_data_in_a_batch_object_is_the_data(make, by_name):
    x = torch.randn(1, 3, 8, 8)
    batch = make(x)
    given = ((), {"batch": batch}) if by_name else ((batch,), None)
    plan = scan(TakesABatch(), *given)
    assert {row.name: row.role for row in plan.layers} == CHAIN
    assert plan.capture[0]["inputs"][0]["shape"] == [1, 3, 8, 8]
    assert image_in(batch) is x


@pytest.mark.parametrize("make", [dict, Data, Named])
def test_a_batch_object_by_itself_is_one_argument(make):
    model, x = TakesABatch(), torch.randn(1, 3, 8, 8)
    batch = make(image=x)
    assert len(scan(model, batch).replaced) == 2
    assert convert(model, args=batch)(batch).shape == x.shape


@pytest.mark.parametrize("make", MAKERS)
def test_a_copy_is_of_the_same_kind(make):
    x = torch.randn(2)
    batch = make(x)
    copied = map_tensors(lambda t: t + 1, batch)
    assert type(copied) is type(batch)
    assert torch.equal(image_in(copied), x + 1)
    assert image_in(batch) is x
    assert [id(t) for _, t in named_tensors(batch)] == [id(x)]


def test_what_holds_no_tensor_is_passed_on():
    marker, x = object(), torch.zeros(1)
    copied = map_tensors(torch.clone, {"x": x, "marker": [marker], "model": torch.nn.Linear(1, 1)})
    assert copied["marker"][0] is marker
    assert [path for path, _ in named_tensors(copied)] == [("x",)]


def test_results_are_found_once_in_whatever_a_model_returns():
    x, y = torch.zeros(1), torch.zeros(2)
    found = list(tensors_in([Slots(x), {y}, Around(x), None, "x", torch.nn.Linear(1, 1)]))
    assert [id(t) for t in found] == [id(x), id(y)]
