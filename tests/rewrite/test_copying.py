"""Copies and replacements reach layers wherever Python holds them, or the conversion is refused with the cause."""

from __future__ import annotations

import random
import warnings
import weakref
from collections import deque
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import pytest
import torch
from torch import nn

from prismify import convert, convert_, load, save, scan
from prismify.errors import ConversionError
from prismify.plan import Plan
from tests.graph import nets
from tests.rewrite.test_rewrite import snapshot, unchanged

_CALLS: dict[str, nn.Module] = {}


class Listed(nets.Chain):
    """Runs a layer through a plain list."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = [self.body[0]]

    def forward(self, x):
        return self.tail(self.calls[0](self.head(x)))


class Closed(nets.Chain):
    """Runs a layer through a closure, a default value, a partial function or a bound forward."""

    def __init__(self, how: str) -> None:
        super().__init__()
        layer = self.body[0]
        self.call = {
            "closure": lambda x: layer(x),
            "default": lambda x, run=layer: run(x),
            "partial": partial(lambda run, x: run(x), layer),
            "list in a closure": (lambda layers: lambda x: layers[0](x))([layer]),
            "tuple in a closure": (lambda layers: lambda x: layers[0](x))((layer,)),
        }[how]

    def forward(self, x):
        return self.tail(self.call(self.head(x)))


@dataclass(slots=True)
class Slotted:
    layer: nn.Module
    seen: torch.Tensor | None = None


@dataclass(frozen=True, slots=True)
class FrozenSlotted:
    layer: nn.Module


class Named(NamedTuple):
    layer: nn.Module


class Stored(nets.Chain):
    """Runs a layer that an object or a container beside the module tree holds."""

    def __init__(self, how: str) -> None:
        super().__init__()
        layer = self.body[0]
        make, self.get = STORES[how]
        self.store = make(layer)

    def forward(self, x):
        return self.tail(self.get(self, self.store)(self.head(x)))


STORES: dict[str, tuple[Any, Any]] = {
    "slots": (Slotted, lambda net, store: store.layer),
    "frozen slots": (FrozenSlotted, lambda net, store: store.layer),
    "named tuple": (Named, lambda net, store: store.layer),
    "deque": (lambda layer: deque([layer]), lambda net, store: store[0]),
    "set": (lambda layer: {layer}, lambda net, store: next(iter(store))),
    "frozen set": (lambda layer: frozenset([layer]), lambda net, store: next(iter(store))),
    "keys": (lambda layer: {layer: 1.0}, lambda net, store: next(iter(store))),
    "keyed by layer": (lambda layer: {layer: [layer]}, lambda net, store: store[net.body[0]][0]),
    "a tuple in slots": (lambda layer: Slotted((layer,)), lambda net, store: store.layer[0]),  # type: ignore[arg-type]
}


class Elsewhere(nets.Chain):
    """Runs a layer through a global: neither a copy nor a replaced module is reached."""

    def forward(self, x):
        return self.tail(_CALLS["layer"](self.head(x)))


@pytest.mark.parametrize("function", [convert, convert_])
def test_a_conversion_that_would_run_the_original_is_refused_and_undone(function):
    model = Elsewhere()
    _CALLS["layer"] = model.body[0]
    before = snapshot(model)
    with pytest.raises(ConversionError, match=r"still runs the original's body\.0"):
        function(model)
    unchanged(model, before)


@pytest.mark.parametrize("function", [convert, convert_])
@pytest.mark.parametrize(
    "how", ["list", "closure", "default", "partial", "list in a closure", "tuple in a closure", *STORES]
)
def test_layers_that_python_functions_hold_are_replaced_with_them(how, function):
    model = Listed() if how == "list" else Stored(how) if how in STORES else Closed(how)
    x = torch.randn(1, 3, 8, 8)
    small = function(model, args=(x,))
    with torch.no_grad():
        before = small(x)
        small.body[0].weight.mul_(2)
        changed = small(x)
        if function is convert:
            for parameter in model.parameters():
                parameter.zero_()
        assert not torch.equal(before, changed)
        assert torch.equal(small(x), changed)


@pytest.mark.parametrize("how", STORES)
def test_a_refused_conversion_in_place_leaves_what_holds_a_layer_as_it_was(how, monkeypatch):
    model, x = Stored(how), torch.randn(1, 3, 8, 8)
    with torch.no_grad():
        before = model(x)
    monkeypatch.setattr("prismify.rewrite.module.verify", lambda *_: (_ for _ in ()).throw(ConversionError("no")))
    with pytest.raises(ConversionError, match="no"):
        convert_(model, args=(x,))
    with torch.no_grad():
        assert torch.equal(model(x), before)
        model.body[0].weight.zero_()
        assert not torch.equal(model(x), before)


@pytest.mark.parametrize("how", STORES)
def test_a_folder_loaded_into_a_model_reaches_what_holds_a_layer(how, tmp_path):
    torch.manual_seed(1)
    small, x = convert(Stored(how), args=(torch.randn(1, 3, 8, 8),)), torch.randn(1, 3, 8, 8)
    save(small, tmp_path / "small", reference="tests.rewrite.test_copying:Stored", arguments={"how": how})
    with torch.no_grad():
        assert torch.equal(load(tmp_path / "small", model=Stored(how))(x), small(x))


def test_a_reference_that_keeps_nothing_alive_is_followed_in_place_and_refused_in_a_copy():
    class Weak(nets.Chain):
        def __init__(self) -> None:
            super().__init__()
            self.layer = weakref.ref(self.body[0])

        def forward(self, x):
            return self.tail(self.layer()(self.head(x)))

    x = torch.randn(1, 3, 8, 8)
    with pytest.raises(ConversionError, match=r"still runs the original's body\.0"):
        convert(Weak(), args=(x,))
    small = convert_(Weak(), args=(x,))
    assert small.layer() is small.body[0]


def test_what_slots_cache_is_as_it_was_after_a_scan():
    class Caching(Stored):
        def forward(self, x):
            if self.store.seen is None:
                self.store.seen = torch.ones(x.shape[-1])
            return super().forward(x * self.store.seen)

    model, x = Caching("slots"), torch.randn(1, 3, 8, 8)
    scan(model, (x,))
    assert model.store.seen is None
    assert torch.isfinite(model(x)).all()


@pytest.mark.filterwarnings("ignore:.torch.jit:FutureWarning", "ignore:.torch.jit:DeprecationWarning")
@pytest.mark.parametrize("make", [torch.jit.script, lambda part: torch.jit.trace(part, torch.randn(1, 16, 8, 8))])
def test_scripted_parts_are_kept_and_copied(make):
    class Scripted(nets.Chain):
        def forward(self, x):
            return self.tail(self.part(self.body(self.head(x))))

    model, x = Scripted(), torch.randn(1, 3, 8, 8)
    model.part = make(nn.Sequential(nn.Conv2d(16, 16, 3, padding=1), nn.ReLU()))
    small = convert(model, args=(x,))
    assert {d.name: d.decision for d in small.prismify_plan.layers}["part.0"] == "keep"
    assert type(small.body[0]).__name__ == "DeepPrism"
    with torch.no_grad():
        before = small(x)
        for parameter in model.parameters():
            parameter.zero_()
        assert torch.equal(small(x), before)


@pytest.mark.parametrize("axes", [1, 2])
def test_lengths_that_depend_on_values_are_not_compared(axes):
    class Speech(nets.Chain):
        def forward(self, x):
            y = super().forward(x)
            length = 1 + int(y.abs().sum() * 1000) % 7
            return y[..., :length] if axes == 1 else y[..., :length, :length]

    assert type(convert(Speech(), args=(torch.randn(1, 3, 8, 8),)).body[0]).__name__ == "DeepPrism"


@pytest.mark.parametrize("draw", [lambda: random.randint(1, 7), lambda: int(torch.randint(1, 7, (1,)))])
def test_an_original_that_chooses_at_random_chooses_the_same_when_it_is_checked(draw):
    class Cropping(nets.Chain):
        def forward(self, x):
            h = self.head(x)
            for _ in range(draw()):
                h = self.body(h)
            return [self.tail(h)[:, 0, : draw(), : draw()], *[h] * draw()]

    assert type(convert(Cropping(), args=(torch.randn(1, 3, 8, 8),)).body[0]).__name__ == "DeepPrism"


def test_a_class_that_holds_the_layers_is_no_copy():
    chain = nets.Chain()

    class Held(nets.Chain):
        def forward(self, x):
            return chain.tail(chain.body[0](chain.head(x)))

    model = Held()
    model.head, model.body, model.tail = chain.head, chain.body, chain.tail
    with pytest.raises(ConversionError, match=r"Held\.forward holds layers of the model itself"):
        convert(model)


def test_a_plan_is_carried_out_on_the_inputs_it_was_made_with(tmp_path):
    class Codes(nets.Chain):
        def forward(self, codes, kind="half"):
            assert codes.dtype == torch.long
            assert codes.shape == (2, 20)
            return super().forward(codes[:, :12].reshape(-1, 3, 2, 4).float())

    model, codes = Codes(), torch.randint(0, 50, (2, 20))
    plan = scan(model, (codes,))
    plan.save(tmp_path / "plan.json")
    for made in (plan, Plan.load(tmp_path / "plan.json")):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert type(convert(model, made).body[0]).__name__ == "DeepPrism"
    with pytest.warns(UserWarning, match=r"is not checked, because no example inputs run it"):
        convert(model, replace(plan, examples={}, capture=()))


def test_a_plan_from_a_file_that_no_inputs_run_is_carried_out_unchecked_and_says_so(tmp_path):
    class Mixed(nets.Chain):
        def __init__(self):
            super().__init__()
            self.mix = nn.Parameter(torch.randn(16, 16))

        def forward(self, x, options):
            assert options["kind"] == "half"
            return self.tail((self.mix @ self.body(self.head(x)).flatten(2)).unflatten(2, (8, 8)))

    model, x = Mixed(), torch.randn(1, 3, 8, 8)
    scan(model, (x, {"kind": "half"})).save(tmp_path / "plan.json")
    with pytest.warns(UserWarning, match=r"the conversion of Mixed is not checked.*give args="):
        small = convert(model, Plan.load(tmp_path / "plan.json"))
    assert type(small.body[0]).__name__ == "DeepPrism"


class Infinite(nets.Chain):
    def forward(self, x):
        return super().forward(x) + (x.mean() * 0 + 1).log().log()


class EvaluatedOnce(nets.Chain):
    """Computes in place, and has no training mode."""

    def forward(self, x):
        assert not self.training, "no training mode"
        h = self.body(self.head(x)).exp()
        squares = h * h
        h.mul_(2)
        return self.tail(squares)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (Infinite(), "the original's own result is not finite in forward"),
        (EvaluatedOnce(), "the original itself cannot be differentiated in forward: .*inplace operation"),
    ],
)
def test_an_original_that_cannot_be_checked_is_named_as_the_cause(model, message):
    with pytest.raises(ConversionError, match=message):
        convert(model, args=(torch.randn(1, 3, 8, 8),))
