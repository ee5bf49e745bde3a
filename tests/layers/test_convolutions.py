"""DeepPrism over sequences and videos, and transposed: against convolutions written out, and as adjoints."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prismify import Policy, convert, load, save, scan
from prismify.errors import ShapeError
from prismify.kernels import deep_prism, deep_prism_nd, deep_prism_transposed, deep_prism_transposed_nd, ops, use_engine
from prismify.layers import (
    DeepPrism,
    DeepPrism1d,
    DeepPrism3d,
    DeepPrismTranspose1d,
    DeepPrismTranspose2d,
    DeepPrismTranspose3d,
    Prism,
)
from tests.tolerances import equivalent, exact

TOPOLOGIES = ("zero", "replicate", "circular")
MODES = {"zero": "constant", "zeros": "constant"}
#: A convolution and its size for each number of spatial axes.
FORMS = {
    1: (nn.Conv1d, nn.ConvTranspose1d, (11,)),
    2: (nn.Conv2d, nn.ConvTranspose2d, (6, 7)),
    3: (nn.Conv3d, nn.ConvTranspose3d, (5, 6, 7)),
}
LAYERS = {
    nn.Conv1d: DeepPrism1d,
    nn.Conv3d: DeepPrism3d,
    nn.ConvTranspose1d: DeepPrismTranspose1d,
    nn.ConvTranspose2d: DeepPrismTranspose2d,
    nn.ConvTranspose3d: DeepPrismTranspose3d,
}


def four_dimensional(u: Tensor, layer: DeepPrism3d) -> Tensor:
    """The sum over all taps of a padded 4-D field, (C, T, H, W), each shifted by its place in the kernel."""
    p, q = layer.volumes
    x = torch.unflatten(u, 1, (p, -1))
    b, _, depth, *size = x.shape
    half = layer.channel_kernel_size // 2
    x = padded_axis(x, 2, half, layer.topology)
    for axis, pad in enumerate(layer.padding):
        x = padded_axis(x, 3 + axis, pad, layer.padding_mode)
    out = [
        (n + 2 * pad - d * (k - 1) - 1) // s + 1
        for n, pad, d, k, s in zip(size, layer.padding, layer.dilation, layer.kernel_size, layer.stride, strict=True)
    ]
    y = u.new_zeros(b, q, depth, *out)
    for o in range(q):
        for i in range(p):
            for tap in torch.ones(layer.weight.shape[2:]).nonzero().tolist():
                at = [slice(None), slice(None), slice(tap[0], tap[0] + depth)]
                for n, t, d, s in zip(out, tap[1:], layer.dilation, layer.stride, strict=True):
                    at.append(slice(t * d, t * d + (n - 1) * s + 1, s))
                y[:, o] += x[tuple(at)][:, i] * layer.weight[(o, i, *tap)]
    y = y.flatten(1, 2)
    if layer.bias is None:
        return y
    bias = layer.bias if layer.bias_kind == "channel" else layer.bias.repeat_interleave(depth)
    return y + bias[:, None, None, None]


def padded_axis(x: Tensor, axis: int, pad: int, mode: str) -> Tensor:
    """Pad one axis by index arithmetic, independent of `F.pad`."""
    n = x.shape[axis]
    index = torch.arange(-pad, n + pad)
    if mode in ("zero", "zeros"):
        return x.index_select(axis, index.clamp(0, n - 1)) * (
            ((index >= 0) & (index < n)).to(x.dtype).reshape([-1 if a == axis else 1 for a in range(x.dim())])
        )
    index = {
        "circular": index % n,
        "replicate": index.clamp(0, n - 1),
        "reflect": (n - 1 - (n - 1 - index.abs()).abs()),
    }[mode]
    return x.index_select(axis, index)


GEOMETRIES = [
    {},
    {"padding": (0, 1, 1)},
    {"stride": (1, 2, 2), "padding": 1},
    {"kernel_size": (3, 1, 1)},
    {"kernel_size": (1, 3, 3), "dilation": (1, 2, 1)},
    {"kernel_size": (2, 3, 2), "stride": (2, 1, 3), "dilation": (2, 1, 1), "padding": (2, 0, 1)},
    {"padding": 1, "padding_mode": "replicate"},
    {"padding": (1, 2, 0), "padding_mode": "circular"},
    {"padding": 1, "padding_mode": "reflect"},
]


@pytest.mark.parametrize("topology", TOPOLOGIES)
@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
@pytest.mark.parametrize("widths", [(5, 5), (4, 8)])
def test_a_video_is_a_field_of_four_axes(geometry, topology, widths):
    layer = DeepPrism3d(*widths, topology=topology, bias="channel", **geometry).double()
    nn.init.normal_(layer.bias)
    u = torch.randn(2, widths[0], 5, 6, 7, dtype=torch.float64)
    equivalent(layer(u), four_dimensional(u, layer))
    equivalent(layer(u[0]), layer(u)[0])


@pytest.mark.parametrize("topology", TOPOLOGIES)
@pytest.mark.parametrize("geometry", [{}, {"stride": 2}, {"dilation": 3, "padding": 2, "padding_mode": "replicate"}])
def test_a_sequence_is_an_image_of_one_row(geometry, topology):
    layer = DeepPrism1d(6, 12, topology=topology, **geometry).double()
    nn.init.normal_(layer.bias)
    same = DeepPrism(6, 12, (1, 3), topology=topology, **{k: v if isinstance(v, str) else (0, v) if k == "padding"
                     else (1, v) for k, v in geometry.items()}).double()  # fmt: skip
    same.load_state_dict({"weight": layer.weight[..., None, :], "bias": layer.bias})
    u = torch.randn(2, 6, 11, dtype=torch.float64)
    equivalent(layer(u), same(u[:, :, None])[:, :, 0])
    equivalent(layer(u[0]), layer(u)[0])


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("axes", [1, 2, 3])
@pytest.mark.parametrize(
    "geometry", [{}, {"stride": 2, "padding": 1}, {"stride": 2, "output_padding": 1}, {"dilation": 2, "padding": 1}]
)
def test_volumes_of_one_channel_are_the_dense_convolution(axes, transposed, geometry):
    if not transposed:
        geometry = {k: v for k, v in geometry.items() if k != "output_padding"}
    plain, adjoint, size = FORMS[axes]
    conv = (adjoint if transposed else plain)(6, 4, 3, **geometry).double()
    kind = LAYERS.get(type(conv), DeepPrism)
    make = kind.from_conv if kind is not DeepPrism else DeepPrism.from_conv2d
    layer = make(conv, volumes=(6, 4), channel_kernel_size=1, bias="channel")
    layer.weight.data, layer.bias.data = conv.weight.data[:, :, None], conv.bias.data
    u = torch.randn(2, 6, *size, dtype=torch.float64)
    equivalent(layer(u), conv(u))
    equivalent(layer(u[0]), conv(u[0]))


ADJOINTS = [
    {},
    {"stride": 2, "padding": 1},
    {"stride": 2, "padding": 1, "output_padding": 1},
    {"stride": 3, "padding": 0, "output_padding": 2, "dilation": 2},
    {"stride": 1, "dilation": 3, "output_padding": 2},
    {"kernel_size": 4, "stride": 2, "padding": 1},
    {"kernel_size": 2, "stride": 2},
]


@pytest.mark.parametrize("topology", TOPOLOGIES)
@pytest.mark.parametrize("geometry", ADJOINTS, ids=str)
@pytest.mark.parametrize("axes", [1, 2, 3])
@pytest.mark.parametrize("volumes", [(1, 1), (2, 1)])
def test_transposed_is_the_adjoint(axes, geometry, topology, volumes):
    """<D x, y> = <x, D* y> for every x and y."""
    p, q = volumes
    _, transposed, size = FORMS[axes]
    options = {"kernel_size": 3, **geometry}
    layer = LAYERS[transposed](p * 5, q * 5, topology=topology, bias=None, **options).double()
    y = torch.randn(2, p * 5, *size, dtype=torch.float64)
    back = layer(y)
    assert back.shape[2:] == transposed(1, 1, **options)(torch.zeros(1, 1, *size)).shape[2:]
    x = torch.randn_like(back)
    forward = deep_prism_nd(
        x, layer.weight, stride=layer.stride, padding=layer.padding, dilation=layer.dilation, topology=topology
    )
    # Output padding of a whole stride makes more of them than there were: those saw zeros.
    forward = forward[(slice(None), slice(None), *(slice(0, n) for n in size))]
    equivalent((forward * y).sum(), (x * back).sum())


@pytest.mark.parametrize("topology", TOPOLOGIES)
@pytest.mark.parametrize(
    "geometry", [{"stride": 2, "padding": 1, "output_padding": 1}, {"kernel_size": 4, "padding": 3}]
)
def test_every_engine_agrees_on_the_adjoint(geometry, topology):
    """The form that is exported, and the engines' own input gradients."""
    layer = DeepPrismTranspose2d(9, topology=topology, bias="channel", **geometry).double()
    nn.init.normal_(layer.bias)
    u = torch.randn(2, 9, 6, 5, dtype=torch.float64)
    with use_engine("reference"):
        expected = layer(u)
    equivalent(layer(u), expected)
    for name in ("torch", "reference"):
        with use_engine(name), torch.inference_mode():
            equivalent(layer(u), expected)
            size = [*expected.shape[2:]]
            rest = [list(layer.stride), list(layer.padding), list(layer.dilation), "zeros", topology]
            again = ops.input_grad(u, layer.weight, [2, 9, *size], *rest)
            equivalent(again + layer.bias[:, None, None], expected)
    exported = torch.export.export(layer, (u,))
    assert not any("prismify" in str(node.target) for node in exported.graph.nodes)
    equivalent(exported.module()(u), expected)


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (DeepPrism1d(5, stride=2), (2, 5, 7)),
        (DeepPrism3d(2, kernel_size=(2, 3, 1), padding=(0, 1, 0)), (1, 2, 3, 3, 2)),
        (DeepPrismTranspose1d(5, stride=2, output_padding=1), (2, 5, 4)),
        (DeepPrismTranspose2d(2, topology="replicate", bias="channel", stride=2), (1, 2, 2, 2)),
        (DeepPrismTranspose3d(4, kernel_size=(2, 3, 1), stride=(2, 1, 1), padding=(0, 1, 0)), (1, 4, 2, 3, 2)),
    ],
    ids=lambda x: type(x).__name__,
)
def test_gradients(layer, shape):
    layer = layer.double()
    u = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    inputs = (u, *layer.parameters())
    assert torch.autograd.gradcheck(lambda u, *_: layer(u), inputs)
    assert torch.autograd.gradgradcheck(lambda u, *_: layer(u), inputs)


@pytest.mark.parametrize("layer", [DeepPrism3d(8), DeepPrismTranspose2d(8, stride=2), DeepPrism1d(8)])
def test_compiled_in_half_precision_and_channels_last(layer):
    axes = layer.spatial_dims
    u = torch.randn(2, 8, *FORMS[axes][2])
    expected = layer(u)
    torch.testing.assert_close(torch.compile(layer, backend="aot_eager", fullgraph=True)(u), expected)
    with torch.autocast("cpu", torch.bfloat16):
        low = layer(u)
    assert low.dtype == torch.bfloat16
    torch.testing.assert_close(low.float(), expected, rtol=0.05, atol=0.1)
    if axes == 2:
        torch.testing.assert_close(layer(u.to(memory_format=torch.channels_last)), expected)
    assert layer.to("meta")(u.to("meta")).shape == expected.shape


def test_output_size_is_taken_as_torch_takes_it():
    conv = nn.ConvTranspose2d(8, 8, 3, stride=2, padding=1)
    layer = DeepPrismTranspose2d.from_conv(conv)
    u = torch.randn(1, 8, 5, 5)
    assert layer(u, output_size=[10, 9]).shape == conv(u, output_size=[10, 9]).shape
    with pytest.raises(ShapeError, match="output_size"):
        layer(u, output_size=[12, 9])


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel:UserWarning")  # torch's own convolutions
def test_even_same_padding_falls_where_torch_puts_it():
    for conv in (nn.Conv1d(1, 1, 4, padding="same"), nn.Conv3d(1, 1, (2, 3, 4), padding="same")):
        conv = conv.double()
        layer = LAYERS[type(conv)].from_conv(conv, channel_kernel_size=1)
        layer.weight.data, layer.bias.data = conv.weight.data[:, :, None], conv.bias.data
        u = torch.randn(1, 1, *FORMS[layer.spatial_dims][2], dtype=torch.float64)
        equivalent(layer(u), conv(u))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DeepPrism1d.from_conv(nn.Conv1d(8, 8, 3, groups=2)), "ungrouped"),
        (lambda: DeepPrism3d.from_conv(nn.Conv2d(8, 8, 3)), "ungrouped 3-D"),
        (lambda: DeepPrismTranspose1d.from_conv(nn.Conv1d(8, 8, 3)), "transposed"),
        (lambda: DeepPrism3d(8, kernel_size=(3, 3)), "3 spatial axes"),
        (lambda: DeepPrism1d(8)(torch.zeros(1, 9, 5)), "expects"),
        (lambda: DeepPrism1d(8, stride=2, padding="same"), "stride 1"),
        (lambda: DeepPrismTranspose2d(8, output_padding=1)(torch.zeros(1, 8, 5, 5)), "output padding"),
        (lambda: DeepPrismTranspose3d(8, output_padding=1)(torch.zeros(1, 8, 5, 5, 5)), "output padding"),
        (lambda: deep_prism_nd(torch.zeros(1, 8, 5), torch.zeros(1, 1, 3, 3, 3), stride=(1,), padding=(0,),
                               dilation=(1,)), "spatial axes"),
        (lambda: deep_prism_transposed(torch.zeros(1, 8, 5), torch.zeros(1, 1, 3, 3)), "5 axes"),
        (lambda: deep_prism_transposed(torch.zeros(1, 8, 5, 5), torch.zeros(1, 1, 3, 3, 3), torch.zeros(3)), "bias"),
    ],
)  # fmt: skip
def test_shapes_that_do_not_fit_are_refused(make, message):
    with pytest.raises(ShapeError, match=message):
        make()


def test_the_adjoint_of_the_adjoint_is_the_operator():
    weight = torch.randn(1, 1, 3, 3, 3, dtype=torch.float64)
    y = torch.randn(1, 6, 5, 5, dtype=torch.float64, requires_grad=True)
    x = deep_prism_transposed(y, weight, stride=(2, 2))
    cotangent = torch.randn_like(x)
    (grad,) = torch.autograd.grad(x, y, cotangent)
    equivalent(grad, deep_prism(cotangent, weight, stride=(2, 2)))


@pytest.mark.parametrize(("layer", "shape"), [
    (DeepPrism1d(32), (64, 32, 33)), (DeepPrism3d(32), (8, 32, 6, 9, 9)), (DeepPrismTranspose2d(32), (4, 32, 16, 16)),
    (DeepPrismTranspose2d(32, kernel_size=4, stride=2, padding=1), (4, 32, 16, 16)),
])  # fmt: skip
@torch.no_grad()
def test_initialisation_keeps_the_variance_of_the_signal(layer, shape):
    u = torch.randn(shape)
    ratios = []
    for _ in range(40):
        layer.reset_parameters()
        ratios.append(float(layer(u).var() / u.var()))
    assert 0.6 < sum(ratios) / len(ratios) < 1.2  # zero padding takes some away at the edges


class Mixed(nn.Module):
    """Every kind of convolution once, between an input and an output layer."""

    def __init__(self, axes: int, width: int = 16) -> None:
        super().__init__()
        conv, transposed, _ = FORMS[axes]
        self.head, self.tail = conv(3, width, 3, padding=1), conv(width, 3, 3, padding=1)
        self.same, self.point = conv(width, width, 3, padding=1), conv(width, width, 1)
        self.down = conv(width, 2 * width, 3, stride=2)
        self.up = transposed(2 * width, width, 4, stride=2, padding=1)
        self.inner_up = transposed(width, width, 3, stride=1, padding=1)
        self.deep = conv(width, width, 3, padding=1, groups=width)

    def forward(self, x: Tensor) -> Tensor:
        h = F.silu(self.point(F.silu(self.same(self.head(x)))))
        pad = (0, 1) * (h.dim() - 2)
        h = self.up(F.silu(self.down(F.pad(h, pad))))
        return self.tail(self.deep(self.inner_up(h)))


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_models_of_every_rank_are_converted_saved_and_loaded(axes, tmp_path):
    model, x = Mixed(axes), torch.randn(1, 3, *(8, 8, 8)[:axes])
    rows = {row.name: row for row in scan(model, (x,)).layers}
    assert [n for n in rows if rows[n].decision == "replace"] == ["same", "point", "inner_up"]
    assert rows["deep"].reason == "depthwise convolution"
    plan = scan(model, (x,), policy=Policy("volumes", min_volume=8))
    rows = {row.name: row for row in plan.layers}
    assert rows["up"].operator.volumes == (2, 1)
    converted = convert(model, plan, args=(x,)).eval()
    assert sum(p.numel() for p in converted.parameters()) == plan.parameters.after
    assert isinstance(converted.point, Prism)
    assert converted(x).shape == model(x).shape
    # The multiply-adds that the plan promised are those that a scan of the converted model counts.
    again = {row.name: row for row in scan(converted, (x,)).layers}
    assert {n: again[n].macs_before for n in rows} == {n: rows[n].macs_after for n in rows}
    assert {n for n in rows if "already" in again[n].reason} == {r.name for r in plan.replaced}
    save(converted, tmp_path / "out")
    own = f"{Mixed.__module__}.Mixed"
    for loaded in (load(tmp_path / "out", allow=[own]), load(tmp_path / "out", model=Mixed(axes))):
        exact(loaded(x), converted(x))


def test_a_transposed_form_of_the_functional_kind_refuses_ranks_it_does_not_know():
    with pytest.raises(ShapeError, match="spatial axes"):
        deep_prism_transposed_nd(torch.zeros(1, 8, 5, 5), torch.zeros(1, 1, 3, 3), stride=(1,), padding=(0,),
                                 output_padding=(0,), dilation=(1,))  # fmt: skip


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_graphs_and_programs_of_every_rank_are_rewritten(axes):
    x = torch.randn(1, 3, *(8, 8, 8)[:axes])
    program = torch.export.export(Mixed(axes).eval(), (x,))
    policy = Policy("volumes", min_volume=8)
    for model in (program, program.module()):
        converted = convert(model, args=(x,), policy=policy)
        assert {r.name for r in converted.prismify_plan.replaced} == {"same", "point", "down", "up", "inner_up"}
        run = converted.module() if model is program else converted
        assert run(x).shape == x.shape
