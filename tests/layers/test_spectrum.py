"""What lies between 27 weights and all: shapes, geometry, warm starts that equal a layer where they can express it."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from prismify.errors import ShapeError
from prismify.layers import DeepPrism, Gained, Grouped, LowRank, Operator, Prism, Separable, Sum, Tucker, build_operator
from prismify.layers.spectrum import Moments, fit, watched
from tests.tolerances import equivalent

LAYERS: dict[str, tuple[Any, tuple[int, ...]]] = {
    "conv2d": (lambda: nn.Conv2d(12, 8, 3, padding=1), (3, 12, 9, 7)),
    "strided": (lambda: nn.Conv2d(12, 12, (3, 5), stride=(2, 1), padding=(1, 4), dilation=(1, 2)), (3, 12, 9, 7)),
    "same": (lambda: nn.Conv2d(12, 12, 3, padding="same", bias=False), (3, 12, 9, 7)),
    "reflect": (lambda: nn.Conv2d(12, 8, 3, padding=1, padding_mode="reflect"), (3, 12, 9, 7)),
    "pointwise": (lambda: nn.Conv2d(12, 8, 1), (3, 12, 9, 7)),
    "conv1d": (lambda: nn.Conv1d(12, 8, 3, padding=1), (5, 12, 17)),
    "conv3d": (lambda: nn.Conv3d(12, 8, (1, 3, 3), padding=(0, 1, 1)), (2, 12, 3, 7, 5)),
    "transposed": (lambda: nn.ConvTranspose2d(12, 8, 4, stride=2, padding=1), (3, 12, 5, 4)),
    "linear": (lambda: nn.Linear(12, 8), (4, 11, 12)),
}
OPERATORS: dict[str, dict[str, Any]] = {
    "LowRank": {"type": "LowRank", "options": {"rank": 3}},
    "Tucker": {"type": "Tucker", "options": {"rank": 4}},
    "Grouped": {"type": "Grouped", "options": {"groups": 2}},
    "Separable": {"type": "Separable"},
    "Gained": {"type": "Gained", "options": {"operator": {"type": "Grouped", "options": {"groups": 4}}}},
    "Sum": {
        "type": "Sum",
        "options": {"operators": [OPERATOR := {"type": "LowRank", "options": {"rank": 1}}, {**OPERATOR}]},
    },
}


def inputs(shape: tuple[int, ...]) -> Tensor:
    """Channels that hang together, as those of a trained network do, around means of their own."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(shape, generator=generator, dtype=torch.float64)
    axis = len(shape) - 1 if len(shape) == 3 and shape[-1] == 12 else 1
    mix = torch.randn(12, 12, generator=generator, dtype=torch.float64) * torch.linspace(2, 0.1, 12)[:, None]
    return torch.tensordot(x.movedim(axis, -1) + 0.5, mix.double(), 1).movedim(-1, axis)


def made(kind: str, text: dict[str, Any]) -> tuple[nn.Module, nn.Module, Tensor]:
    torch.manual_seed(0)
    build, shape = LAYERS[kind]
    layer = build().double()
    return layer, build_operator(Operator(**text), layer), inputs(shape)


def seen(layer: nn.Module, x: Tensor) -> Moments:
    with watched({"it": layer}, positions=1 << 20) as found:
        layer(x)
    return found["it"]


@torch.no_grad()
def error(layer: nn.Module, operator: nn.Module, x: Tensor) -> float:
    """The share of the variance within channels that is left."""
    wanted = layer(x)
    axis = wanted.dim() - 1 if isinstance(layer, nn.Linear) else 1
    channels = wanted.movedim(axis, 0).flatten(1)
    return float((operator(x) - wanted).square().mean() / channels.var(1, correction=0).mean())


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("name", OPERATORS)
def test_it_takes_the_layers_place(kind: str, name: str) -> None:
    if name == "Separable" and kind in ("pointwise", "linear"):
        with pytest.raises(ShapeError, match="has no depthwise part"):
            made(kind, OPERATORS[name])
        return
    layer, operator, x = made(kind, OPERATORS[name])
    y = operator(x)
    assert y.shape == layer(x).shape
    y.square().mean().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in operator.parameters())
    assert operator.in_channels == 12
    assert 0.2 < float(y.detach().std() / x.std()) < 5  # fresh weights keep the scale of the signal
    half = copy.deepcopy(operator).to(torch.bfloat16)
    assert half(x.bfloat16()).dtype == torch.bfloat16


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("name", OPERATORS)
def test_a_warm_start_is_nearer_than_any_change_to_it(kind: str, name: str) -> None:
    if name == "Separable" and kind in ("pointwise", "linear"):
        return
    layer, operator, x = made(kind, OPERATORS[name])
    before = error(layer, operator, x)
    if name == "Separable" and kind == "transposed":
        with pytest.raises(ShapeError, match="no closed form"):
            fit(operator, seen(layer, x))
        return
    moments = seen(layer, x)
    effective = fit(operator, moments)
    after = error(layer, operator, x)
    assert after < min(0.9, before)
    if kind == "transposed":
        return  # its outputs are sums of patches, which are fitted one by one
    assert moments.unexplained(effective) == pytest.approx(after, rel=0.2, abs=1e-6)
    for parameter in operator.parameters():  # a minimum in every single weight that is tried
        flat = parameter.data.view(-1)
        for index in range(0, len(flat), max(1, len(flat) // 5)):
            kept = flat[index].clone()
            for step in (-0.03, 0.03):
                flat[index] = kept + step
                assert error(layer, operator, x) > after - 1e-4
            flat[index] = kept


FULL: list[tuple[str, dict[str, Any]]] = [
    *((kind, {"type": "LowRank", "options": {"rank": 8}}) for kind in ("conv2d", "reflect", "conv1d", "conv3d")),
    ("strided", {"type": "LowRank", "options": {"rank": 12}}),
    ("transposed", {"type": "LowRank", "options": {"rank": 12}}),
    ("linear", {"type": "LowRank", "options": {"rank": 8}}),
    *((kind, {"type": "Tucker", "options": {"rank": 12}}) for kind in LAYERS),
    *((kind, {"type": "Grouped", "options": {"groups": 1}}) for kind in LAYERS),
    *(
        (kind, {"type": "DeepPrism", "volumes": (12, 8), "channel_kernel_size": 1, "bias": "channel"})
        for kind in ("conv2d", "reflect", "conv1d", "conv3d", "transposed")
    ),
    ("linear", {"type": "Prism", "volumes": (12, 8), "channel_kernel_size": 1, "bias": "channel"}),
    ("pointwise", {"type": "Prism", "volumes": (12, 8), "channel_kernel_size": 1}),
]


@pytest.mark.parametrize(("kind", "text"), FULL)
def test_what_can_express_the_layer_starts_as_it(kind: str, text: dict[str, Any]) -> None:
    layer, operator, x = made(kind, text)
    fit(operator, seen(layer, x))
    torch.testing.assert_close(operator(x), layer(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("topology", ["zero", "replicate", "circular"])
@pytest.mark.parametrize(
    "make",
    [
        lambda t: (DeepPrism(12, 8, topology=t), nn.Conv2d(12, 8, 3, padding=1)),
        lambda t: (DeepPrism(12, topology=t, volumes=(2, 2), bias="channel"), nn.Conv2d(12, 12, 3, padding=1)),
        lambda t: (DeepPrism(12, topology=t, channel_dilation=3), nn.Conv2d(12, 12, 3, padding=1)),
        lambda t: (Prism(12, 36, topology=t, interleave=2), nn.Linear(12, 36)),
    ],
)
def test_a_fit_finds_the_kernel_that_made_a_layer(make: Any, topology: str) -> None:
    """A dense layer with the map of an operator gives that operator's weights back."""
    torch.manual_seed(0)
    operator, layer = (module.double() for module in make(topology))
    nn.init.normal_(operator.bias)
    axes = layer.weight.dim() - 2
    one = torch.eye(12, dtype=torch.float64)
    with torch.no_grad():
        if axes:  # the response to one channel at one position is the kernel, turned round
            image = torch.zeros(12, 12, 5, 5, dtype=torch.float64)
            image[:, :, 2, 2] = one
            response = (operator(image) - operator(torch.zeros_like(image)))[:, :, 1:4, 1:4].flip(2, 3)
            layer.weight.copy_(response.transpose(0, 1))
            layer.bias.copy_(operator(torch.zeros_like(image))[0, :, 2, 2])
            x = inputs((3, 12, 9, 7))
        else:
            layer.weight.copy_((operator(one) - operator(0 * one)).T)
            layer.bias.copy_(operator(0 * one)[0])
            x = inputs((4, 11, 12))
    equivalent(layer(x), operator(x))
    found = copy.deepcopy(operator)
    found.reset_parameters()
    fit(found, seen(layer, x))
    torch.testing.assert_close(found.weight, operator.weight, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found.bias, operator.bias, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "text", "message"),
    [
        ("conv2d", {"type": "LowRank", "options": {"rank": 9}}, "rank 9 must be a whole number from 1 to 8"),
        ("conv2d", {"type": "LowRank", "options": {"rank": 2.0}}, "rank 2.0 must be a whole number"),
        ("conv2d", {"type": "LowRank", "options": {"ranks": 2}}, "unexpected keyword argument 'ranks'"),
        ("conv2d", {"type": "Tucker", "options": {"rank": 13}}, "rank 13 must be a whole number from 1 to 12"),
        ("conv2d", {"type": "Grouped", "options": {"groups": 5}}, "do not split into 5 groups"),
        ("conv2d", {"type": "Sum", "options": {"operators": []}}, "two operators or more"),
        ("conv2d", {"type": "Gained", "options": {"operator": {"type": "Prisme"}}}, "'Prisme' is not one of"),
        ("conv2d", {"type": "Gained", "options": {"operator": 3}}, "3 is no operator"),
        ("linear", {"type": "Gained", "options": {"operator": {"type": "DeepPrism"}}}, "cannot take the place"),
        ("transposed", {"type": "DeepPrism", "volumes": (3, 2), "channel_dilation": 2}, "has no channel dilation"),
        ("conv2d", {"type": "DeepPrism", "volumes": (3, 2), "channel_dilation": 3}, "must be a whole number that"),
        ("linear", {"type": "Prism", "volumes": (3, 2), "channel_dilation": 2}, "only a DeepPrism has a channel"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(kind: str, text: dict[str, Any], message: str) -> None:
    with pytest.raises(ShapeError, match=message) as caught:
        made(kind, text)
    assert "\n" not in str(caught.value)


def test_channel_dilation_is_the_stencil_on_every_other_channel() -> None:
    torch.manual_seed(0)
    dilated = DeepPrism(12, 24, volumes=(1, 2), channel_dilation=2, bias="channel").double()
    nn.init.normal_(dilated.bias)
    plain = DeepPrism(6, 12, volumes=(1, 2), bias=None).double()
    plain.weight = dilated.weight
    x = torch.randn(3, 12, 5, 4, dtype=torch.float64)
    y = dilated(x) - dilated.bias[:, None, None]
    for start in range(2):
        equivalent(y[:, start::2], plain(x[:, start::2]))
    assert isinstance(copy.deepcopy(dilated), DeepPrism)
    assert "channel_dilation=2" in repr(dilated)


def test_all_of_them_have_been_tried() -> None:
    assert {Gained, Grouped, LowRank, Separable, Sum, Tucker} == {
        type(made("conv2d", text)[1]) for text in OPERATORS.values()
    }
