"""Carrying out plans: what survives, what is checked, and that a failed conversion changes nothing."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path

import pytest
import torch
import torch.fx as fx
import torch.nn.functional as F
from torch import nn

import prismify
from prismify import Policy, convert, convert_, scan
from prismify.errors import ConversionError, PlanError
from prismify.layers import DeepPrism, Operator, Prism, PrismConv
from prismify.plan import Plan
from tests.graph import nets
from tests.tolerances import exact


def snapshot(model: nn.Module) -> dict[str, torch.Tensor]:
    return {k: v.clone() for k, v in model.state_dict().items()}


def unchanged(model: nn.Module, before: dict[str, torch.Tensor]) -> None:
    after = model.state_dict()
    assert list(after) == list(before)
    for name, value in before.items():
        exact(after[name], value)


def test_a_copy_of_the_same_class_and_the_original_untouched():
    model = nets.Chain().train()
    model.body.eval()
    before = snapshot(model)
    converted = convert(model)
    assert type(converted) is nets.Chain
    assert [type(m) for m in converted.body] == [DeepPrism, nn.ReLU, DeepPrism]
    assert converted.training
    assert not converted.body.training
    assert not converted.body[0].training
    unchanged(model, before)
    kept = dict(converted.named_parameters())["head.weight"]
    exact(kept, model.head.weight)
    assert kept.data_ptr() != model.head.weight.data_ptr()
    assert all(p.grad is None for p in model.parameters())


def test_in_place():
    model = nets.Chain()
    head = model.head.weight
    assert convert_(model) is model
    assert model.head.weight is head
    assert isinstance(model.body[0], DeepPrism)
    assert all(p.requires_grad and p.grad is None for p in model.parameters())


def test_hooks_and_flags_survive():
    calls = []
    model = nets.Chain()
    model.gradient_checkpointing = True
    model.config = {"width": 16}
    model.head.register_forward_hook(lambda m, i, o: calls.append("kept"))
    model.body[0].register_forward_pre_hook(lambda m, i: calls.append("replaced"))
    converted = convert(model)
    calls.clear()
    converted(torch.randn(1, 3, 8, 8))
    assert calls == ["kept", "replaced"]
    assert converted.gradient_checkpointing
    assert converted.config == {"width": 16}


def test_diffusers_models_keep_their_class_and_config():
    from diffusers import AutoencoderKL

    model = AutoencoderKL(block_out_channels=(32,), layers_per_block=1, sample_size=32)
    model.enable_gradient_checkpointing()
    converted = convert(model)
    assert type(converted) is AutoencoderKL
    assert converted.config == model.config
    assert converted.encoder.gradient_checkpointing
    converted.train()
    converted(torch.randn(1, 3, 16, 16)).sample.sum().backward()
    assert all(p.grad is not None for p in converted.parameters())


def test_shared_modules_stay_shared():
    model = nets.Shared()
    plan = scan(model)
    assert plan.parameters.before == sum(p.numel() for p in model.parameters())
    converted = convert(model, plan)
    assert converted.first is converted.again
    assert sum(p.numel() for p in converted.parameters()) == plan.parameters.after


def test_tied_weights_stay_tied_and_count_once():
    model = nets.Tied()
    plan = scan(model)
    assert plan.parameters.before == sum(p.numel() for p in model.parameters())
    converted = convert(model, plan)
    assert converted.one.weight is converted.two.weight
    assert sum(p.numel() for p in converted.parameters()) == plan.parameters.after


def test_a_shared_bias_changes_with_all_its_layers_or_not_at_all():
    model = nets.Chain()
    model.body[2].bias = model.body[0].bias
    converted = convert(model)
    assert converted.body[0].bias is converted.body[2].bias
    assert converted.prismify_plan.parameters.after == sum(p.numel() for p in converted.parameters())
    plan = scan(model, policy=Policy(exclude=("body.2",)))
    assert {r.name: r.rule for r in plan.layers if r.role == "inner"} == {"body.0": "tied", "body.2": "excluded"}
    model.body[1] = nn.GroupNorm(4, 16)
    model.body[1].bias = model.body[0].bias
    assert not scan(model).replaced


def test_half_of_a_tie_cannot_be_kept_by_hand():
    model = nets.Tied()
    with pytest.raises(PlanError, match="shares a weight or bias with"):
        convert(model, edited(scan(model), "two", decision="keep", operator=None))


def test_a_hook_that_is_a_method_follows_the_copy_and_a_handle_still_works():
    class Watching(nets.Chain):
        def __init__(self) -> None:
            super().__init__()
            self.seen = 0
            self.handle = self.body[0].register_forward_hook(self.watch)

        def watch(self, module, args, output):
            self.seen += 1

    model, x = Watching(), torch.randn(1, 3, 8, 8)
    converted = convert(model)
    converted(x)
    assert (model.seen, converted.seen) == (0, 1)
    convert_(model)
    model(x)
    model.handle.remove()
    model(x)
    assert model.seen == 1


def test_layers_called_by_keyword():
    class Keyword(nets.Chain):
        def forward(self, x):
            return self.tail(input=self.body[0](input=self.head(input=x)))

    assert isinstance(convert(Keyword()).body[0], DeepPrism)


def test_a_graph_weight_with_another_reader_is_kept():
    class Penalised(Functional):
        def forward(self, x):
            return super().forward(x), self.b.square().mean()

    rows = {row.name: row for row in scan(fx.symbolic_trace(Penalised()), (torch.randn(1, 3, 12, 12),)).layers}
    assert "more than one way" in rows["b"].reason


@pytest.mark.parametrize(
    ("net", "inputs"),
    [
        (nets.Chain, (torch.randn(1, 3, 8, 8),)),
        (nets.Asymmetric, (torch.randn(1, 3, 8, 8),)),
        (nets.Timed, (torch.randn(1, 3, 8, 8), torch.ones(1))),
        (lambda: nets.Attention(True), (torch.randn(1, 7, 3),)),
        (lambda: nets.Attention(False), (torch.randn(1, 7, 3),)),
        (lambda: nets.Blocks(True), (torch.randn(1, 5, 3),)),
        (lambda: nn.ConvTranspose2d(16, 8, 3, stride=2), (torch.randn(1, 16, 8, 8),)),
    ],
)
def test_multiply_adds_are_those_of_torchs_own_counter(net, inputs):
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    model = net().eval()
    # Spelt out as products: torch 2.11 counts none for the fused operator on a CPU.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter, torch.no_grad():
        model(*inputs)
    assert scan(model, inputs).macs.before == counter.get_total_flops() // 2


def test_einsum_is_counted():
    class Einsum(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.randn(5, 7))

        def forward(self, x):
            return torch.einsum("...i,ij->...j", x, self.w)

    assert scan(Einsum(), (torch.randn(2, 3, 4, 5),)).macs.before == 2 * 3 * 4 * 5 * 7


def test_a_weight_tied_to_a_kept_layer_is_kept():
    model = nets.Tied()
    plan = scan(model, policy=Policy(exclude=("two",)))
    assert {row.name: row.rule for row in plan.layers if "o" in row.name} == {"one": "tied", "two": "excluded"}


@pytest.mark.parametrize("policy", ["paper", "volumes"])
@pytest.mark.parametrize(
    "net", [nets.Chain, nets.ResidualStream, nets.Timed, nets.Asymmetric, nets.Autoencoder, nets.NoGrad]
)
def test_totals_are_what_is_there(net, policy):
    model = net()
    plan = scan(model, policy=policy)
    converted = convert(model, plan)
    assert plan.parameters.before == sum(p.numel() for p in model.parameters())
    assert plan.parameters.after == sum(p.numel() for p in converted.parameters())
    assert plan.size_bytes.after == sum(v.numel() * v.element_size() for v in converted.state_dict().values())
    rescanned = scan(converted)
    assert rescanned.macs.before == plan.macs.after


def test_volumes_replace_layers_whose_width_changes():
    model = nn.Sequential(
        nn.Conv2d(3, 32, 3), nn.Conv2d(32, 64, 3), nn.Conv2d(64, 96, 3, bias=False), nn.Conv2d(96, 3, 3)
    )
    converted = convert(model, policy="volumes")
    assert [tuple(m.weight.shape[:2]) for m in converted[1:3]] == [(2, 1), (3, 2)]
    assert converted[2].bias is None
    deep = convert(
        model, policy=Policy("volumes", depth=16, topology="circular", channel_kernel_size=5, bias="channel")
    )
    assert tuple(deep[1].weight.shape) == (4, 2, 5, 3, 3)
    assert (deep[1].topology, deep[1].bias.numel()) == ("circular", 64)


def test_narrow_layers_and_volumes_are_kept():
    model = nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.Conv2d(6, 6, 3), nn.Conv2d(6, 24, 3), nn.Conv2d(24, 36, 3), nn.Conv2d(36, 3, 3)
    )
    rules = [row.rule for row in scan(model, policy="volumes").layers]
    assert rules == ["input_output", "narrow", "narrow", "narrow_volumes", "input_output"]
    rules = [row.rule for row in scan(model, policy=Policy("volumes", min_width=4, min_volume=4)).layers]
    assert rules == ["input_output", "replaced", "replaced", "replaced", "input_output"]


def test_feed_forward_layers_by_volumes():
    model = nets.LoRA()
    x = torch.randn(1, 7, 3)
    assert not scan(model, (x,), policy="volumes").replaced
    plan = scan(model, (x,), policy=Policy("volumes", feed_forward=True))
    assert {row.name for row in plan.replaced} == {"base"}
    assert isinstance(convert(model, plan, args=(x,)).base, Prism)


def test_include_and_exclude():
    model = nets.ResidualStream()
    assert [r.name for r in scan(model, policy=Policy(include=("blocks.?",), exclude=("*.1",))).replaced] == [
        "blocks.0",
        "blocks.2",
    ]
    with pytest.raises(PlanError, match="matches no layer"):
        scan(model, policy=Policy(exclude=("block.*",)))


def test_a_plan_edited_by_hand_replays_exactly(tmp_path):
    model = nets.ResidualStream()
    data = scan(model).to_dict()
    data["layers"][2] |= {"decision": "keep"}
    data["layers"][3]["operator"] |= {"topology": "replicate", "type": "PrismConv", "form": "sum"}
    path = tmp_path / "plan.json"
    Plan.from_dict(data).save(path)
    plan = Plan.load(path)
    converted = convert(model, plan)
    kinds = {name: type(converted.get_submodule(name)) for name in ("blocks.0", "blocks.1", "blocks.2")}
    assert kinds == {"blocks.0": nn.Conv2d, "blocks.1": PrismConv, "blocks.2": DeepPrism}
    assert (converted.blocks[1].topology, converted.blocks[1].form) == ("replicate", "sum")
    carried = converted.prismify_plan
    assert carried.parameters.after == sum(p.numel() for p in converted.parameters())
    assert [d.operator for d in carried.layers] == [d.operator for d in plan.layers]


def edited(plan: Plan, layer: str, **changes: object) -> Plan:
    return dataclasses.replace(
        plan, layers=tuple(dataclasses.replace(d, **changes) if d.name == layer else d for d in plan.layers)
    )


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("head", {"decision": "replace", "operator": Operator("DeepPrism", volumes=(2, 2))}, r"head: 3 -> 16 channels"),
        ("tail", {"name": "nobody"}, r"'nobody' is not in Chain"),
        ("body.0", {"operator": Operator("Prism")}, r"body\.0: .*not a pointwise"),
        ("body.0", {"operator": Operator("DeepPrism", channel_kernel_size=33)}, r"body\.0: channel kernel size 33"),
        ("body.0", {"operator": Operator("PrismConv", volumes=(2, 2))}, r"body\.0: a PrismConv has one volume"),
    ],
)
def test_a_plan_that_does_not_fit_changes_nothing(name, changes, message):
    model = nets.Chain()
    before, plan = snapshot(model), edited(scan(model), name, **changes)
    for function in (convert, convert_):
        with pytest.raises(PlanError, match=message):
            function(model, plan)
        unchanged(model, before)
        assert not hasattr(model, "prismify_plan")


def row(**fields: object) -> dict[str, object]:
    operator = {"type": "DeepPrism"}
    return {"name": "a", "kind": "conv2d", "role": "inner", "decision": "replace", "operator": operator, **fields}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], "JSON object"),
        ({"version": 9}, "version 9"),
        ({"version": 1}, "list of layers"),
        ({"version": 1, "layers": [3]}, r"layers\[0\] is not an object"),
        ({"version": 1, "layers": [{**row(), "decision": "maybe"}]}, "'a': decision 'maybe'"),
        ({"version": 1, "layers": [{"name": "a", "decision": "replace"}]}, "give an operator"),
        ({"version": 1, "layers": [{"name": "a", "decision": "keep", "colour": 1}]}, "unknown field 'colour'"),
        ({"version": 1, "layers": [{"name": "a", "decision": "keep"}]}, "'a': field 'kind' is missing"),
        ({"version": 1, "layers": [row(operator={"type": "DeepPrism", "volumes": ["1", "1"]})]}, "volumes '1'"),
        ({"version": 1, "layers": [row(operator={"type": "DeepPrism", "volumes": [1]})]}, "not have 2 items"),
        ({"version": 1, "layers": [row(operator={"type": "DeepPrism", "channel_kernel_size": True})]}, "type int"),
        ({"version": 1, "layers": [row(operator={"type": "DeepPrism", "channel_kernel_size": 4})]}, "must be odd"),
        ({"version": 1, "layers": [row(operator={"type": "DeepPrism", "topology": "ring"})]}, "'ring' is not one of"),
        ({"version": 1, "layers": [row(operator={"type": "DeepPrism", "bias": None})]}, "bias None is not one of"),
        ({"version": 1, "layers": [row(name=["a"])]}, "not of type str"),
        ({"version": 1, "layers": [row(), row()]}, "'a' has more than one row"),
        ({"version": 1, "layers": []}, "field 'model' is missing"),
    ],
)
def test_malformed_plans_are_refused_in_one_line(data, message):
    with pytest.raises(PlanError, match=message) as error:
        Plan.from_dict(data)
    assert "\n" not in str(error.value)


def test_nothing_to_convert():
    with pytest.raises(PlanError, match="has nothing to convert: 2 input and output layers"):
        convert(nn.Sequential(nn.Conv2d(3, 16, 3), nn.Conv2d(16, 3, 3)))
    with pytest.raises(PlanError, match="it has no layers"):
        convert(nn.Sequential(nn.ReLU()), args=(torch.randn(1, 3, 4, 4),))


class Measured(nets.Chain):
    """Looks at the weight's shape while it runs."""

    def forward(self, x):
        assert self.body[0].weight.dim() == 4
        return super().forward(x)


def test_a_model_that_no_longer_runs_is_an_error_and_undone():
    model = Measured()
    before = snapshot(model)
    for function in (convert, convert_):
        with pytest.raises(ConversionError, match="fails in forward"):
            function(model)
        unchanged(model, before)


def test_converting_again_adds_to_what_was_done():
    model = nn.Sequential(nn.Conv2d(3, 32, 3), nn.Conv2d(32, 32, 3), nn.Conv2d(32, 64, 3), nn.Conv2d(64, 3, 3))
    once = convert(model)
    with pytest.raises(PlanError, match="nothing to convert"):
        convert(once)
    twice = convert(once, policy="volumes")
    exact(twice[1].weight, once[1].weight)
    assert [d.name for d in twice.prismify_plan.replaced] == ["1", "2"]
    assert twice.prismify_plan.parameters.before == sum(p.numel() for p in model.parameters())


def test_half_precision_is_converted_and_checked():
    model = nets.Chain().half()
    converted = convert(model)
    assert {p.dtype for p in converted.parameters()} == {torch.float16}


def test_a_model_on_meta_is_converted_on_meta():
    with torch.device("meta"):
        model = nets.Chain()
    converted = convert(model)
    assert converted.body[0].weight.is_meta
    assert converted.prismify_plan.parameters.after == sum(p.numel() for p in converted.parameters())


def test_random_state_and_buffers_are_as_before_the_check():
    model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.Conv2d(16, 16, 3), nn.Conv2d(16, 3, 3)).train()
    state = torch.random.get_rng_state()
    plan = scan(model)
    assert torch.equal(state, torch.random.get_rng_state())
    torch.manual_seed(3)
    convert_(model, plan)
    torch.manual_seed(3)
    drawn = DeepPrism(16, padding=0)  # conversion draws the new weights, and the check nothing
    exact(model[2].weight, drawn.weight)
    assert int(model[1].num_batches_tracked) == 0
    assert model.training


class Functional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.randn(16, 3, 3, 3))
        self.b = nn.Parameter(torch.randn(16, 16, 3, 3))
        self.c = nn.Parameter(torch.randn(3, 16, 3, 3))

    def forward(self, x):
        return F.conv2d(F.conv2d(F.conv2d(x, self.a), self.b, stride=2, padding=1), self.c)


@pytest.mark.parametrize(
    "trace",
    [
        lambda m, x: fx.symbolic_trace(m),
        lambda m, x: torch.export.export(m, (x,)).module(),
        lambda m, x: torch.fx.experimental.proxy_tensor.make_fx(m, tracing_mode="real")(x),
    ],
)
@pytest.mark.parametrize("net", [Functional, nets.Chain, nets.Shared])
def test_graph_modules_are_rewritten_as_graphs(net, trace):
    import torch.fx.experimental.proxy_tensor

    x = torch.randn(1, 3, 12, 12)
    graph_module = trace(net().eval(), x)
    before = snapshot(graph_module)
    converted = convert(graph_module, args=(x,))
    unchanged(graph_module, before)
    assert isinstance(converted, fx.GraphModule)
    converted.graph.lint()
    out, expected = converted(x), graph_module(x)
    out, expected = (y[0] if isinstance(y, (tuple, list)) else y for y in (out, expected))
    assert out.shape == expected.shape
    replaced = [m for m in converted.modules() if isinstance(m, DeepPrism)]
    assert len(replaced) == len(converted.prismify_plan.replaced) > 0
    assert converted.prismify_plan.parameters.after == sum(p.numel() for p in converted.parameters())
    called = {str(n.target) for n in converted.graph.nodes if n.op == "call_module"}
    assert {n for n, m in converted.named_modules() if isinstance(m, DeepPrism)} <= called


def test_a_plan_is_replayed_on_a_graph_as_well():
    from prismify.rewrite import replay

    graph = torch.export.export(nets.Chain().eval(), (torch.randn(1, 3, 12, 12),))
    plan = scan(graph.module(), (torch.randn(1, 3, 12, 12),))
    replayed = replay(graph.module(), plan)
    assert sum(isinstance(m, DeepPrism) for m in replayed.modules()) == 2
    assert plan.parameters.after == sum(p.numel() for p in replayed.parameters())


def test_a_graph_module_is_not_converted_in_place():
    with pytest.raises(PlanError, match=r"use prismify\.convert"):
        convert_(fx.symbolic_trace(nets.Chain()))


def test_the_public_names():
    assert set(prismify.__all__) <= set(dir(prismify))
    for name in prismify.__all__:
        assert getattr(prismify, name).__module__.startswith("prismify")
    assert copy.deepcopy(Policy()) == Policy()


def test_what_is_made_under_inference_mode_can_be_trained(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Conv2d(3, 32, 3, padding=1), nn.Conv2d(32, 32, 3, padding=1), nn.Conv2d(32, 3, 3))
    with torch.inference_mode():
        assert len(prismify.scan(net).replaced) == 1
        made = prismify.convert(net)
        prismify.save(made, tmp_path / "saved")
        models = [made, prismify.load(tmp_path / "saved"), prismify.fuse(prismify.convert(net))]
        prismify.convert_(net)
    for model in [*models, net]:
        model.train()(torch.randn(1, 3, 8, 8)).mean().backward()
        assert all(p.grad is not None for p in model.parameters())
