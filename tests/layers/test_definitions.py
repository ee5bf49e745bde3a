"""The operators against their definitions, written out: loops, shifts, and the layers they generalise."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prismify.errors import ShapeError
from prismify.layers import DeepPrism, Prism, PrismAttn, PrismConv
from tests.tolerances import equivalent

TOPOLOGIES = ("zero", "replicate", "circular")


def channel_index(c: int, channels: int, topology: str) -> int | None:
    """Where channel `c` of a padded axis reads from; None for a zero."""
    if topology == "circular":
        return c % channels
    if topology == "replicate":
        return min(max(c, 0), channels - 1)
    return c if 0 <= c < channels else None


def by_loops(u: Tensor, layer: DeepPrism) -> Tensor:
    """Eq. 3 as sums over channels of ordinary one-channel convolutions."""
    p, q = layer.volumes
    depth = layer.in_channels // p
    mode = {"zeros": "constant"}.get(layer.padding_mode, layer.padding_mode)
    h, w = layer.padding
    padded = F.pad(u, (w, w, h, h), mode=mode) if h or w else u
    out = []
    for o, c in itertools.product(range(q), range(depth)):
        total = 0
        for i, k in itertools.product(range(p), range(layer.channel_kernel_size)):
            source = channel_index(c + k - layer.channel_kernel_size // 2, depth, layer.topology)
            if source is not None:
                x = padded[:, i * depth + source][:, None]
                kernel = layer.weight[o, i, k][None, None]
                total = total + F.conv2d(x, kernel, stride=layer.stride, dilation=layer.dilation)
        bias = 0 if layer.bias is None else layer.bias[o if layer.bias_kind == "scalar" else o * depth + c]
        out.append(total + bias)
    return torch.cat(out, 1)


@pytest.mark.parametrize("topology", TOPOLOGIES)
@pytest.mark.parametrize(
    "geometry",
    [
        {},
        {"stride": 2},
        {"stride": (1, 2), "padding": (0, 3), "dilation": (2, 1)},
        {"kernel_size": (5, 1), "padding_mode": "reflect"},
        {"kernel_size": 3, "padding_mode": "circular"},
        {"kernel_size": (2, 4), "padding": 1, "padding_mode": "replicate"},
    ],
)
@pytest.mark.parametrize(("widths", "channel_kernel"), [((6, 6), 3), ((4, 8), 5), ((9, 6), 1)])
def test_deep_prism_is_its_definition(topology, geometry, widths, channel_kernel):
    layer = DeepPrism(*widths, channel_kernel_size=channel_kernel, topology=topology, **geometry).double()
    nn.init.normal_(layer.bias)
    u = torch.randn(2, widths[0], 9, 7, dtype=torch.float64)
    equivalent(layer(u), by_loops(u, layer))


@pytest.mark.parametrize("memory", ["channels_last", "strided", "transposed"])
def test_deep_prism_takes_any_memory_layout(memory):
    layer = DeepPrism(8, 16, bias="channel").double()
    u = torch.randn(3, 8, 6, 5, dtype=torch.float64)
    view = {
        "channels_last": lambda: u.to(memory_format=torch.channels_last),
        "strided": lambda: torch.stack([u, u], -1)[..., 0],
        "transposed": lambda: u.transpose(2, 3).contiguous().transpose(2, 3),
    }[memory]()
    equivalent(layer(view), layer(u))


def test_paper_listing():
    """The paper's own ten lines, with the same weights."""
    listing = nn.Conv3d(1, 1, 3, padding=1).double()
    layer = DeepPrism(16).double()
    layer.load_state_dict(listing.state_dict())
    u = torch.randn(2, 16, 8, 8, dtype=torch.float64)
    equivalent(layer(u), listing(u[:, None])[:, 0])


@pytest.mark.parametrize("geometry", [{}, {"stride": 2}, {"dilation": 2, "padding": 2}])
def test_volumes_of_one_channel_are_the_dense_convolution(geometry):
    conv = nn.Conv2d(6, 4, 3, **{"padding": 1, **geometry}).double()
    layer = DeepPrism.from_conv2d(conv, volumes=(6, 4), channel_kernel_size=1, bias="channel")
    layer.weight.data = conv.weight.data[:, :, None]
    layer.bias.data = conv.bias.data
    u = torch.randn(2, 6, 8, 9, dtype=torch.float64)
    equivalent(layer(u), conv(u))


def test_volumes_of_one_feature_are_the_dense_linear_layer():
    linear = nn.Linear(6, 4).double()
    layer = Prism.from_linear(linear, volumes=(6, 4), kernel_size=1, bias="channel")
    layer.weight.data = linear.weight.data[:, :, None]
    layer.bias.data = linear.bias.data
    u = torch.randn(2, 5, 6, dtype=torch.float64)
    equivalent(layer(u), linear(u))


@pytest.mark.parametrize("topology", TOPOLOGIES)
@pytest.mark.parametrize("form", ["composition", "sum"])
def test_prism_conv_is_the_deep_prism_with_its_kernel(topology, form):
    layer = PrismConv(8, form=form, topology=topology, stride=2, bias="channel").double()
    nn.init.normal_(layer.bias)
    same = DeepPrism(8, topology=topology, stride=2, bias="channel").double()
    channel, spatial = layer.channel_weight[:, None, None], layer.spatial_weight
    same.weight.data = (channel * spatial if form == "composition" else channel + spatial)[None, None]
    same.bias.data = layer.bias.data
    u = torch.randn(2, 8, 7, 6, dtype=torch.float64)
    equivalent(layer(u), same(u))


def test_prism_conv_composes_a_spatial_and_a_channel_filter():
    """Eq. 2 as written: Conv1D over channels after Conv2D in each channel."""
    layer = PrismConv(8, bias=None).double()
    u = torch.randn(2, 8, 7, 6, dtype=torch.float64)
    spatial = F.conv2d(u, layer.spatial_weight.expand(8, 1, 3, 3), padding=1, groups=8)
    columns = spatial.movedim(1, -1).reshape(-1, 1, 8)
    expected = F.conv1d(columns, layer.channel_weight[None, None], padding=1).reshape(2, 7, 6, 8).movedim(-1, 1)
    equivalent(layer(u), expected)


@pytest.mark.parametrize("topology", TOPOLOGIES)
def test_prism_on_tokens_and_on_maps(topology):
    tokens = Prism(12, 24, kernel_size=5, topology=topology).double()
    maps = Prism(12, 24, kernel_size=5, dim=1, topology=topology).double()
    maps.load_state_dict(tokens.state_dict())
    u = torch.randn(2, 12, 3, 4, dtype=torch.float64)
    expected = torch.stack([tokens(u[:, :, i, j]) for i in range(3) for j in range(4)], -1).reshape(2, 24, 3, 4)
    equivalent(maps(u), expected)
    wide = DeepPrism(12, 24, 1, channel_kernel_size=5, topology=topology).double()
    wide.weight.data = tokens.weight.data[..., None, None]
    wide.bias.data = tokens.bias.data
    equivalent(maps(u), wide(u))


@pytest.mark.parametrize("heads", [1, 4])
def test_prism_attention_is_eq_4_and_5(heads):
    layer = PrismAttn(8, heads).double()
    u = torch.randn(2, 8, 3, 5, dtype=torch.float64)
    tokens = u.flatten(2).transpose(1, 2)
    q, k, v = (p(tokens).reshape(2, 15, heads, -1).transpose(1, 2) for p in (layer.to_q, layer.to_k, layer.to_v))
    weights = (q @ k.transpose(-1, -2) / (8 // heads) ** 0.5).softmax(-1)
    attended = (weights @ v).transpose(1, 2).reshape(2, 15, 8)
    equivalent(layer(u), layer.to_out(attended).transpose(1, 2).reshape(2, 8, 3, 5))
    equivalent(layer(tokens), layer.to_out(attended))
    context = torch.randn(2, 7, 8, dtype=torch.float64)
    assert layer(tokens, context).shape == tokens.shape
    assert sum(p.numel() for p in layer.parameters()) == 16


@pytest.mark.parametrize("layer", [DeepPrism(5, 10), Prism(6, dim=1), PrismConv(5, form="sum"), PrismAttn(6)])
def test_gradients(layer):
    layer = layer.double()
    u = torch.randn(1, 6 if isinstance(layer, (Prism, PrismAttn)) else 5, 3, 4, dtype=torch.float64)
    parameters = list(layer.parameters())
    assert torch.autograd.gradcheck(lambda u, *_: layer(u), (u.requires_grad_(), *parameters))


def test_parameter_counts():
    counts = {
        27: DeepPrism(64, bias=None),
        28: DeepPrism(64),
        27 + 64: DeepPrism(64, bias="channel"),
        54: DeepPrism(128, 256, bias=None),
        162: DeepPrism(960, 640, bias=None),
        4: Prism(64),
        13: PrismConv(64),
    }
    for count, layer in counts.items():
        assert sum(p.numel() for p in layer.parameters()) == count


@pytest.mark.parametrize(
    ("make", "shape"),
    [
        (lambda: DeepPrism(64), (8, 64, 24, 24)),
        (lambda: DeepPrism(128, 64), (8, 128, 24, 24)),
        (lambda: PrismConv(64), (8, 64, 24, 24)),
        (lambda: PrismConv(64, form="sum"), (8, 64, 24, 24)),
        (lambda: Prism(64), (256, 64)),
    ],
)
@torch.no_grad()
def test_initialisation_keeps_the_variance_of_the_signal(make, shape):
    u = torch.randn(shape)
    ratios = [float(make()(u).var() / u.var()) for _ in range(200)]
    mean = sum(ratios) / len(ratios)
    assert 0.8 < mean < 1.15  # zero padding takes a little away at the edges


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DeepPrism(8, channel_kernel_size=2), "must be odd"),
        (lambda: DeepPrism(8, channel_kernel_size=17), "at most 15"),
        (lambda: DeepPrism(8, 12, volumes=(1, 1)), "volumes of one depth"),
        (lambda: DeepPrism(8, stride=2, padding="same"), "stride 1"),
        (lambda: Prism(8, dim=2), "channel axis"),
        (lambda: PrismAttn(8, heads=3), "heads"),
        (lambda: DeepPrism.from_conv2d(nn.Conv2d(8, 8, 3, groups=2)), "ungrouped"),
        (lambda: PrismConv.from_conv2d(nn.Conv2d(8, 16, 3)), "C->C"),
        (lambda: Prism.from_conv2d(nn.Conv2d(8, 8, 3)), "pointwise"),
        (lambda: DeepPrism(8)(torch.zeros(1, 9, 4, 4)), "expects"),
        (lambda: Prism(8)(torch.zeros(1, 9)), "expects"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(make, message):
    with pytest.raises(ShapeError, match=message):
        make()


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel:UserWarning")  # torch's own conv2d
@pytest.mark.parametrize("topology", TOPOLOGIES)
@pytest.mark.parametrize("padding", [0, 1, (2, 0), "same", "valid"])
@pytest.mark.parametrize("kernel", [1, 3, 4, (5, 2)])
def test_a_replacement_has_the_output_shape_of_its_convolution(topology, padding, kernel):
    conv = nn.Conv2d(8, 24, kernel, padding=padding, dtype=torch.float64).eval()
    layer = DeepPrism.from_conv2d(conv, topology=topology)
    u = torch.randn(2, 8, 11, 9, dtype=torch.float64)
    assert layer(u).shape == conv(u).shape
    assert layer(u[0]).shape == conv(u[0]).shape
    assert (layer.weight.dtype, layer.training) == (torch.float64, False)


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel:UserWarning")  # torch's own conv2d
def test_same_padding_of_an_even_kernel_falls_where_conv2d_puts_it():
    conv = nn.Conv2d(1, 1, (4, 2), padding="same", bias=False).double()
    layer = DeepPrism(1, kernel_size=(4, 2), channel_kernel_size=1, padding="same", bias=None).double()
    layer.weight.data = conv.weight.data[:, :, None]
    u = torch.randn(1, 1, 6, 7, dtype=torch.float64)
    equivalent(layer(u), conv(u))
