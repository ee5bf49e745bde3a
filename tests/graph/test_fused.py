"""Fused projections: what lies in which channel is read off the dataflow, and the replacement keeps that order."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from prismify import Policy, convert, scan
from prismify.graph import capture, find_attention
from prismify.graph.dataflow import channels_reaching, layout_of, roles
from prismify.layers import Prism
from tests.graph import attention_nets as nets
from tests.graph.attention_nets import HEADS, ORDERS, C
from tests.tolerances import equivalent

TOKENS = torch.randn(2, 7, 3)


def rows_of(model: nn.Module, *inputs: Tensor, policy: str | Policy = "paper") -> dict:
    return {row.name: row for row in scan(model, inputs, policy=policy).layers}


def with_normal_biases(model: nn.Module) -> nn.Module:
    for module in model.modules():
        if isinstance(module, Prism) and module.bias is not None:
            nn.init.normal_(module.bias)
    return model


@pytest.mark.parametrize("rotary", [False, True])
@pytest.mark.parametrize("order", ORDERS, ids=lambda f: f.__name__)
def test_each_of_q_k_v_is_a_prism_over_all_channels_before_heads_are_split(order, rotary):
    """The converted model's q, k, v are those of three Prisms of C channels, whatever order the layer had."""
    model = nets.Fused(order, rotary).double()
    row = rows_of(model, TOKENS.double())["qkv"]
    runs, names = ORDERS[order]
    assert row.operator.volumes == (1, 3)
    assert row.operator.interleave == runs
    assert row.parameters_after == 3 * 3 + 3
    converted = with_normal_biases(convert(model, args=(TOKENS.double(),)))
    fused, x = converted.qkv, torch.randn(2, 5, C, dtype=torch.float64)
    seen = dict(zip("qkv", order(fused(x)), strict=True))
    for index, name in enumerate(names):
        alone = Prism(C, dtype=torch.float64)
        alone.weight.data, alone.bias.data = fused.weight.data[index : index + 1], fused.bias.data[index : index + 1]
        equivalent(seen[name], nets.heads_of(alone(x)))


@pytest.mark.parametrize("legacy", [True, False])
def test_guided_diffusion_in_both_head_orders(legacy):
    model = nets.GuidedDiffusion(legacy).double()
    x = torch.randn(2, 3, 6, 5, dtype=torch.float64)
    rows = rows_of(model, x)
    assert rows["qkv"].operator.interleave == (HEADS if legacy else 1)
    assert rows["qkv"].attention == "self q, k, v"
    assert rows["proj_out"].operator.type == "Prism"
    converted = with_normal_biases(convert(model, args=(x,)))
    assert converted(x).shape == x.shape
    y = torch.randn(2, C, 11, dtype=torch.float64)
    fused = converted.qkv(y)
    q, k, v = (Prism(C, dim=1, spatial_dims=1, dtype=torch.float64) for _ in range(3))
    for index, layer in enumerate((q, k, v)):
        layer.weight.data = converted.qkv.weight.data[index : index + 1]
        layer.bias.data = converted.qkv.bias.data[index : index + 1]
    parts = [layer(y).reshape(2 * HEADS, -1, 11) for layer in (q, k, v)]
    expected = torch.einsum("bts,bcs->bct", torch.einsum(
        "bct,bcs->bts", parts[0] * nets.WIDTH**-0.25, parts[1] * nets.WIDTH**-0.25).softmax(-1), parts[2])  # fmt: skip
    equivalent(converted.attend(fused), expected.reshape(2, C, 11))


def test_keys_and_values_in_one():
    rows = rows_of(nets.FusedKeyValue(), TOKENS)
    assert rows["kv"].operator.volumes == (1, 2)
    assert rows["kv"].attention == "self k, v"
    context = torch.randn(2, 4, 48)
    model = nets.FusedKeyValue(48)
    row = rows_of(model, TOKENS, context)["kv"]
    assert (row.rule, row.operator) == ("attention_width", None)
    kept = rows_of(model, TOKENS, context, policy="volumes")["kv"]
    assert "--context" in kept.reason
    row = rows_of(model, TOKENS, context, policy=Policy("volumes", context=True))["kv"]
    assert row.operator.volumes == (3, 4)
    assert "k 32|v 32" in row.reason


@pytest.mark.parametrize("softmax", [True, False])
def test_attention_without_softmax_counts_as_attention(softmax):
    rows = rows_of(nets.Fused(nets.by_head, softmax=softmax), TOKENS)
    assert rows["qkv"].operator.interleave == HEADS
    assert rows["out"].attention == "self out"
    assert ("without softmax" in rows["qkv"].reason) is not softmax


def test_linear_attention_by_einsum():
    x = torch.randn(1, 3, 6, 6)
    rows = rows_of(nets.CompVisLinear(), x)
    assert rows["to_qkv"].operator.volumes == (1, 3)
    assert rows["to_qkv"].parameters_after == 9
    assert convert(nets.CompVisLinear(), args=(x,))(x).shape == x.shape


def test_grouped_queries_are_replaced_by_volumes():
    paper = rows_of(nets.Grouped("apart"), TOKENS)
    assert [paper[n].decision for n in ("q", "k", "v", "out")] == ["replace", "keep", "keep", "replace"]
    assert "32->16 is not C->C" in paper["k"].reason
    rows = rows_of(nets.Grouped("apart"), TOKENS, policy="volumes")
    assert rows["k"].operator.volumes == (2, 1)


@pytest.mark.parametrize(("form", "interleave"), [("fused", 1), ("grouped", 2)])
def test_fused_grouped_queries(form, interleave):
    """(q|k|v) of widths 32, 16, 16, or the same in two groups: four volumes of 16, two of them q's."""
    model = nets.Grouped(form)
    assert rows_of(model, TOKENS)["qkv"].rule == "attention_width"
    operator = rows_of(model, TOKENS, policy="volumes")["qkv"].operator
    assert (operator.volumes, operator.interleave) == ((2, 4), interleave)
    converted = convert(model, args=(TOKENS,), policy="volumes")
    assert converted(TOKENS).shape == TOKENS.shape


def test_joint_streams_are_told_apart():
    rows = rows_of(nets.Joint(), TOKENS, torch.randn(2, 4, 12))
    assert rows["qkv"].attention == rows["added"].attention == "joint q, k, v"
    assert (rows["qkv"].operator.interleave, rows["added"].operator.interleave) == (1, HEADS)


def test_channels_that_serve_something_else_as_well_are_not_dealt_out():
    row = rows_of(nets.WithFeedForward(), TOKENS)["all"]
    assert (row.decision, row.rule) == ("keep", "fused_attention")
    assert "some are none of them" in row.reason


def test_an_output_projection_that_is_the_feed_forwards_as_well_is_replaced_with_that():
    for policy, decision in ((Policy("volumes"), "keep"), (Policy("volumes", feed_forward=True), "replace")):
        row = rows_of(nets.WithFeedForward(), TOKENS, policy=policy)["out"]
        assert (row.attention, row.decision) == ("self out", decision)
    assert row.operator.volumes == (3, 1)


def test_the_depth_asked_for_must_fit_the_order():
    model = nets.Fused(nets.by_head)
    row = rows_of(model, TOKENS, policy=Policy("volumes", depth=16, min_volume=8))["qkv"]
    assert (row.operator.volumes, row.operator.interleave) == ((2, 6), HEADS)
    row = rows_of(model, TOKENS, policy=Policy("volumes", depth=2, min_volume=1))["qkv"]
    assert (row.decision, row.rule) == ("keep", "volumes")


def test_channels_are_followed_through_the_graph():
    graph = capture(nets.Fused(nets.by_head, rotary=True), (TOKENS,))
    (attention,) = find_attention(graph, roles(graph))
    use = next(use for part, use in attention.parts if part == "k")
    width = C // HEADS
    expected = {h * 3 * width + width + i for h in range(HEADS) for i in range(width)}
    assert channels_reaching(attention.operands[1], use.node) == expected


def test_layouts_are_the_shortest_pattern():
    assert str(layout_of("qqkkvv")) == "q 2|k 2|v 2"
    assert layout_of("qkvqkv").repeats == 2
    assert layout_of(["q", None]) is None
    assert layout_of("qqkqq").repeats == 1
