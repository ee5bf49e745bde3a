"""What `fuse` finds, what it leaves alone, and that a fused model computes what it computed before."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

import prismify
from prismify.errors import PrismifyError
from prismify.kernels import deep_prism, norm_act_deep_prism
from prismify.kernels.engines import opaque
from prismify.layers import DeepPrism
from prismify.rewrite import fusion
from tests.tolerances import exact, rounded

needs_engine = pytest.mark.skipif(
    not opaque("cpu"), reason="without Numba the operator is torch's own operators, which compilers see through"
)


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


class Block(nn.Module):
    """A residual block as LDM and diffusers write it; `style` picks among their ways to say the same."""

    def __init__(self, width: int = 16, style: str = "diffusers") -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.GroupNorm(4, width), nn.GroupNorm(4, width)
        self.conv1, self.conv2 = DeepPrism(width, bias="channel"), DeepPrism(width)
        self.dropout = nn.Dropout(0.0)
        self.style = style
        nn.init.normal_(self.norm1.weight)
        nn.init.normal_(self.norm2.bias)

    def forward(self, x: Tensor) -> Tensor:
        if self.style == "diffusers":
            h = self.conv1(F.silu(self.norm1(x)))
            h = self.conv2(self.dropout(F.silu(self.norm2(h))))
            return (x + h) / 1.0
        if self.style == "compvis":
            h = self.norm1(x)
            h = self.conv1(h * torch.sigmoid(h))
            h = self.norm2(h)
            h = self.conv2(self.dropout(torch.sigmoid(h) * h))
            return x + h
        h = self.conv1(F.silu(self.norm1(x), inplace=True))
        h = self.conv2(F.silu(self.norm2(h), inplace=True))
        h += x
        return h


def graphs_of(model: Callable[..., Any], *args: Tensor) -> list[fx.GraphModule]:
    """The graphs that Dynamo makes of a call, fused."""
    found: list[fx.GraphModule] = []

    def backend(graph_module: fx.GraphModule, example_inputs: list[Any]) -> Callable[..., Any]:
        fusion.fuse_graph(graph_module)
        found.append(graph_module)
        return graph_module.forward

    torch.compile(model, backend=backend)(*args)
    return found


def fused_calls(graphs: list[fx.GraphModule]) -> list[fx.Node]:
    return [n for g in graphs for n in g.graph.nodes if n.target is norm_act_deep_prism]


@needs_engine
@pytest.mark.parametrize("style", ["diffusers", "compvis", "in place"])
def test_both_halves_of_a_block_are_found(style: str) -> None:
    block = Block(style=style)
    calls = fused_calls(graphs := graphs_of(block, torch.randn(2, 16, 5, 7)))
    assert [c.kwargs["residual"] is None for c in calls] == [True, False]
    assert {c.kwargs["activation"] for c in calls} == {"silu"}
    names = {str(n.target) for g in graphs for n in g.graph.nodes}
    assert not any(word in name for name in names for word in ("group_norm", "silu", "sigmoid", "dropout"))


@pytest.mark.parametrize("style", ["diffusers", "compvis", "in place"])
def test_a_fused_model_computes_and_learns_as_before(style: str) -> None:
    block = Block(style=style)
    x = torch.randn(2, 16, 9, 7)
    definition = copy.deepcopy(block).double()
    u, v = x.clone().requires_grad_(), x.double().requires_grad_()
    fused = prismify.fuse(block)
    assert fused is block
    result, wanted = fused(u), definition(v)
    rounded(result, wanted.detach())
    cotangent = torch.randn_like(x)
    ours = torch.autograd.grad(result, (u, *block.parameters()), cotangent)
    theirs = torch.autograd.grad(wanted, (v, *definition.parameters()), cotangent.double())
    for mine, right in zip(ours, theirs, strict=True):
        rounded(mine, right)
    with torch.inference_mode():
        rounded(fused(x), wanted.detach())


@pytest.mark.skipif(
    "isolate_recompiles" not in inspect.signature(torch.compile).parameters,
    reason="this torch counts compilations of all models of a class together",
)
def test_however_many_models_of_a_class_are_fused(monkeypatch: pytest.MonkeyPatch) -> None:
    made = list[fx.GraphModule]()
    fuse_graph = fusion.fuse_graph
    monkeypatch.setattr(fusion, "fuse_graph", lambda graph: made.append(graph) or fuse_graph(graph))
    x = torch.randn(1, 16, 5, 7)
    for number in range(10):
        block = prismify.fuse(Block())
        with torch.no_grad():
            block(x)
        block(x)
        assert len(made) == 2 * (number + 1)


def test_fusing_leaves_weights_names_and_copies_alone() -> None:
    block = Block()
    before = {k: v.clone() for k, v in block.state_dict().items()}
    prismify.fuse(block)
    x = torch.randn(1, 16, 6, 6)
    block(x)
    assert list(block.state_dict()) == list(before)
    for name, value in block.state_dict().items():
        exact(value, before[name])
    copied = copy.deepcopy(block)
    assert copied._compiled_call_impl is None
    prismify.unfuse(block)
    assert block._compiled_call_impl is None
    exact(copied(x), block(x))


@needs_engine
def test_a_switch_turns_it_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(fusion.SWITCH, "0")
    block, x = Block(), torch.randn(1, 16, 6, 6)
    wanted = block(x)
    exact(prismify.fuse(block)(x), wanted)


def test_several_sizes_and_batches_run_through_one_fused_model() -> None:
    block = Block()
    definition = copy.deepcopy(block).double()
    prismify.fuse(block)
    for shape in ((1, 16, 6, 6), (2, 16, 6, 6), (3, 16, 11, 4), (3, 16, 1, 1)):
        x = torch.randn(shape)
        rounded(block(x).detach(), definition(x.double()).detach())


def test_autoencoders_are_fused_behind_encode_and_decode() -> None:
    diffusers = pytest.importorskip("diffusers")
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    vae = diffusers.AutoencoderKL(
        block_out_channels=(32, 32), layers_per_block=1, norm_num_groups=8, latent_channels=3, **blocks
    ).eval()
    converted = prismify.convert(vae, args=(torch.randn(1, 3, 16, 16),))
    z = torch.randn(1, 3, 8, 8)
    with torch.no_grad():
        wanted = copy.deepcopy(converted).double().decode(z.double()).sample
        rounded(prismify.fuse(converted).decode(z).sample, wanted)
    assert converted.decoder._compiled_call_impl is not None


def test_checkpointed_blocks_give_the_same_gradients() -> None:
    from torch.utils.checkpoint import checkpoint

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.block = Block()

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = checkpoint(self.block, x, use_reentrant=False)
            return y

    model, x = Model(), torch.randn(1, 16, 6, 6)
    definition = copy.deepcopy(model).double()
    ours = torch.autograd.grad(prismify.fuse(model)(x).sum(), list(model.parameters()))
    theirs = torch.autograd.grad(definition(x.double()).sum(), list(definition.parameters()))
    for mine, right in zip(ours, theirs, strict=True):
        rounded(mine, right)


def _two_readers(m: Block, x: Tensor) -> Tensor:
    h = F.silu(m.norm1(x))
    return m.conv1(h) + h


def _other_activation(m: Block, x: Tensor) -> Tensor:
    y: Tensor = m.conv1(F.gelu(m.norm1(x)))
    return y


def _live_dropout(m: Block, x: Tensor) -> Tensor:
    y: Tensor = m.conv1(F.dropout(F.silu(m.norm1(x)), 0.5, training=True))
    return y


def _input_written_between(m: Block, x: Tensor) -> Tensor:
    x = x.clone()
    h = m.norm1(x)
    x.mul_(2)
    y: Tensor = m.conv1(F.silu(h)) + x
    return y


@pytest.mark.parametrize("run", [_two_readers, _other_activation, _live_dropout, _input_written_between])
def test_what_only_looks_like_the_pattern_is_left_alone(run: Callable[[Block, Tensor], Tensor]) -> None:
    block = Block()
    assert not fused_calls(graphs_of(lambda x: run(block, x), torch.randn(1, 16, 5, 5)))


def _broadcast_residual(m: Block, x: Tensor) -> Tensor:
    y: Tensor = m.conv1(F.silu(m.norm1(x))) + x.mean((2, 3), keepdim=True)
    return y


def _residual_read_again(m: Block, x: Tensor) -> Tensor:
    h = m.conv1(F.silu(m.norm1(x)))
    return (h + x) * h


def _residual_written(m: Block, x: Tensor) -> Tensor:
    x = x.clone()
    x += m.conv1(F.silu(m.norm1(x)))
    return x


@needs_engine
@pytest.mark.parametrize("run", [_broadcast_residual, _residual_read_again, _residual_written])
def test_a_sum_that_is_no_residual_stays_behind_the_pass(run: Callable[[Block, Tensor], Tensor]) -> None:
    block, x = Block(), torch.randn(1, 16, 5, 5)
    graphs = graphs_of(lambda u: run(block, u), x)
    assert [call.kwargs["residual"] for call in fused_calls(graphs)] == [None]
    double = copy.deepcopy(block).double()
    rounded(torch.compile(lambda u: run(block, u), backend="eager")(x).detach(), run(double, x.double()).detach())


def test_a_model_without_operators_is_refused() -> None:
    with pytest.raises(PrismifyError, match="convert it first"):
        prismify.fuse(nn.Linear(2, 2))


@needs_engine
def test_what_is_not_fused_is_called_as_eager_code_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """The graph that runs holds torch functions alone: the registered operator is found slowly."""
    graphs: list[fx.GraphModule] = []
    directly = fusion._call_directly

    def kept(graph_module: fx.GraphModule) -> None:
        directly(graph_module)
        graphs.append(graph_module)

    monkeypatch.setattr(fusion, "_call_directly", kept)
    net = nn.Sequential(nn.LayerNorm(8), DeepPrism(16, stride=2, bias="channel"), nn.GELU(), DeepPrism(16))
    u = torch.randn(2, 16, 8, 8, requires_grad=True)
    plain = net(u)
    wanted = (plain, *torch.autograd.grad(plain.square().sum(), (u, *net.parameters())))
    y = prismify.fuse(net)(u)
    found = (y, *torch.autograd.grad(y.square().sum(), (u, *net.parameters())))
    for a, b in zip(found, wanted, strict=True):
        exact(a, b)
    targets = [node.target for graph in graphs for node in graph.graph.nodes]
    assert targets.count(deep_prism) == 2
    assert torch.ops.prismify.deep_prism.default not in targets
