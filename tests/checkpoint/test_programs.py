"""Exported programs: converted as graphs, saved, and loaded where prismify is not installed."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn
from torch.export import Dim, ExportedProgram

import prismify
from prismify.checkpoint import open_source
from prismify.checkpoint.formats import read_program
from prismify.errors import PlanError, SourceError
from prismify.graph.program import program_inputs, program_module
from tests.tolerances import exact


class Traps(nn.Module):
    """A module under two names, a tied weight, buffers of both kinds, one that is written, a constant, keywords."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Conv2d(3, 16, 3, padding=1)
        self.inner = nn.Conv2d(16, 16, 3, padding=1)
        self.again = self.inner
        self.tied = nn.ModuleList(nn.Conv2d(16, 16, 1) for _ in range(2))
        self.tied[1].weight = self.tied[0].weight
        self.norm = nn.BatchNorm2d(16)
        self.leave = nn.Conv2d(16, 3, 3)
        self.register_buffer("calls", torch.zeros(1))
        self.register_buffer("table", torch.randn(16, 1, 1), persistent=False)
        self.factor = torch.full((16, 1, 1), 2.0)

    def forward(self, x: Tensor, *, scale: float = 1.0) -> dict[str, Any]:
        self.calls.add_(1)
        y = self.norm(self.inner(self.enter(x) * self.table * self.factor))
        y = self.tied[1](self.tied[0](self.again(y)))
        return {"image": self.leave(y) * scale, "calls": self.calls}


def exported() -> tuple[Traps, ExportedProgram]:
    model = Traps().eval()
    shapes = {"x": {0: Dim("batch", min=2, max=64), 2: Dim.AUTO, 3: Dim.AUTO}, "scale": None}
    return model, torch.export.export(model, (torch.randn(2, 3, 8, 8),), {"scale": 2.0}, dynamic_shapes=shapes)


def test_everything_but_the_replaced_layers_stays() -> None:
    _, program = exported()
    before = {name: (id(t), t.clone()) for name, t in program.state_dict.items()}
    code = str(program.graph)
    converted = prismify.convert(program)
    assert str(program.graph) == code
    assert all(id(program.state_dict[n]) == i and torch.equal(program.state_dict[n], t) for n, (i, t) in before.items())
    replaced = {row.name for row in converted.prismify_plan.replaced}
    assert replaced == {"inner"}
    assert list(converted.state_dict) == list(program.state_dict)
    assert converted.state_dict["again.weight"] is converted.state_dict["inner.weight"]
    assert converted.state_dict["tied.0.weight"] is converted.state_dict["tied.1.weight"]
    assert converted.state_dict["inner.weight"].shape == (1, 1, 3, 3, 3)
    for name, (_, tensor) in before.items():
        if name.partition(".")[0] not in ("inner", "again"):
            assert torch.equal(converted.state_dict[name], tensor)
            assert converted.state_dict[name].data_ptr() != program.state_dict[name].data_ptr()
    assert converted.call_spec == program.call_spec
    assert converted.range_constraints == program.range_constraints
    assert [s.target for s in converted.graph_signature.input_specs] == [
        s.target for s in program.graph_signature.input_specs
    ]
    assert converted.prismify_plan.parameters.after == sum(p.numel() for p in program_module(converted).parameters())


def test_sizes_stay_free_and_buffers_are_written(tmp_path: Path) -> None:
    model, program = exported()
    converted = prismify.convert(program)
    twin = prismify.convert(model, converted.prismify_plan, kwargs={"x": torch.randn(2, 3, 8, 8), "scale": 2.0})
    twin.load_state_dict(converted.state_dict)
    prismify.save(converted, tmp_path / "out")
    loaded = prismify.load(tmp_path / "out")
    assert isinstance(loaded, ExportedProgram)
    assert loaded.prismify_plan.to_dict() == converted.prismify_plan.to_dict()
    for graph in (converted.module(), loaded.module()):
        twin.calls.zero_()
        for count, x in enumerate((torch.randn(2, 3, 8, 8), torch.randn(5, 3, 11, 9)), 1):
            expected, out = twin(x, scale=2.0), graph(x, scale=2.0)
            torch.testing.assert_close(out["image"], expected["image"])
            assert float(out["calls"]) == float(expected["calls"]) == count
    gradients = torch.autograd.grad(loaded.module()(x, scale=2.0)["image"].sum(), loaded.state_dict["inner.weight"])
    assert gradients[0].abs().sum() > 0


def test_plan_made_from_a_program_is_that_of_its_module() -> None:
    import diffusers

    model = diffusers.AutoencoderKL(block_out_channels=(16,), norm_num_groups=4, layers_per_block=1).eval()
    x = torch.randn(2, 3, 16, 16)
    of_program = prismify.scan(torch.export.export(model, (x,), strict=False))
    of_module = prismify.scan(model, (x,), methods=["forward"])
    assert of_program.layers == of_module.layers
    assert of_program.attention == of_module.attention != ()
    assert (of_program.model, of_program.parameters, of_program.macs) == (
        "AutoencoderKL", of_module.parameters, of_module.macs
    )  # fmt: skip


def test_a_library_model_loads_in_a_process_without_prismify(tmp_path: Path) -> None:
    """`AutoencoderKL` from file to file: its outputs are a class, which the calling convention keeps."""
    import diffusers

    model = diffusers.AutoencoderKL(block_out_channels=(16,), norm_num_groups=4, layers_per_block=1).eval()
    x = torch.randn(2, 3, 16, 16)
    program = torch.export.export(model, (x,), dynamic_shapes=({0: Dim("n", max=9)},), strict=False)
    torch.export.save(program, tmp_path / "kl.pt2")
    source = open_source(str(tmp_path / "kl.pt2"))
    converted = prismify.convert(source.build(), check=False)
    assert {row.kind for row in converted.prismify_plan.replaced} == {"conv2d", "linear"}
    prismify.save(converted, tmp_path / "out", source=source)
    x = torch.randn(3, 3, 16, 16)
    torch.save(x, tmp_path / "x.pt")
    code = (
        "import sys, torch; sys.modules['prismify'] = None; import diffusers.models.autoencoders.vae\n"
        f"program = torch.export.load('{tmp_path}/out/model.pt2')\n"
        f"y = program.module()(torch.load('{tmp_path}/x.pt'))\n"
        f"assert type(y).__name__ == 'DecoderOutput'; torch.save(y.sample, '{tmp_path}/y.pt')"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True)
    with torch.no_grad():
        expected = converted.module()(x).sample
    torch.testing.assert_close(torch.load(tmp_path / "y.pt"), expected)
    exact(prismify.load(tmp_path / "out").module()(x).sample.detach(), expected)


def test_a_program_of_core_operators_stays_one(make_plain: Callable[..., Any]) -> None:
    program = torch.export.export(make_plain(), (torch.randn(2, 3, 8, 8),), dynamic_shapes=({0: Dim("n", max=9)},))
    core = program.run_decompositions()
    converted = prismify.convert(core)
    assert [row.name for row in converted.prismify_plan.replaced] == ["2"]
    assert {str(n.target) for n in converted.run_decompositions().graph.nodes} == {
        str(n.target) for n in converted.graph.nodes
    }
    assert converted.module()(torch.randn(5, 3, 8, 8)).shape == (5, 3, 8, 8)


def test_a_vision_transformer(tmp_path: Path) -> None:
    import timm

    model = timm.create_model("vit_tiny_patch16_224", depth=1, img_size=32).eval()
    program = torch.export.export(model, (torch.randn(2, 3, 32, 32),), dynamic_shapes=({0: Dim("n", max=9)},))
    converted = prismify.convert(program)
    assert {row.attention for row in converted.prismify_plan.replaced} >= {"self out"}
    twin = prismify.convert(model, converted.prismify_plan, args=(torch.randn(2, 3, 32, 32),))
    twin.load_state_dict(converted.state_dict)
    x = torch.randn(5, 3, 32, 32)
    torch.testing.assert_close(converted.module()(x), twin(x))


class Frozen(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            [nn.Conv2d(3, 16, 1), *(nn.Conv2d(16, 16, 3) for _ in range(2)), nn.Conv2d(16, 3, 1)]
        )

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            x = self.layers[1](self.layers[0](x))
        y: Tensor = self.layers[3](self.layers[2](x))
        return y


def test_layers_in_a_region_without_gradients_are_kept_and_the_right_one_is_not() -> None:
    program = torch.export.export(Frozen().eval(), (torch.randn(1, 3, 9, 9),))
    plan = prismify.scan(program)
    assert {row.name: row.decision for row in plan.layers}["layers.1"] == "keep"
    converted = prismify.convert(program)
    assert [row.name for row in converted.prismify_plan.replaced] == ["layers.2"]
    assert converted.state_dict["layers.1.weight"].shape == (16, 16, 3, 3)


def test_a_replaced_layer_with_other_parameters_and_one_that_is_the_result(make_plain: Callable[..., Any]) -> None:
    program = torch.export.export(make_plain()[:3], (torch.randn(1, 3, 8, 8),))
    plan = prismify.scan(program).to_dict()
    plan["layers"][1] |= {"decision": "replace", "operator": {"type": "PrismConv"}}
    converted = prismify.convert(program, prismify.Plan.from_dict(plan))
    assert {n for n in converted.state_dict if n.startswith("2.")} == {"2.spatial_weight", "2.channel_weight", "2.bias"}
    assert converted.module()(torch.randn(1, 3, 8, 8)).shape == (1, 16, 8, 8)


def test_inputs_are_made_where_a_program_brings_none() -> None:
    _, program = exported()
    program.example_inputs = None
    inputs = program_inputs(program)
    assert [(n, tuple(t.shape)) for n, t in inputs.tensors()] == [("arg0", (2, 3, 8, 8))]
    assert inputs.kwargs == {"scale": 2.0}
    assert prismify.scan(program).replaced


def test_what_a_program_cannot_do_is_said(tmp_path: Path) -> None:
    _, program = exported()
    with pytest.raises(PlanError, match=r"rewritten as a copy: use prismify\.convert"):
        prismify.convert_(program)
    with pytest.raises(prismify.errors.CaptureError, match="no method 'encode'"):
        prismify.scan(program, methods=["encode"])
    with pytest.raises(SourceError, match="was not converted"):
        prismify.save(program, tmp_path / "out")
    torch.export.save(program, tmp_path / "p.pt2")
    with pytest.raises(SourceError, match="drop --model"):
        open_source(str(tmp_path / "p.pt2"), model="timm:resnet18")


def test_tied_weights_are_one_again(tmp_path: Path) -> None:
    _, program = exported()
    torch.export.save(program, tmp_path / "p.pt2")
    state = read_program(tmp_path / "p.pt2").state_dict
    assert state["tied.0.weight"] is state["tied.1.weight"]
    assert all(tensor.data_ptr() % 64 == 0 for tensor in state.values())


def test_a_graph_module_is_saved_by_exporting_it(tmp_path: Path, make_plain: Callable[..., Any]) -> None:
    converted = prismify.convert(fx.symbolic_trace(make_plain()), args=(torch.randn(1, 3, 8, 8),))
    prismify.save(converted, tmp_path / "out")
    x = torch.randn(3, 3, 12, 10)  # other sizes than it was converted with
    torch.testing.assert_close(prismify.load(tmp_path / "out").module()(x), converted(x))


class Two(nn.Module):
    """Two entry points around a graph: more than a program holds."""

    def __init__(self, graph: fx.GraphModule) -> None:
        super().__init__()
        self.graph = graph

    def encode(self, x: Tensor) -> Tensor:
        y: Tensor = self.graph(x)
        return y

    def decode(self, x: Tensor) -> Tensor:
        y: Tensor = self.graph(x)
        return y

    def forward(self, x: Tensor) -> Tensor:
        return self.decode(self.encode(x))


def test_a_graph_that_is_no_program_says_what_to_do(tmp_path: Path) -> None:
    converted = prismify.convert(
        fx.symbolic_trace(nn.Sequential(nn.Conv2d(3, 16, 1), nn.Conv2d(16, 16, 1), nn.Conv2d(16, 3, 1)))
    )
    wrapped = Two(converted)
    wrapped.prismify_plan = converted.prismify_plan  # type: ignore[assignment]
    with pytest.raises(SourceError, match=r"holds a GraphModule, .*give save a reference to a factory"):
        prismify.save(wrapped, tmp_path / "out")
    assert not (tmp_path / "out").exists()
