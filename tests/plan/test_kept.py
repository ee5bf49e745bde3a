"""What is kept, with its reason: parametrised weights, adapters, grouped layers, bare operators. And counting."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from torch.nn.utils import spectral_norm as old_spectral_norm
from torch.nn.utils import weight_norm as old_weight_norm

from prismify import Policy, convert, scan
from prismify.facts.count import node_macs
from prismify.graph import capture
from prismify.layers import DeepPrism3d, DeepPrismTranspose2d
from tests.graph.attention_nets import Fused

C = 16
CONVOLUTIONS = [nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d]
SIZES = {1: (9,), 2: (7, 8), 3: (5, 6, 7)}


class Around(nn.Module):
    """An input layer, the layer in question, an output layer."""

    def __init__(self, layer: nn.Module, axes: int) -> None:
        super().__init__()
        conv = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[axes - 1]
        self.head, self.layer, self.tail = conv(3, C, 1), layer, conv(C, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.tail(self.layer(self.head(x)))


@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated:FutureWarning")
@pytest.mark.parametrize("kind", CONVOLUTIONS)
@pytest.mark.parametrize(
    "parametrise", [parametrizations.weight_norm, parametrizations.spectral_norm, old_weight_norm, old_spectral_norm]
)
def test_parametrised_convolutions_of_every_rank_are_kept(kind, parametrise):
    layer = parametrise(kind(C, C, 3))
    axes = len(layer.kernel_size)
    model, x = Around(layer, axes), torch.randn(1, 3, *SIZES[axes])
    row = next(row for row in scan(model, (x,)).layers if row.name == "layer")
    assert (row.decision, row.rule, row.role) == ("keep", "unsupported", "inner")
    assert "parametrised" in row.reason


@pytest.mark.parametrize("kind", CONVOLUTIONS)
def test_grouped_and_depthwise_convolutions_of_every_rank_are_kept(kind):
    for groups, reason in ((4, "grouped convolution (4 groups)"), (C, "depthwise convolution")):
        layer = kind(C, C, 3, groups=groups)
        axes = len(layer.kernel_size)
        rows = {r.name: r for r in scan(Around(layer, axes), (torch.randn(1, 3, *SIZES[axes]),)).layers}
        assert rows["layer"].reason == reason
        assert rows["layer"].groups == groups


def test_parametrised_attention_is_kept():
    class Self(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head, self.tail = nn.Linear(3, C), nn.Linear(C, 3)
            self.attention = parametrizations.spectral_norm(nn.MultiheadAttention(C, 2), "in_proj_weight")

        def forward(self, x: Tensor) -> Tensor:
            h = self.head(x)
            return self.tail(h + self.attention(h, h, h)[0])

    rows = {r.name: r for r in scan(Self(), (torch.randn(5, 2, 3),)).layers}
    assert "parametrised" in rows["attention"].reason
    assert rows["attention.out_proj"].decision == "keep"


class Adapter(nn.Module):
    """As peft wraps a layer."""

    def __init__(self, base_layer: nn.Module) -> None:
        super().__init__()
        self.base_layer = base_layer
        width_in, width_out = base_layer.in_features, base_layer.out_features
        self.lora_A = nn.ModuleDict({"default": nn.Linear(width_in, 4, bias=False)})
        self.lora_B = nn.ModuleDict({"default": nn.Linear(4, width_out, bias=False)})
        self.lora_dropout = nn.ModuleDict({"default": nn.Dropout(0.1)})
        self.scaling = {"default": 2.0}

    def merge(self) -> None:
        update = self.lora_B["default"].weight @ self.lora_A["default"].weight
        self.base_layer.weight.data += self.scaling["default"] * update

    def forward(self, x: Tensor) -> Tensor:
        down = self.lora_A["default"](self.lora_dropout["default"](x))
        return self.base_layer(x) + self.lora_B["default"](down) * self.scaling["default"]


def test_adapters_are_kept_whole_and_the_rest_of_their_attention_is_replaced():
    model, x = Fused(), torch.randn(2, 5, 3)
    model.qkv = Adapter(model.qkv)
    plan = scan(model, (x,), policy=Policy("volumes", feed_forward=True, min_width=1, min_volume=1))
    rows = {row.name: row for row in plan.layers}
    for name in ("qkv.base_layer", "qkv.lora_A.default", "qkv.lora_B.default"):
        assert rows[name].decision == "keep"
        assert "part of the adapter qkv" in rows[name].reason
    assert rows["qkv.base_layer"].attention == "self q, k, v"
    assert rows["out"].attention == "self out"
    assert rows["out"].decision == "replace"
    converted = convert(model, plan, args=(x,))
    before = converted(x)
    converted.qkv.merge()  # still works, on dense weights
    assert not torch.equal(before, converted(x))


def test_bare_operators_of_every_rank_are_kept():
    class Bare(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head, self.tail = nn.Conv1d(3, C, 1), nn.Conv1d(C, 3, 1)
            self.kernel, self.back = (nn.Parameter(torch.randn(C, C, 3)) for _ in range(2))

        def forward(self, x: Tensor) -> Tensor:
            h = F.conv_transpose1d(F.conv1d(self.head(x), self.kernel), self.back)
            return self.tail(h)

    rows = {r.name: r for r in scan(Bare(), (torch.randn(1, 3, 9),)).layers}
    for name in ("kernel", "back"):
        assert "applies the weight itself" in rows[name].reason


def test_shared_and_tied_convolutions_of_the_new_forms_stay_so():
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head, self.tail = nn.Conv3d(3, C, 1), nn.Conv3d(C, 3, 1)
            self.one, self.two = nn.Conv3d(C, C, 3, padding=1), nn.Conv3d(C, C, 3, padding=1)
            self.two.weight = self.one.weight

        def forward(self, x: Tensor) -> Tensor:
            return self.tail(self.two(self.one(self.one(self.head(x)))))

    x = torch.randn(1, 3, 4, 5, 5)
    converted = convert(nn.DataParallel(Shared()), args=(x,))
    assert isinstance(converted.one, DeepPrism3d)
    assert converted.one.weight is converted.two.weight
    for plan in (converted.prismify_plan, scan(nn.DataParallel(Shared()), (x,))):
        assert any("DataParallel was unwrapped" in note for note in plan.notes)
    assert sum(p.numel() for p in converted.parameters()) == converted.prismify_plan.parameters.after
    compiled = torch.compile(Around(nn.ConvTranspose2d(C, C, 3), 2), backend="eager")
    assert isinstance(convert(compiled, args=(torch.randn(1, 3, 6, 6),)).layer, DeepPrismTranspose2d)


@pytest.mark.parametrize(
    ("module", "shape", "expected"),
    [
        (nn.LSTM(6, 8, 2, batch_first=True), (3, 5, 6), 15 * 4 * 8 * (6 + 8 + 8 + 8)),
        (nn.GRU(6, 8, bidirectional=True), (5, 3, 6), 15 * 2 * 3 * 8 * (6 + 8)),
        (nn.RNN(6, 8, nonlinearity="relu"), (5, 3, 6), 15 * 8 * (6 + 8)),
        (nn.LSTMCell(6, 8), (3, 6), 3 * 4 * 8 * (6 + 8)),
    ],
)
def test_recurrent_layers_are_counted(module, shape, expected):
    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.tail = module, nn.Linear(module.hidden_size * (1 + getattr(module, "bidirectional", 0)), 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.tail(self.body(x)[0])

    plan = scan(Wrapped(), (torch.randn(shape),))
    assert plan.macs.before - sum(row.macs_before for row in plan.layers) == expected


def test_products_over_named_axes_are_counted():
    class Products(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bilinear = nn.Bilinear(5, 6, 7)

        def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
            return torch.tensordot(x, y, dims=([1], [0])), self.bilinear(x[:, :, 0], y[:4, :, 0])

    graph = capture(Products(), (torch.randn(4, 5, 3), torch.randn(5, 6, 2)))
    counted = {str(node.target).split(".")[1]: node_macs(node) for node in graph.nodes if node_macs(node)}
    assert counted == {"tensordot": 4 * 3 * 6 * 2 * 5, "bilinear": 4 * 7 * 5 * 6}
