"""The ladder: which technique is taken and why, and that the model comes back as it was."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.nn.functional import silu

from prismify import convert
from prismify.errors import CaptureError, PlanError
from prismify.graph import capture, capture_all
from prismify.graph.dataflow import roles
from prismify.graph.exported import export_graph
from prismify.scanning import scan
from tests.graph import nets


def only_entry(model: nn.Module, *inputs: torch.Tensor):
    (entry,) = capture_all(model, inputs or None).entries
    return entry


def test_fake_tensors_first():
    entry = only_entry(nets.Chain())
    assert (entry.technique, entry.failed) == ("recorder on fake tensors", ())
    assert entry.inputs.describe() == "x 1×3×32×32"
    assert entry.output_shapes == ((1, 3, 32, 32),)


@pytest.mark.parametrize("net", [nets.DataDependent, nets.ThroughNumpy])
def test_real_tensors_where_values_decide(net):
    entry = only_entry(net())
    assert entry.technique == "recorder on real tensors"
    assert entry.failed[0].startswith("recorder on fake tensors: ")
    assert any("one branch" in note for note in scan(net()).notes)


def test_a_list_of_modules_when_nothing_runs():
    with torch.device("meta"):
        model = nets.DataDependent()
    capture_ = capture_all(model)
    entry = capture_.entries[0]
    assert (entry.technique, entry.graph) == ("list of modules", None)
    assert [reason.split(":")[0] for reason in entry.failed] == [
        "recorder on fake tensors",
        "recorder on real tensors",
        "torch.export",
    ]
    plan = scan(model)
    assert {row.role for row in plan.layers} == {"unknown"}
    assert len(plan.layers) == 4
    assert not plan.replaced
    with pytest.raises(CaptureError, match="cannot be captured"):
        capture(model)


@pytest.mark.parametrize(
    ("net", "inputs"),
    [
        (nets.Chain, (torch.randn(1, 3, 8, 8),)),
        (nets.NoGrad, (torch.randn(1, 3, 8, 8),)),
        (nets.Shared, (torch.randn(1, 3, 8, 8),)),
        (nets.Tied, (torch.randn(1, 3, 8, 8),)),
        (nets.Timed, (torch.randn(1, 3, 8, 8), torch.ones(1))),
        (nets.ResidualStream, (torch.randn(1, 3, 8, 8),)),
        (lambda: nets.Attention(True), (torch.randn(1, 7, 3),)),
        (nets.WritesThroughViews, (torch.randn(1, 3, 8, 8),)),
    ],
)
def test_export_and_the_recorder_agree(net, inputs):
    from prismify.graph import ExampleInputs

    model = net().eval()
    exported = export_graph(model, "forward", ExampleInputs(inputs))
    recorded = capture(model, inputs)

    def seen(graph):
        return [(u.module, u.call, u.role, u.parameters[0], u.node.meta["shape"]) for u in roles(graph)]

    assert seen(exported) == seen(recorded)


def test_given_inputs_that_do_not_run_are_an_error():
    with pytest.raises(CaptureError, match=r"does not run on the given inputs: .*channels"):
        scan(nets.Chain(), (torch.randn(1, 5, 8, 8),))
    with pytest.raises(CaptureError, match="no method 'sample'"):
        scan(nets.Chain(), methods=["sample"])


def state_of(model: nn.Module) -> dict[str, object]:
    return {
        "state": {k: v.clone() for k, v in model.state_dict().items()},
        "ids": {k: id(v) for k, v in model.named_parameters(remove_duplicate=False)},
        "training": {n: m.training for n, m in model.named_modules()},
        "grad": {k: (v.requires_grad, v.grad) for k, v in model.named_parameters()},
        "attributes": {n: sorted(vars(m)) for n, m in model.named_modules()},
    }


@pytest.mark.parametrize(
    "net",
    [
        nets.Caching,
        nets.DataDependent,
        nets.Parametrised,
        nets.Chain,
        nets.MergesWhenEvaluated,
        nets.RegistersOnFirstCall,
        nets.WritesItsWeights,
    ],
)
def test_the_model_and_the_process_come_back_as_they_were(net):
    model = net()
    model.body.eval() if hasattr(model, "body") else None
    before, random_state = state_of(model), torch.random.get_rng_state()
    hooks = len(nn.modules.module._global_forward_hooks)
    fastpath = torch.backends.mha.get_fastpath_enabled()
    scan(model)
    after = state_of(model)
    for name, value in before.pop("state").items():
        assert torch.equal(value, after["state"][name])
    after.pop("state")
    assert after == before
    assert torch.equal(random_state, torch.random.get_rng_state())
    assert len(nn.modules.module._global_forward_hooks) == hooks
    assert torch.backends.mha.get_fastpath_enabled() == fastpath
    if isinstance(model, nets.Caching):
        assert model.table is None
        assert model.history == []
        assert float(model.count) == 0
    if isinstance(model, nets.RegistersOnFirstCall):
        assert vars(model.memory) == {}
        assert model.nested == {"tables": []}


@pytest.mark.parametrize(
    "net", [nets.RegistersOnFirstCall, nets.WritesItsWeights, nets.MergesWhenEvaluated, nets.Memoised]
)
def test_conversion_leaves_no_trace_either(net):
    model, x = net(), torch.randn(1, 3, 8, 8)
    before, given = state_of(model), x.clone()
    converted = convert(model, args=(x,))
    assert torch.equal(x, given)
    after = state_of(model)
    assert all(torch.equal(value, after["state"][name]) for name, value in before.pop("state").items())
    after.pop("state")
    assert after == before
    assert not any(isinstance(t, FakeTensor) for t in (*converted.parameters(), *converted.buffers()))
    assert torch.isfinite(converted(x)).all()


def test_lazy_modules_are_refused_before_they_run():
    with pytest.raises(PlanError, match="lazy module"):
        scan(nn.Sequential(nn.LazyConv2d(16, 3)), (torch.randn(1, 3, 8, 8),))


def test_one_tensor_is_one_argument():
    assert scan(nets.Chain(), torch.randn(2, 3, 8, 8)).layers[0].input_shape == (2, 3, 8, 8)


def test_a_failed_attempt_is_quiet(capfd):
    scan(nets.DataDependent())
    with pytest.raises(CaptureError) as error:
        scan(nets.Chain(), (torch.randn(1, 5, 8, 8),))
    assert "\n" not in str(error.value)
    assert capfd.readouterr().err == ""


def test_nothing_returned_is_said_so():
    class Silent(nets.Chain):
        def forward(self, x):
            super().forward(x)

    plan = scan(Silent())
    assert {row.role for row in plan.layers} == {"unknown"}
    assert "returns no tensor" in plan.capture[0]["failed"][0]


def test_a_model_on_meta_stays_on_meta():
    with torch.device("meta"):
        model = nets.ResidualStream()
    plan = scan(model)
    assert len(plan.replaced) == 3
    assert all(p.is_meta for p in model.parameters())


@pytest.mark.parametrize("wrap", [nn.DataParallel, lambda m: torch.compile(m, backend="eager")])
def test_wrappers_are_taken_off_and_said_so(wrap):
    plan = scan(wrap(nets.Chain()))
    assert [row.name for row in plan.layers] == ["head", "tail", "body.0", "body.2"]
    assert any("unwrapped" in note for note in plan.notes)


def test_gradient_checkpointing_and_autocast_do_not_disturb():
    class Checkpointed(nets.Chain):
        def forward(self, x):
            from torch.utils.checkpoint import checkpoint

            with torch.autocast("cpu", torch.bfloat16):
                return self.tail(checkpoint(self.body, self.head(x), use_reentrant=False))

    plan = scan(Checkpointed())
    assert [row.role for row in plan.layers] == ["input", "output", "inner", "inner"]


def test_nested_outputs_are_found():
    class Nested(nets.Chain):
        def forward(self, x):
            return {"sample": [super().forward(x)], "loss": x.mean()}

    graph = capture(Nested())
    assert [node.meta["shape"] for node in list(graph.nodes)[-1].args[0]] == [(1, 3, 32, 32), ()]
    assert {u.module: u.role for u in roles(graph)}["tail"] == "output"


def test_scanning_twice_gives_the_same_plan():
    model = nets.Autoencoder()
    assert scan(model) == scan(copy.deepcopy(model))


def test_values_that_masks_fix_are_known_on_meta():
    with torch.device("meta"):
        model = nets.CutsByMask()
    x, mask = torch.randn(1, 3, 8, 8), torch.tensor([[1, 1, 1, 1, 1, 0, 0, 0]])
    (entry,) = capture_all(model, (x, mask)).entries
    assert (entry.technique, entry.failed) == ("recorder on fake tensors", ())
    assert entry.output_shapes == ((1, 3, 8, 5),)
    assert torch.equal(mask, torch.tensor([[1, 1, 1, 1, 1, 0, 0, 0]]))
    real = nets.CutsByMask()
    assert real(x, mask).shape == (1, 3, 8, 5)
    assert {row.name: row.role for row in scan(real, (x, mask)).layers} == {
        "head": "input",
        "tail": "output",
        "body.0": "inner",
        "body.2": "inner",
    }


def test_values_that_data_or_weights_fix_are_not_known():
    for net in (nets.DataDependent, nets.CutsByWrittenMask):
        with torch.device("meta"):
            model = net()
        with pytest.raises(CaptureError, match="DataDependentOutput"):
            capture_all(model, (torch.randn(1, 3, 8, 8),))


def test_missing_arguments_are_guessed_around_the_given_ones():
    capture_ = capture_all(nets.Timed(), (), {"x": torch.randn(2, 3, 8, 8)})
    assert capture_.entries[0].inputs.describe() == "x 2×3×8×8, timestep 2"


def test_the_message_says_how_to_give_the_inputs():
    capture_ = capture_all(nets.Picky())
    assert capture_.entries[0].technique == "list of modules"
    (line,) = capture_.skipped
    assert line.endswith("give the inputs yourself: --input picture=1,3,32,32 --input size=1,3,32,32")
    plan = scan(nets.Picky())
    assert line in plan.notes
    assert {row.role for row in plan.layers} == {"unknown"}
    assert all("role is not known" in row.reason for row in plan.layers)
    with pytest.raises(PlanError, match="--input picture="):
        convert(nets.Picky())
    scanned = scan(nets.Picky(), (), {"picture": torch.randn(1, 3, 8, 8), "size": (16, 16)})
    assert [row.role for row in scanned.layers] == ["input", "output", "inner", "inner"]


class Differentiates(nets.Chain):
    """An energy's gradient, which no recorder under inference mode can follow."""

    def forward(self, x):
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            energy = self.tail(silu(self.body[0](silu(self.head(x))))).sum()
            return torch.autograd.grad(energy, x, create_graph=self.training)[0]


def test_regions_in_an_exported_graph_are_read_in_their_place():
    entry = capture_all(Differentiates().eval(), (torch.randn(1, 3, 8, 8),)).entries[0]
    assert entry.technique == "torch.export"
    seen = set()
    for node in entry.graph.nodes:
        assert set(node.all_input_nodes) <= seen
        seen.add(node)
    assert {row.name for row in scan(Differentiates(), (torch.randn(1, 3, 8, 8),)).layers} >= {"head", "tail"}
