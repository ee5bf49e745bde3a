"""Norm, activation, operator and residual sum in one, against the composition in float64."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import grad, vmap
from torch.utils._python_dispatch import TorchDispatchMode

from prismify.errors import ShapeError
from prismify.kernels import deep_prism, engines_report, explain, norm_act_deep_prism, reference, use_engine
from prismify.kernels.cpu import support as cpu
from prismify.kernels.fused import ops as fused_ops
from prismify.kernels.problem import Geometry, NormAct, make_problem
from tests.kernels.cases import LAYOUTS, Case, geometries, kernels, laid_out, shapes
from tests.tolerances import exact, rounded

F32 = torch.float32

#: These look at the kernels themselves; without Numba there are none, and the composition serves all calls.
needs_numba = pytest.mark.skipif(cpu.unavailable() is not None, reason="numba is not installed")


@pytest.fixture(autouse=True)
def _fuse_small_cases(monkeypatch):
    """As if it paid."""
    monkeypatch.setattr(cpu, "MIN_GROUPS", 1)
    monkeypatch.setattr(cpu, "MIN_NUMBERS", 1)


@dataclass(frozen=True)
class Block:
    """A call: the operator's case and what surrounds it."""

    case: Case
    groups: int = 1
    affine: bool = True
    activation: str = "silu"
    residual: str | None = None

    def __str__(self) -> str:
        return f"{self.case} {self.groups} groups {self.affine} {self.activation} {self.residual}"

    def inputs(self) -> dict[str, Tensor]:
        """Fresh random leaves by argument name, of a mean and spread that a norm has to take away."""
        x, weight, bias = self.case.inputs()
        leaves = {"x": laid_out((x.detach() * 2 + 0.5), self.case.layout), "weight": weight.detach()}
        if bias is not None:
            leaves["bias"] = bias.detach()
        if self.affine:
            leaves["norm_weight"] = (torch.randn(x.shape[1]) * 0.5 + 1).to(x.dtype)
            leaves["norm_bias"] = torch.randn(x.shape[1]).to(x.dtype)
        if self.residual is not None:
            shape = reference.deep_prism(x.detach().double(), weight.detach().double(), **self.case.geometry).shape
            leaves["residual"] = laid_out(torch.randn(shape).to(x.dtype), self.residual)
        return {name: leaf.requires_grad_() for name, leaf in leaves.items()}

    def call(self, leaves: dict[str, Tensor]) -> Tensor:
        return norm_act_deep_prism(**leaves, num_groups=self.groups, activation=self.activation, **self.case.geometry)

    def definition(self, leaves: dict[str, Tensor]) -> Tensor:
        u = F.group_norm(leaves["x"], self.groups, leaves.get("norm_weight"), leaves.get("norm_bias"))
        u = F.silu(u) if self.activation == "silu" else u
        y = reference.deep_prism(u, leaves["weight"], leaves.get("bias"), **self.case.geometry)
        return y + leaves["residual"] if "residual" in leaves else y


def check(block: Block) -> None:
    leaves = block.inputs()
    doubles = {name: leaf.detach().double().requires_grad_() for name, leaf in leaves.items()}
    output, wanted = block.call(leaves), block.definition(doubles)
    grad = torch.randn_like(output)
    ours = torch.autograd.grad(output, list(leaves.values()), grad)
    theirs = torch.autograd.grad(wanted, list(doubles.values()), grad.double())
    assert output.dtype == block.case.dtype
    rounded(output, wanted.detach(), slack(block))
    for name, a, b in zip(leaves, ours, theirs, strict=True):
        assert a.dtype == block.case.dtype, name
        rounded(a, b, slack(block))


def slack(block: Block) -> torch.dtype:
    return block.case.dtype


def mixed(cases: list[Case]) -> list[Block]:
    """Groups, activations, affine norms and residuals, spread over the operator's cases."""
    blocks = []
    for i, case in enumerate(cases):
        channels = case.volumes[0] * case.depth
        groups = [g for g in (1, 2, 3, channels) if channels % g == 0]
        residual = (None, "contiguous", "channels_last", "strided")[i % 4]
        activation = "none" if i % 5 == 4 else "silu"
        blocks.append(Block(case, groups[i % len(groups)], i % 3 != 2, activation, residual))
    return blocks


@pytest.mark.parametrize("block", mixed([replace(c, dtype=F32) for c in geometries()]), ids=str)
def test_geometries(block):
    check(block)


@pytest.mark.parametrize("block", mixed(kernels()), ids=str)
def test_kernels_types_and_layouts(block):
    check(block)


# One number a group has no spread: its gradients are differences of equal numbers.
SHAPES = [case for case in shapes() if case.size[0] * case.size[1] > 1]


@pytest.mark.parametrize("block", mixed(SHAPES), ids=str)
def test_odd_and_tiny_shapes(block):
    check(block)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("groups", [1, 8, 40])
def test_large_enough_for_threads(layout, groups):
    case = Case(2, depth=40, size=(32, 32), dtype=F32, layout=layout)
    for residual in (None, layout, "strided"):
        check(Block(case, groups, residual=residual))


@needs_numba
def test_it_is_fused():
    """One autograd function, which keeps no activated tensor; the composition where nothing fuses."""
    block = Block(Case(2, depth=16, size=(16, 24), dtype=F32), 4, residual="contiguous")
    leaves = block.inputs()
    assert type(block.call(leaves).grad_fn).__name__ == "_FusedBackward"
    given = {leaf.data_ptr() for leaf in leaves.values()}
    kept = []

    def keep(tensor: Tensor) -> Tensor:
        if tensor.data_ptr() not in given:
            kept.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        block.call(leaves)
    assert sum(kept) == 2 * (2 * 4 + 2 * 16)
    with use_engine("torch"):
        assert type(block.call(leaves).grad_fn).__name__ != "_FusedBackward"


@needs_numba
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("padding_mode", ["zeros", "reflect"])
def test_threads_do_not_matter(dtype, padding_mode):
    geometry = {"padding": (1, 1), "padding_mode": padding_mode}
    block = Block(Case(2, depth=24, size=(40, 40), dtype=dtype, geometry=geometry), 8, residual="contiguous")
    leaves, results, before = block.inputs(), [], torch.get_num_threads()
    grad = torch.randn_like(block.call(leaves))
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            output = block.call(leaves)
            results.append([output, *torch.autograd.grad(output, list(leaves.values()), grad)])
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            exact(a, b)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_silu_is_accurate_everywhere(dtype):
    """A norm that changes nothing and a kernel of one tap leave the activation, of every size of number."""
    far = 90.0 if dtype == torch.float32 else 710.0
    z = torch.cat([torch.linspace(-far, far, 4001, dtype=torch.float64), torch.tensor([0.0, 1e-30, -1e-30])])
    scale, shift = torch.tensor([0.0, 1.0]).to(dtype), torch.zeros(2, dtype=dtype)
    for value in z[::37].tolist():
        shift[1] = value
        x, weight = torch.randn(1, 2, 1, 40, dtype=dtype), torch.tensor([0.0, 1.0, 0.0], dtype=dtype)
        y = norm_act_deep_prism(x, weight.reshape(3, 1, 1), num_groups=2, norm_weight=scale * 0, norm_bias=shift)
        wanted = F.silu(torch.tensor(value, dtype=dtype).double())
        # Below the smallest normal number the type has no digits to be right in.
        torch.testing.assert_close(
            y[0, 1].double(), wanted.expand(1, 40), rtol=4 * torch.finfo(dtype).eps, atol=100 * torch.finfo(dtype).tiny
        )


def test_moments_far_from_zero():
    """A mean of a thousand deviations takes no more digits than it has to."""
    block = Block(Case(2, depth=16, size=(16, 24), dtype=F32), 4)
    leaves = block.inputs()
    x = (leaves["x"].detach() + 1000).double().float()
    doubles = {name: leaf.detach().double() for name, leaf in leaves.items()}
    ours = block.call({**leaves, "x": x})
    theirs = F.group_norm(x, 4, leaves["norm_weight"], leaves["norm_bias"])
    wanted = block.definition({**doubles, "x": x.double()})
    normalised = F.group_norm(x.double(), 4, doubles["norm_weight"], doubles["norm_bias"])
    torchs = (theirs - normalised).norm() / normalised.norm()
    assert (ours - wanted).norm() / wanted.norm() < 2 * torchs


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("place", [(0, 0, 0, 0), (1, 15, 15, 23)])
@pytest.mark.parametrize("size", [(16, 24), (5, 7)])
def test_nan_and_inf_travel(value, place, size):
    """To what sees their group, as in the composition."""
    block = Block(Case(2, depth=16, size=size, dtype=F32), 4, residual="contiguous")
    leaves = {name: leaf.detach() for name, leaf in block.inputs().items()}
    place = tuple(min(p, n - 1) for p, n in zip(place, leaves["x"].shape, strict=True))
    for name in ("x", "residual"):
        spoilt = {**leaves, name: leaves[name].clone()}
        spoilt[name][place] = value
        fused = block.call(spoilt)
        torch.testing.assert_close(fused, block.definition(spoilt), equal_nan=True, rtol=1e-4, atol=1e-4)
        assert 0 < fused.isfinite().logical_not().sum() <= 6 * fused[0, 0].numel()
    x = leaves["x"].requires_grad_()
    cotangent = torch.zeros_like(x)
    cotangent[place] = value
    (ours,) = torch.autograd.grad(block.call(leaves), x, cotangent)
    (theirs,) = torch.autograd.grad(block.definition(leaves), x, cotangent)
    assert torch.equal(ours.isfinite(), theirs.isfinite())


@needs_numba
# opcheck itself reads the gradients of its copies, which are no leaves.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize(("affine", "bias", "residual"), [(True, "scalar", "contiguous"), (False, None, None)])
def test_opcheck(layout, affine, bias, residual):
    block = Block(Case(2, depth=8, bias=bias, dtype=F32, layout=layout), 4, affine, residual=residual)
    leaves = block.inputs()
    tensors = [leaves.get(n) for n in ("x", "weight", "bias", "residual", "norm_weight", "norm_bias")]
    words = fused_ops.words(NormAct(4, 1e-5, "silu"), Geometry(padding=(1, 1)))
    torch.library.opcheck(fused_ops.norm_act_deep_prism, (*tensors, *words))
    output, *saved = fused_ops.norm_act_deep_prism(*[None if t is None else t.detach() for t in tensors], *words)
    inputs = [None if t is None else t.detach() for i, t in enumerate(tensors) if i != 3]
    torch.library.opcheck(fused_ops.grads, (torch.randn_like(output), *inputs, *saved, True, False, *words))


@pytest.mark.parametrize("geometry", [{}, {"stride": (2, 1), "padding_mode": "circular"}, {"topology": "replicate"}])
@pytest.mark.parametrize("activation", ["silu", "none"])
def test_gradcheck(geometry, activation):
    case = Case(1, depth=4, size=(3, 4), geometry={"padding": (1, 1), **geometry})
    block = Block(case, 2, activation=activation, residual="contiguous")
    leaves = block.inputs()

    def function(*tensors: Tensor) -> Tensor:
        return block.call(dict(zip(leaves, tensors, strict=True)))

    assert torch.autograd.gradcheck(function, tuple(leaves.values()))
    assert torch.autograd.gradgradcheck(function, tuple(leaves.values()))


def test_gradient_penalty():
    block = Block(Case(2, depth=16, size=(8, 24)), 4, residual="contiguous")
    leaves = block.inputs()

    def penalty(output: Tensor) -> tuple[Tensor, ...]:
        (g,) = torch.autograd.grad(output.tanh().sum(), leaves["x"], create_graph=True)
        return torch.autograd.grad(g.square().sum(), list(leaves.values()), allow_unused=True, materialize_grads=True)

    for a, b in zip(penalty(block.call(leaves)), penalty(block.definition(leaves)), strict=True):
        rounded(a, b)


@pytest.mark.parametrize("wanted", ["x", "weight", "bias", "residual", "norm_weight", "norm_bias"])
def test_gradients_only_where_asked(wanted):
    block = Block(Case(2, depth=16, size=(8, 24)), 4, residual="contiguous")
    leaves = {name: leaf.detach() for name, leaf in block.inputs().items()}
    leaves[wanted].requires_grad_()
    (ours,) = torch.autograd.grad(block.call(leaves).square().sum(), leaves[wanted])
    (theirs,) = torch.autograd.grad(block.definition(leaves).square().sum(), leaves[wanted])
    rounded(ours, theirs)


@needs_numba
@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_compile(backend):
    block = Block(Case(2, depth=16, size=(8, 24), dtype=F32), 4, residual="contiguous")
    leaves, targets = block.inputs(), set()

    def look(module, _):
        targets.update(str(node.target) for node in module.graph.nodes)
        return module.forward

    def call(leaves: dict[str, Tensor]) -> Tensor:
        return block.call(leaves)

    torch.compile(call, fullgraph=True, backend=look)(leaves)
    assert "prismify.norm_act_deep_prism.default" in targets
    torch.compiler.reset()
    compiled = torch.compile(call, fullgraph=True, backend=backend)
    wanted, output = call(leaves), compiled(leaves)
    exact(output, wanted)
    grad = torch.randn_like(output)
    for a, b in zip(
        torch.autograd.grad(output, list(leaves.values()), grad),
        torch.autograd.grad(wanted, list(leaves.values()), grad),
        strict=True,
    ):
        torch.testing.assert_close(a, b)
    # Another batch: symbolic shapes.
    other = {
        name: (leaf[:1].repeat_interleave(3, 0) if leaf.dim() == 4 else leaf).detach().requires_grad_()
        for name, leaf in leaves.items()
    }
    torch.testing.assert_close(compiled(other), call(other))
    torch.compiler.reset()


def test_compiled_gradients_of_what_is_not_fused():
    """Inside the registered operator too, should the sizes of a compiled call become small ones."""
    block = Block(Case(2, depth=16, size=(8, 24), dtype=F32), 4, residual="contiguous")
    leaves = block.inputs()
    wanted = [block.definition(leaves), *torch.autograd.grad(block.definition(leaves).sum(), list(leaves.values()))]
    targets = set()

    def look(module, _):
        targets.update(str(node.target) for node in module.graph.nodes)
        return module.forward

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cpu, "MIN_NUMBERS", 1 << 30)
        torch.compile(block.call, fullgraph=True, backend=look)(leaves)
        assert "prismify.norm_act_deep_prism.default" not in targets
        tensors = [leaves.get(n) for n in ("x", "weight", "bias", "residual", "norm_weight", "norm_bias")]
        words = fused_ops.words(NormAct(4, 1e-5, "silu"), Geometry(padding=(1, 1)))
        output = fused_ops.norm_act_deep_prism(*tensors, *words)[0]
        ours = [output, *torch.autograd.grad(output.sum(), list(leaves.values()))]
    for a, b in zip(ours, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_export_needs_no_prismify():
    class Net(torch.nn.Module):
        def forward(self, x: Tensor, weight: Tensor) -> Tensor:
            return norm_act_deep_prism(x, weight, num_groups=4, residual=x, padding=(1, 1))

    x, weight = torch.randn(2, 16, 8, 8), torch.randn(3, 3, 3)
    program = torch.export.export(Net(), (x, weight))
    assert not any("prismify" in str(node.target) for node in program.graph.nodes)
    torch.testing.assert_close(program.module()(x, weight), Net()(x, weight), rtol=1e-4, atol=1e-4)


def test_transforms():
    block = Block(Case(2, depth=8, size=(4, 5)), 4)
    leaves = {name: leaf.detach() for name, leaf in block.inputs().items()}

    def loss(x: Tensor, call) -> Tensor:
        return call({**leaves, "x": x}).square().sum()

    rounded(grad(loss)(leaves["x"], block.call), grad(loss)(leaves["x"], block.definition))
    many = torch.randn(3, *leaves["x"].shape, dtype=torch.float64)
    ours = vmap(grad(loss), (0, None))(many, block.call)
    rounded(ours, torch.stack([grad(loss)(x, block.definition) for x in many]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_autocast(dtype):
    """As the parts one after the other: the operator computes in the lower type."""
    block = Block(Case(2, depth=16, size=(8, 24), dtype=dtype), 4, residual="contiguous")
    leaves = {name: leaf.detach().float().requires_grad_() for name, leaf in block.inputs().items()}
    leaves["x"] = leaves["x"].detach().to(dtype).requires_grad_()
    words = fused_ops.words(NormAct(4, 1e-5, "silu"), Geometry(padding=(1, 1)))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = block.call(leaves)
        tensors = [leaves[n] for n in ("x", "weight", "bias", "residual", "norm_weight", "norm_bias")]
        registered = fused_ops.norm_act_deep_prism(*tensors, *words)[0]
        u = F.silu(F.group_norm(leaves["x"], 4, leaves["norm_weight"], leaves["norm_bias"]))
        parts = deep_prism(u, leaves["weight"], leaves["bias"], padding=(1, 1)) + leaves["residual"]
    assert output.dtype == parts.dtype
    exact(output, parts)
    exact(registered, parts)
    output.square().sum().backward()
    assert all(leaf.grad.dtype == leaf.dtype for leaf in leaves.values())


@needs_numba
def test_modes_and_fakes_see_one_operator():
    seen = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            seen.append(str(function))
            return function(*args, **(kwargs or {}))

    block = Block(Case(2, depth=8, dtype=F32), 4)
    leaves = block.inputs()
    with Watch():
        output = block.call(leaves)
    assert "prismify.norm_act_deep_prism.default" in seen
    exact(output, block.call(leaves))
    meta = {name: leaf.detach().to("meta") for name, leaf in leaves.items()}
    assert block.call(meta).shape == output.shape


@pytest.mark.parametrize("shape", [(0, 8, 5, 5), (1, 1, 1, 1)])
def test_empty_and_single(shape):
    """Whatever torch's norm has to say of them."""
    x, weight = torch.zeros(shape, requires_grad=True), torch.randn(1, 3, 3, requires_grad=True)

    def ours() -> Tensor:
        return norm_act_deep_prism(x, weight, num_groups=1, padding=(1, 1))

    if shape[0] == 0:
        ours().sum().backward()
        assert x.grad.shape == shape
        assert not weight.grad.any()
    else:
        with pytest.raises(ValueError, match="more than 1 value"):
            ours()


@needs_numba
def test_who_fuses_is_told(monkeypatch):
    rows = {row["engine"]: row["fuses"] for row in engines_report()}
    assert rows == {"numba": True, "triton": False, "torch": False, "reference": False}
    problem, block = make_problem((2, 16, 8, 8), (3, 3, 3), 0, Geometry()), NormAct(4, 1e-5, "silu")
    assert explain(problem, "cpu", F32, block) == {"engine": "numba", "passed_over": {}, "why_not_fused": None}
    assert "one after the other" in explain(problem, "mps", F32, block)["why_not_fused"]
    monkeypatch.undo()
    assert "numbers are so few" in explain(problem, "cpu", F32, block)["why_not_fused"]
    assert "groups are too few" in explain(problem, "cpu", F32, NormAct(1, 1e-5, "silu"))["why_not_fused"]


def test_wrong_arguments_are_named():
    x, weight = torch.zeros(1, 6, 4, 4), torch.zeros(3, 3, 3)
    with pytest.raises(ShapeError, match="gelu"):
        norm_act_deep_prism(x, weight, num_groups=2, activation="gelu")
    with pytest.raises(ShapeError, match="residual"):
        norm_act_deep_prism(x, weight, num_groups=2, residual=x)
    with pytest.raises(ShapeError, match="odd"):
        norm_act_deep_prism(x, torch.zeros(2, 3, 3), num_groups=2)
    with pytest.raises(RuntimeError, match="divisible"):
        norm_act_deep_prism(x, weight, num_groups=4)
