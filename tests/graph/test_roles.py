"""Roles on networks that have led tracers astray, each written down by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from prismify import scan
from prismify.graph import capture, capture_all, find_attention, merge_roles
from prismify.graph.dataflow import roles
from tests.graph import nets


def roles_of(model: nn.Module, *inputs: torch.Tensor) -> dict[str, str]:
    plan = scan(model, inputs or None)
    return {row.name: row.role for row in plan.layers}


CHAIN = {"head": "input", "tail": "output", "body.0": "inner", "body.2": "inner"}


@pytest.mark.parametrize(
    "net", [nets.Chain, nets.NoGrad, nets.WholeResidual, nets.WritesThroughViews, nets.DataDependent, nets.Caching]
)
def test_a_chain_stays_a_chain(net):
    assert roles_of(net()) == CHAIN


@pytest.mark.parametrize(
    ("net", "expected"),
    [
        (nets.ResidualStream, {"head": "input", "tail": "output", **{f"blocks.{i}": "inner" for i in range(3)}}),
        (nets.Shared, {"head": "input", "tail": "output", "first": "inner"}),
        (nets.SharedAtTheEnd, {"head": "input", "both": "output"}),
        (nets.Tied, {"head": "input", "tail": "output", "one": "inner", "two": "inner"}),
        (
            nets.Timed,
            {
                "embed.0": "cond",
                "embed.2": "cond",
                "early": "cond",
                "head": "input",
                "body": "inner",
                "tail": "output",
            },
        ),
        (
            nets.GatedEnd,
            {"head": "input", "body": "inner", "tail": "output", "squeeze": "inner", "excite": "inner"},
        ),
        (nets.LateConcatenation, {"head": "input", "body": "inner", "join": "inner", "tail": "output"}),
        (
            nets.Parametrised,
            {"head": "input", "spectral": "inner", "weighted": "inner", "plain": "inner", "tail": "output"},
        ),
        (nets.Unreached, {**CHAIN, "forgotten": "dead", "ignored": "dead"}),
        (nets.Asymmetric, {**CHAIN, "down": "inner"}),
        (nets.LoRA, {"head": "input", "base": "inner", "down": "inner", "up": "inner", "tail": "output"}),
        (nets.FunctionalWeight, {"head": "input", "kernel": "inner", "borrowed": "inner", "tail": "output"}),
        (
            nets.Autoencoder,
            {
                "encoder.0": "input",
                "encoder.1": "inner",
                "encoder.2": "inner",
                "quant": "output",
                "post_quant": "input",
                "decoder.0": "inner",
                "decoder.1": "output",
            },
        ),
    ],
)
def test_roles(net, expected):
    inputs = (torch.randn(1, 7, 3),) if net is nets.LoRA else ()
    assert roles_of(net(), *inputs) == expected


def test_modulated_weights_and_a_constant_input():
    plan = scan(nets.Modulated(), (torch.randn(1, 8),))
    rows = {row.name: row for row in plan.layers}
    assert rows["mapping.0"].role == "input"
    assert rows["tail"].role == "output"
    modulated = rows["weight"]
    assert (modulated.role, modulated.decision) == ("inner", "keep")
    assert "modulated" in modulated.reason


def test_reasons_of_layers_that_cannot_be_replaced():
    rows = {row.name: row for row in scan(nets.Parametrised()).layers}
    assert "parametrised" in rows["spectral"].reason
    assert "parametrised" in rows["weighted"].reason
    assert rows["plain"].decision == "replace"
    rows = {row.name: row for row in scan(nets.FunctionalWeight()).layers}
    assert "applies the weight itself" in rows["kernel"].reason
    assert "without calling it" in rows["borrowed"].reason
    rows = {row.name: row for row in scan(nets.Unreached()).layers}
    assert "never called" in rows["forgotten"].reason
    assert "reaches no output" in rows["ignored"].reason


@pytest.mark.parametrize("fused_operator", [True, False])
def test_self_attention_is_found_by_its_product(fused_operator):
    graph = capture(nets.Attention(fused_operator), (torch.randn(1, 7, 3),))
    (attention,) = find_attention(graph, roles(graph))
    assert attention.kind == "self"
    assert [(part, use.module) for part, use in attention.parts] == [("q", "q"), ("k", "k"), ("v", "v"), ("out", "out")]


@pytest.mark.parametrize("fused_operator", [True, False])
def test_cross_attention_is_told_by_its_sources(fused_operator):
    model = nets.Attention(fused_operator, context=12)
    graph = capture(model, (torch.randn(1, 7, 3), torch.randn(1, 5, 12)))
    (attention,) = find_attention(graph, roles(graph))
    assert attention.kind == "cross"
    rows = {r.name: r for r in scan(model, (torch.randn(1, 7, 3), torch.randn(1, 5, 12))).layers}
    assert [rows[n].decision for n in ("q", "k", "v", "out")] == ["replace", "keep", "keep", "replace"]
    assert rows["k"].role == "cond"
    assert "12->16 is not C->C" in rows["k"].reason


def test_packed_attention_has_a_row_of_its_own():
    model = nn.Sequential(nn.Linear(3, 16), nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), nn.Linear(16, 3))
    rows = {row.name: row for row in scan(model, (torch.randn(1, 7, 3),)).layers}
    assert rows["1.self_attn"].kind == "attention"
    assert rows["1.self_attn"].attention.startswith("self q, k, v")
    assert rows["1.self_attn"].parameters_before == 4 * 16 * 16 - 16 * 16 + 48
    assert rows["1.self_attn.out_proj"].attention == "self out"


def test_a_part_is_replaced_only_once_per_module_with_its_calls_counted():
    rows = {row.name: row for row in scan(nets.Shared()).layers}
    assert rows["first"].calls == 3
    assert rows["first"].parameters_before == 16 * 16 * 9 + 16


def test_call_indices_and_shapes_are_on_the_nodes():
    graph = capture(nets.Shared(), (torch.randn(1, 3, 8, 8),))
    uses = [use for use in roles(graph) if use.module == "first"]
    assert [use.call for use in uses] == [0, 1, 2]
    assert {use.node.meta["shape"] for use in uses} == {(1, 16, 8, 8)}
    graph.lint()


def test_merge():
    assert merge_roles(["inner", "input", "output"]) == "input+output"
    assert merge_roles(["dead", "cond"]) == "cond"


def test_in_a_full_pass_alone_quant_is_inner():
    capture_ = capture_all(nets.Autoencoder(), methods=["forward"])
    uses = {use.module: use.role for use in roles(capture_.entries[0].graph)}
    assert uses["quant"] == uses["post_quant"] == "inner"


@pytest.mark.parametrize("project", [True, False])
def test_attention_does_not_look_past_a_residual_sum(project):
    rows = {row.name: row for row in scan(nets.Blocks(project), (torch.randn(1, 5, 3),)).layers}
    for block in ("blocks.0", "blocks.1"):
        parts = [rows[f"{block}.qkv.{i}"].attention for i in range(3)]
        assert parts == ["self q", "self k", "self v"]
        assert rows[f"{block}.ff1"].attention is None
        assert rows[f"{block}.ff2"].decision == "keep"
        if project:
            assert rows[f"{block}.out"].attention == "self out"


def test_token_models_are_guessed_by_their_embedding():
    assert roles_of(nets.Tokens()) == {"body": "inner", "tail": "output"}


def test_writes_through_out_are_followed():
    assert roles_of(nets.WritesInto()) == CHAIN


@pytest.mark.parametrize("net", [nets.ResultFromNumbers, nets.DrawsItsInput])
def test_where_no_tensor_leads_from_inputs_to_results_roles_are_unknown(net):
    rows = scan(net()).layers
    assert {row.role for row in rows} == {"unknown"}
    assert {row.rule for row in rows} == {"untraced"}
    assert all("it runs" in row.reason for row in rows)
