"""What callers of a replaced layer read of it, and do to a whole model: geometry, memory formats, empty batches."""

from __future__ import annotations

import copy
import io

import pytest
import torch
from torch import nn

import prismify
from prismify.layers import DeepPrism, Prism, PrismConv
from tests.tolerances import exact

GEOMETRY = ("kernel_size", "stride", "padding", "dilation", "groups", "padding_mode", "output_padding", "transposed")
WIDTHS = ("in_channels", "out_channels")
LAYERS = [
    nn.Conv1d(32, 32, 1),
    nn.Conv2d(32, 32, 1, padding="same", dilation=2),
    nn.Conv3d(32, 32, 1, padding_mode="reflect"),
    nn.Conv2d(32, 32, 1, 2),
    nn.Conv1d(32, 32, 5, padding="same", padding_mode="circular"),
    nn.Conv2d(32, 32, 3, 2, 1, dilation=2),
    nn.Conv2d(32, 32, (3, 4), padding="valid"),
    nn.Conv3d(32, 32, 3, padding=(0, 1, 2)),
    nn.ConvTranspose1d(32, 32, 4, 2, 1),
    nn.ConvTranspose2d(32, 32, 3, 2, 1, output_padding=1),
    nn.ConvTranspose3d(32, 32, 2, 2),
]


def around(layer: nn.Module) -> tuple[nn.Sequential, torch.Tensor]:
    axes = len(layer.kernel_size)
    conv = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}[axes]
    return nn.Sequential(conv(3, 32, 1), layer, nn.ReLU(), conv(32, 3, 1)), torch.randn(2, 3, *[8] * axes)


@pytest.mark.parametrize("layer", LAYERS, ids=str)
def test_a_replacement_tells_the_geometry_it_took_over(layer, tmp_path):
    net, x = around(layer)
    small = prismify.convert(net, args=(x,))
    prismify.save(small, tmp_path / "out")
    for made in (small, copy.deepcopy(small), prismify.load(tmp_path / "out")):
        assert type(made[1]) is not type(layer)
        for name in GEOMETRY + WIDTHS:
            assert getattr(made[1], name) == getattr(layer, name), name


@pytest.mark.parametrize("layer", LAYERS, ids=str)
def test_a_batch_without_images_passes(layer):
    net, x = around(layer)
    small = prismify.convert(net, args=(x,))
    output = small(x[:0].requires_grad_())
    assert output.shape == net(x[:0]).shape
    output.sum().backward()
    assert all(p.grad is not None and not p.grad.any() for p in small.parameters())


def test_tokens_without_any_pass():
    for layer in (nn.Linear(32, 32), nn.MultiheadAttention(32, 4, batch_first=True)):
        net = nn.TransformerEncoderLayer(32, 4, 32, batch_first=True) if not isinstance(layer, nn.Linear) else layer
        small = Prism.from_linear(net) if isinstance(net, nn.Linear) else prismify.convert(
            nn.Sequential(nn.Linear(8, 32), net, nn.Linear(32, 8)), args=(torch.randn(1, 5, 8),))[1]  # fmt: skip
        assert small(torch.zeros(0, 5, 32)).shape == (0, 5, 32)


@pytest.mark.parametrize("convolution", ["DeepPrism", "PrismConv"])
@pytest.mark.parametrize(
    ("conv", "form", "axes"), [(nn.Conv2d, torch.channels_last, 2), (nn.Conv3d, torch.channels_last_3d, 3)]
)
def test_a_memory_format_is_for_the_images(conv, form, axes, convolution):
    layers = [conv(3, 32, 3, padding=1), conv(32, 32, 3, padding=1), conv(32, 32, 1), conv(32, 3, 3, padding=1)]
    x = torch.randn(2, 3, *[8] * axes)
    small = prismify.convert(nn.Sequential(*layers), policy=prismify.Policy(convolution=convolution), args=(x,))
    before, state = small(x), {name: value.clone() for name, value in small.state_dict().items()}
    moved = small.to(memory_format=form)
    torch.testing.assert_close(moved(x.to(memory_format=form)), before)
    for name, value in moved.state_dict().items():
        exact(value, state[name])
    assert all(p.is_contiguous() for p in moved[1].parameters())
    assert moved.to("cpu", torch.float64, memory_format=form)[1].to(memory_format=form).bias.dtype == torch.float64


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.parametrize("mode", ["zeros", "circular", "reflect", "replicate"])
def test_same_padding_of_an_even_kernel_in_every_mode(mode):
    conv = nn.Conv2d(2, 2, 4, padding="same", padding_mode=mode).double()
    layer = DeepPrism.from_conv2d(conv, volumes=(2, 2), channel_kernel_size=1, bias="channel")
    with torch.no_grad():
        layer.weight.copy_(conv.weight[:, :, None])
        layer.bias.copy_(conv.bias)
    x = torch.randn(2, 2, 9, 7, dtype=torch.float64)
    torch.testing.assert_close(layer(x), conv(x))


def test_what_an_operator_refuses_is_said_by_the_plan():
    net = nn.Sequential(nn.Conv2d(3, 32, 3), nn.Conv2d(32, 32, 4, padding="same"), nn.Conv2d(32, 3, 3))
    x = torch.randn(1, 3, 16, 16)
    plan = prismify.scan(net, (x,), policy=prismify.Policy(convolution="PrismConv"))
    assert plan.layers[1].operator.type == "DeepPrism"
    assert "even kernel" in plan.layers[1].reason
    assert prismify.convert(net, plan, args=(x,))(x).shape == net(x).shape


def test_layers_pickled_by_an_earlier_version_are_read():
    for layer, new in (
        (DeepPrism(32), ("_padding", "output_padding")),
        (PrismConv(32), ("_padding", "groups", "transposed", "output_padding")),
        (Prism(32, dim=1), ("channel_kernel_size", "stride", "padding", "dilation", "groups", "padding_mode",
                            "output_padding", "transposed")),
    ):  # fmt: skip
        x, wanted = torch.randn(1, 32, 5, 5), dict(vars(layer))
        output = layer(x)
        for name in new:
            del layer.__dict__[name]
        if isinstance(layer, Prism):
            layer.kernel_size = 3
        file = io.BytesIO()
        torch.save(layer, file)
        file.seek(0)
        read = torch.load(file, weights_only=False)
        assert {name: getattr(read, name) for name in new} == {name: wanted[name] for name in new}
        exact(read(x), output)


class Conv1D(nn.Module):
    """As transformers has it: a linear layer whose weight is (in, out)."""

    def __init__(self, nf: int, nx: int) -> None:
        super().__init__()
        self.nf, self.nx = nf, nx
        self.weight = nn.Parameter(torch.randn(nx, nf) * 0.02)
        self.bias = nn.Parameter(torch.zeros(nf))

    def forward(self, x):
        return torch.addmm(self.bias, x.view(-1, x.size(-1)), self.weight).view(*x.shape[:-1], self.nf)


class Block(nn.Module):
    """GPT-2's attention: one projection makes q, k and v."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.c_attn, self.c_proj = nn.LayerNorm(32), Conv1D(96, 32), Conv1D(32, 32)

    def forward(self, x):
        q, k, v = (t.unflatten(-1, (4, 8)).transpose(1, 2) for t in self.c_attn(self.norm(x)).split(32, -1))
        y = nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return x + self.c_proj(y)


def test_a_transposed_linear_layer_is_a_projection_like_any_other():
    net = nn.Sequential(nn.Linear(8, 32), Block(), Block(), nn.Linear(32, 8))
    x = torch.randn(2, 6, 8)
    plan = prismify.scan(net, (x,))
    rows = {d.name: d for d in plan.layers}
    assert rows["1.c_attn"].decision == rows["2.c_proj"].decision == "replace"
    assert (rows["1.c_attn"].in_channels, rows["1.c_attn"].out_channels) == (32, 96)
    small = prismify.convert(net, plan)
    assert isinstance(small[1].c_attn, Prism)
    assert (small[1].c_attn.nx, small[1].c_attn.nf) == (32, 96)
    assert small(x).shape == net(x).shape


def test_transformers_own_is_one():
    module = pytest.importorskip("transformers.pytorch_utils")
    net = nn.Sequential(nn.Linear(8, 32), module.Conv1D(32, 32), nn.Linear(32, 8))
    plan = prismify.scan(net, (torch.randn(2, 6, 8),), policy=prismify.Policy(name="volumes", feed_forward=True))
    assert plan.layers[1].operator.type == "Prism"
