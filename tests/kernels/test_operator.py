"""The operator among torch's own: registration, differentiation of every kind, compilation, export, modes."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn
from torch.func import functional_call, grad, hessian, jacrev, vmap
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

from prismify.kernels import deep_prism, ops, prism, use_engine
from prismify.kernels.cpu.records import template_of
from prismify.kernels.cpu.run import number_of
from prismify.kernels.cpu.support import vector_bytes
from prismify.kernels.problem import Geometry, make_problem
from prismify.layers import DeepPrism, Prism, PrismAttn
from tests.kernels.cases import Case
from tests.tolerances import exact, rounded

PLAIN = ([1, 1], [1, 1], [1, 1], "zeros", "zero")
MIXED = ([2, 1], [1, 2], [1, 2], "circular", "replicate")


class Small(nn.Module):
    """Every kind of layer once."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.down = DeepPrism(16), DeepPrism(16, stride=2, topology="circular", bias="channel")
        self.point, self.attention = Prism(16, dim=1), PrismAttn(16, heads=2)

    def forward(self, u: torch.Tensor) -> torch.Tensor:
        h = nn.functional.silu(self.first(u))
        return self.attention(self.point(self.down(h)))


# opcheck itself reads the gradients of its copies, which are no leaves.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
@pytest.mark.parametrize("rest", [PLAIN, MIXED])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("volumes", [(1, 1), (2, 1)])
def test_opcheck(rest, layout, volumes):
    u, weight, bias = Case(volumes=volumes, dtype=torch.float32, layout=layout).inputs()
    torch.library.opcheck(ops.deep_prism, (u, weight, bias, *rest))
    cotangent = torch.randn_like(ops.deep_prism(u, weight, None, *rest)).detach().requires_grad_()
    torch.library.opcheck(ops.input_grad, (cotangent, weight, list(u.shape), *rest))
    torch.library.opcheck(ops.weight_grad, (cotangent, u, list(weight.shape), volumes[1], *rest))


@pytest.mark.parametrize("through", ["function", "registry"])
@pytest.mark.parametrize("geometry", [{"padding": (1, 1)}, {"stride": (2, 1), "padding_mode": "circular"}])
@pytest.mark.parametrize("topology", ["zero", "replicate"])
def test_gradcheck(through, geometry, topology):
    case = Case(1, depth=3, size=(3, 4), geometry={"padding": (1, 1), **geometry, "topology": topology})
    g = case.geometry
    pairs = [list(g.get(k, d)) for k, d in (("stride", (1, 1)), ("padding", (1, 1)), ("dilation", (1, 1)))]

    def function(u, weight, bias):
        if through == "function":
            return deep_prism(u, weight, bias, **g)
        return ops.deep_prism(u, weight, bias, *pairs, g.get("padding_mode", "zeros"), topology)

    assert torch.autograd.gradcheck(function, case.inputs())
    assert torch.autograd.gradgradcheck(function, case.inputs())


def test_gradient_penalty():
    """The second derivative as losses use it: the gradient of the norm of a gradient."""
    u, weight, _ = Case(bias=None).inputs()

    def penalty():
        (g,) = torch.autograd.grad(deep_prism(u, weight, padding=(1, 1)).tanh().sum(), u, create_graph=True)
        return torch.autograd.grad(g.square().sum(), (u, weight))

    ours = penalty()
    with use_engine("reference"):
        for a, b in zip(ours, penalty(), strict=True):
            rounded(a, b)


def test_compile():
    model, u = Small(), torch.randn(2, 16, 8, 10, requires_grad=True)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    wanted, output = model(u), compiled(u)
    torch.testing.assert_close(output, wanted)
    cotangent = torch.randn_like(output)
    leaves = [u, *model.parameters()]
    for a, b in zip(
        torch.autograd.grad(output, leaves, cotangent), torch.autograd.grad(wanted, leaves, cotangent), strict=True
    ):
        torch.testing.assert_close(a, b)
    # Another batch and size: symbolic shapes.
    other = torch.randn(3, 16, 12, 6)
    torch.testing.assert_close(compiled(other), model(other))


def test_compile_keeps_the_operator_whole():
    targets = set()

    def look(module, _):
        targets.update(str(node.target) for node in module.graph.nodes)
        return module.forward

    torch.compile(DeepPrism(16), fullgraph=True, backend=look)(torch.randn(1, 16, 4, 4))
    assert "prismify.deep_prism.default" in targets
    torch.compiler.reset()
    targets.clear()
    with use_engine("torch"):
        torch.compile(DeepPrism(16), fullgraph=True, backend=look)(torch.randn(1, 16, 4, 4))
    assert not any("prismify" in target for target in targets)


@pytest.mark.parametrize("strict", [True, False])
def test_export_needs_no_prismify(strict):
    model, u = Small().eval(), torch.randn(2, 16, 8, 8)
    batch, height = torch.export.Dim("batch", min=1, max=64), torch.export.Dim("height", min=4, max=64)
    program = torch.export.export(model, (u,), dynamic_shapes=({0: batch, 2: 2 * height},), strict=strict)
    assert not any("prismify" in str(node.target) for node in program.graph.nodes)
    for size in ((2, 16, 8, 8), (5, 16, 12, 8)):
        u = torch.randn(size)
        torch.testing.assert_close(program.module()(u), model(u), rtol=1e-4, atol=1e-4)


def test_vmap_and_per_sample_gradients():
    weight, many = torch.randn(3, 3, 3, dtype=torch.float64), torch.randn(4, 2, 6, 5, 5, dtype=torch.float64)

    def one(w, u):
        return deep_prism(u, w, padding=(1, 1))

    exact(vmap(one, (None, 0))(weight, many), torch.stack([one(weight, u) for u in many]))
    exact(vmap(one, (None, 1), 1)(weight, many.transpose(0, 1)), vmap(one, (None, 0))(weight, many).transpose(0, 1))
    weights = torch.randn(4, 3, 3, 3, dtype=torch.float64)
    exact(vmap(one)(weights, many), torch.stack([one(w, u) for w, u in zip(weights, many, strict=True)]))

    def loss(w, u):
        return one(w, u).square().sum()

    for axis, args in enumerate(((weight, many), (weight, many))):
        ours = vmap(grad(loss, axis), (None, 0))(*args)
        with use_engine("reference"):
            rounded(ours, vmap(grad(loss, axis), (None, 0))(*args))


# torch.autograd.forward_ad imports decompositions that it compiles with a deprecated function of its own.
@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:FutureWarning")
def test_jacobians():
    u, weight = torch.randn(1, 3, 3, 3, dtype=torch.float64), torch.randn(3, 3, 3, dtype=torch.float64)

    def f(u, w):
        return deep_prism(u, w, padding=(1, 1)).pow(3).sum()

    ours = (jacrev(f, 1)(u, weight), *(block for row in hessian(f, (0, 1))(u, weight) for block in row))
    with use_engine("reference"):
        theirs = (jacrev(f, 1)(u, weight), *(block for row in hessian(f, (0, 1))(u, weight) for block in row))
    for a, b in zip(ours, theirs, strict=True):
        rounded(a, b)
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(u, torch.ones_like(u))
        tangent = torch.autograd.forward_ad.unpack_dual(deep_prism(dual, weight, padding=(1, 1))).tangent
    exact(tangent, deep_prism(torch.ones_like(u), weight, padding=(1, 1)))


def test_functional_call_and_checkpoint():
    model, u = Small(), torch.randn(2, 16, 6, 6, requires_grad=True)
    wanted = torch.autograd.grad(model(u).square().sum(), u)[0]
    output = functional_call(model, dict(model.named_parameters()), (u,))
    exact(torch.autograd.grad(output.square().sum(), u)[0], wanted)
    again = checkpoint(model, u, use_reentrant=False)
    exact(torch.autograd.grad(again.square().sum(), u)[0], wanted)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast(dtype):
    """As a convolution does: computes and answers in the lower type, gradients arrive in the parameter's."""
    layer, u = DeepPrism(16), torch.randn(2, 16, 6, 6, requires_grad=True)
    with torch.autocast("cpu", dtype=dtype):
        output = layer(u)
        registered = ops.deep_prism(u, layer.weight, layer.bias, *PLAIN)
        double = deep_prism(u.double(), layer.weight.double(), padding=(1, 1))
    assert output.dtype == registered.dtype == dtype
    assert double.dtype == torch.float64
    exact(output, registered)
    output.float().square().sum().backward()
    assert u.grad.dtype == layer.weight.grad.dtype == layer.bias.grad.dtype == torch.float32


def test_modes_and_fakes_see_one_operator():
    seen = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            seen.append(str(function))
            return function(*args, **(kwargs or {}))

    u, weight, bias = Case(dtype=torch.float32).inputs()
    with Watch():
        deep_prism(u, weight, bias, padding=(1, 1))
    assert "prismify.deep_prism.default" in seen
    with torch.device("meta"):
        layer = Small()
    assert layer(torch.zeros(2, 16, 8, 8, device="meta")).shape == (2, 16, 4, 4)
    with torch.inference_mode():
        rounded(deep_prism(u, weight, bias, padding=(1, 1)), deep_prism(u, weight, bias, padding=(1, 1)).double())


def test_tokens_are_not_copied_into_another_order():
    tokens = torch.randn(2, 5, 12)
    assert prism(tokens, torch.randn(3)).is_contiguous()
    maps = torch.randn(2, 12, 3, 4).to(memory_format=torch.channels_last)
    for result in (prism(maps, torch.randn(3), dim=1), deep_prism(maps, torch.randn(3, 3, 3), padding=(1, 1))):
        assert result.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    ("kernel", "dtype"), [(3, torch.float32), (9, torch.float32), (3, torch.bfloat16), (1, torch.float64)]
)
def test_rows_of_tokens_of_any_length(kernel, dtype):
    """Whole vectors, two that overlap, a row as long as one vector, and what is too short for any."""
    lanes = vector_bytes() // max(4, dtype.itemsize)
    lengths = (lanes - 1, lanes, 2 * lanes - 1, 2 * lanes, 2 * lanes + 1, 5 * lanes - 1)
    for topology, channels in itertools.product(("zero", "replicate", "circular"), lengths):
        for volumes in (1, 3):
            u = torch.randn(2, 35, channels).to(dtype).requires_grad_()
            weight, bias = (torch.randn(n).to(dtype).requires_grad_() for n in ((volumes, 1, kernel), (volumes,)))
            outside = torch.randn(2, 35, volumes * channels).to(dtype)
            y = prism(u, weight, bias, topology=topology)
            found = (y, *torch.autograd.grad(y, (u, weight, bias), outside))
            with use_engine("reference"):
                wide = [x.detach().double().requires_grad_() for x in (u, weight, bias)]
                z = prism(*wide, topology=topology)
                wanted = (z, *torch.autograd.grad(z, wide, outside.double()))
            for a, b in zip(found, wanted, strict=True):
                rounded(a.detach(), b.detach())


def test_rows_are_read_where_they_lie():
    """By the kernel that packs nothing, where it can: forward and the input's gradient."""
    tokens = make_problem((64, 1, 1, 128), (1, 1, 1, 1, 3), 0, Geometry(padding=(0, 1)))
    strides, number = (128, 128, 128, 1), number_of(torch.float32)
    for job, kernel in (("forward", "rows"), ("input_grad", "rows"), ("weight_grad", "correlate_rows")):
        assert template_of(tokens, job, strides, strides, number, 1).kernel == kernel
    maps = make_problem((1, 64, 8, 128), (3, 3, 3), 0, Geometry(padding=(1, 1)))
    strides = (64 * 8 * 128, 8 * 128, 128, 1)
    assert template_of(maps, "forward", strides, strides, number, 1).kernel == "forward"


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compiled_gradients_of_what_no_fast_engine_serves(backend):
    u = torch.randn(1, 32 * 16, 5, 5, requires_grad=True)
    weight = torch.randn(32, 32, 3, 3, 3, requires_grad=True)

    def run(u, weight):
        return deep_prism(u, weight, padding=(1, 1))

    wanted = torch.autograd.grad(run(u, weight).square().sum(), (u, weight))
    got = torch.autograd.grad(torch.compile(run, backend=backend)(u, weight).square().sum(), (u, weight))
    for mine, right in zip(got, wanted, strict=True):
        rounded(mine, right.double())
    torch._dynamo.reset()
