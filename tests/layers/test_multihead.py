"""PrismMultihead against `nn.MultiheadAttention`: with dense volumes they are one."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor, nn

from prismify import Policy, convert, convert_, load, save, scan
from prismify.errors import ConversionError, PlanError, ShapeError
from prismify.layers import Prism, PrismMultihead
from prismify.plan import Plan
from tests.tolerances import equivalent, exact

E, HEADS = 16, 4


def dense_twin(**options) -> tuple[nn.MultiheadAttention, PrismMultihead]:
    """An attention, and the PrismMultihead of volumes of one channel with the same weights."""
    attention = nn.MultiheadAttention(E, HEADS, **options).double()
    if attention.in_proj_bias is not None:
        nn.init.normal_(attention.in_proj_bias)
        nn.init.normal_(attention.out_proj.bias)
    layer = PrismMultihead.from_multihead(attention, projections="qkv", depth=1, kernel_size=1, bias="channel")
    packed = attention.in_proj_weight
    weights = packed.chunk(3) if packed is not None else [getattr(attention, f"{p}_proj_weight") for p in "qkv"]
    biases = [None] * 3 if attention.in_proj_bias is None else attention.in_proj_bias.chunk(3)
    rows = [*zip((layer.q_proj, layer.k_proj, layer.v_proj), weights, biases, strict=True)]
    rows.append((layer.out_proj, attention.out_proj.weight, attention.out_proj.bias))
    for prism, weight, bias in rows:
        prism.weight.data = weight.data[:, :, None].clone()
        if bias is not None:
            prism.bias.data = bias.data.clone()
    return attention, layer


def agree(attention: nn.Module, layer: nn.Module, *inputs: Tensor, **options) -> None:
    for got, expected in zip(layer(*inputs, **options), attention(*inputs, **options), strict=True):
        assert (got is None) == (expected is None)
        if got is not None:
            equivalent(got, expected)


@pytest.mark.parametrize("need_weights", [False, True])
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("options", [{}, {"bias": False}, {"kdim": 6, "vdim": 10}])
def test_dense_volumes_are_the_dense_attention(options, batch_first, need_weights):
    attention, layer = dense_twin(batch_first=batch_first, **options)
    sizes = itertools.product((5, 7, 7), (E,))
    query, key, value = (torch.randn(3, n, width) for n, width in sizes)
    key, value = torch.randn(3, 7, options.get("kdim", E)), torch.randn(3, 7, options.get("vdim", E))
    inputs = [x.double() if batch_first else x.double().transpose(0, 1) for x in (query, key, value)]
    agree(attention, layer, *inputs, need_weights=need_weights)
    agree(attention, layer, *inputs, need_weights=True, average_attn_weights=False)
    unbatched = [x.double()[0] for x in (query, key, value)]
    agree(attention, layer, *unbatched, need_weights=need_weights)


@pytest.mark.filterwarnings("ignore:Support for mismatched key_padding_mask:UserWarning")  # torch's own remark
@pytest.mark.parametrize("need_weights", [False, True])
@pytest.mark.parametrize("padding", [None, "bool", "float"])
@pytest.mark.parametrize("mask", [None, "bool", "float", "heads", "causal"])
def test_masks(mask, padding, need_weights):
    attention, layer = dense_twin(batch_first=True)
    x = torch.randn(2, 6, E, dtype=torch.float64)
    later = torch.ones(6, 6).triu(1).bool()
    masks = {
        None: None,
        "bool": later,
        "causal": later,
        "float": torch.randn(6, 6).double(),
        "heads": torch.rand(2 * HEADS, 6, 6) < 0.3,
    }
    paddings = {None: None, "bool": torch.arange(6) >= torch.tensor([[6], [4]]), "float": torch.randn(2, 6).double()}
    agree(
        attention, layer, x, x, x,
        attn_mask=masks[mask], key_padding_mask=paddings[padding], need_weights=need_weights,
        is_causal=mask == "causal",
    )  # fmt: skip


def test_every_gradient_is_the_dense_attentions():
    attention, layer = dense_twin(batch_first=True)
    x = torch.randn(2, 5, E, dtype=torch.float64, requires_grad=True)
    dense = torch.autograd.grad(attention(x, x, x, need_weights=False)[0].square().sum(), [x, *attention.parameters()])
    ours = torch.autograd.grad(layer(x, x, x, need_weights=False)[0].square().sum(), [x, *layer.parameters()])
    found = dict(zip(["x", *(n for n, _ in layer.named_parameters())], ours, strict=True))
    expected = dict(zip(["x", *(n for n, _ in attention.named_parameters())], dense, strict=True))
    equivalent(found["x"], expected["x"])
    equivalent(torch.cat([found[f"{p}_proj.weight"][..., 0] for p in "qkv"]), expected["in_proj_weight"])
    equivalent(torch.cat([found[f"{p}_proj.bias"] for p in "qkv"]), expected["in_proj_bias"])
    equivalent(found["out_proj.weight"][..., 0], expected["out_proj.weight"])


def test_dropout_acts_on_the_weights_in_training_only():
    _, layer = dense_twin(dropout=0.5)
    x = torch.randn(5, 2, E, dtype=torch.float64)
    weights = layer(x, x, x, average_attn_weights=False)[1]
    assert (weights == 0).any()
    layer.eval()
    equivalent(layer(x, x, x)[0], layer(x, x, x)[0])


def test_it_refuses_what_has_no_counterpart():
    for options in ({"add_bias_kv": True}, {"add_zero_attn": True}):
        attention = nn.MultiheadAttention(E, HEADS, **options)
        with pytest.raises(ShapeError, match="no counterpart"):
            PrismMultihead.from_multihead(attention)
        model = nn.Sequential(nn.Linear(3, E), Self(attention), nn.Linear(E, 3))
        rows = {row.name: row for row in scan(model, (torch.randn(2, 5, 3),)).layers}
        assert rows["1.attention"].decision == rows["1.attention.out_proj"].decision == "keep"
        assert "adds a bias or a zero" in rows["1.attention"].reason
        assert "stays" in rows["1.attention.out_proj"].reason
    layer = PrismMultihead(E, HEADS)
    x = torch.randn(5, 2, E)
    with pytest.raises(ShapeError, match="is_causal is a hint"):
        layer(x, x, x, is_causal=True)
    with pytest.raises(ShapeError, match="attn_mask"):
        layer(x, x, x, attn_mask=torch.zeros(4, 4))
    with pytest.raises(ShapeError, match="heads"):
        PrismMultihead(E, 3)


class Self(nn.Module):
    def __init__(self, attention: nn.Module, context: int | None = None) -> None:
        super().__init__()
        self.attention = attention
        self.context = None if context is None else nn.Linear(3, context)

    def forward(self, x: Tensor) -> Tensor:
        other = x if self.context is None else self.context(x[..., :3])
        return x + self.attention(x, other, other, need_weights=False)[0]


def encoder() -> nn.Module:
    layer = nn.TransformerEncoderLayer(32, 4, 64, dropout=0.0, batch_first=True)
    return nn.Sequential(nn.Linear(3, 32), nn.TransformerEncoder(layer, 2), nn.Linear(32, 3))


def test_a_transformer_encoder_is_converted_saved_and_loaded(tmp_path):
    model, x = encoder(), torch.randn(2, 5, 3)
    plan = scan(model, (x,))
    rows = {row.name: row for row in plan.layers}
    attention, out = rows["1.layers.0.self_attn"], rows["1.layers.0.self_attn.out_proj"]
    assert attention.operator.type == "PrismMultihead"
    assert attention.parameters_before == 3 * 32 * 32 + 3 * 32
    assert attention.parameters_after == 3 * (3 + 1)
    assert out.attention == "self out"
    assert out.parameters_after == 3  # the norm behind it would take one number more away again
    assert attention.macs_after == 2 * 5 * 3 * 32 * 3
    converted = convert(model, plan, args=(x,))
    assert sum(p.numel() for p in converted.parameters()) == plan.parameters.after
    assert isinstance(converted[1].layers[0].self_attn, PrismMultihead)
    assert isinstance(converted[1].layers[0].self_attn.out_proj, Prism)
    converted.eval()
    padding = torch.tensor([[False] * 5, [False] * 3 + [True] * 2])
    with torch.inference_mode():  # where torch's fast paths would want dense weights
        expected = converted(x)
        hidden = converted[1](converted[0](x), src_key_padding_mask=padding)
    assert torch.isfinite(hidden).all()
    save(converted, tmp_path / "out")
    exact(load(tmp_path / "out")(x), expected)
    exact(load(tmp_path / "out", model=encoder())(x), expected)


def test_in_place_and_undone():
    model, x = encoder(), torch.randn(2, 5, 3)
    assert convert_(model, args=(x,)) is model
    assert not model[1].use_nested_tensor

    class Looks(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = encoder()

        def forward(self, x: Tensor) -> Tensor:
            assert self.body[1].layers[0].self_attn.in_proj_weight.shape[0] == 96
            return self.body(x)

    model = Looks()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(ConversionError):
        convert_(model, args=(x,))
    assert model.body[1].use_nested_tensor
    assert list(model.state_dict()) == list(before)


def test_projections_of_another_width_stay_unless_asked_for():
    attention = nn.MultiheadAttention(32, 4, kdim=48, vdim=48, batch_first=True)
    model = nn.Sequential(nn.Linear(3, 32), Self(attention, context=48), nn.Linear(32, 3))
    x = torch.randn(2, 5, 3)
    plan = scan(model, (x,))
    row = next(row for row in plan.layers if row.name == "1.attention")
    assert row.operator.projections == ("q",)
    assert "k (48->32), v (48->32) of the context stay" in row.reason
    assert row.parameters_after == 3 + 1 + 2 * 48 * 32 + 2 * 32
    converted = convert(model, plan, args=(x,))
    assert sum(p.numel() for p in converted.parameters()) == plan.parameters.after
    exact(converted[1].attention.k_proj.weight, attention.k_proj_weight)
    exact(converted[1].attention.v_proj.bias, attention.in_proj_bias[64:])
    converted[1].attention.k_proj.weight.data.zero_()
    assert attention.k_proj_weight.abs().sum() > 0
    row = next(r for r in scan(model, (x,), policy=Policy("volumes", context=True)).layers if r.name == "1.attention")
    assert row.operator.volumes == (2, 2)
    assert row.parameters_after == (2 * 2 + 3 * 2 + 3 * 2) * 3 + 3 * 2
    assert convert(model, args=(x,), policy=Policy("volumes", context=True))(x).shape == x.shape


def test_an_output_projection_changes_only_with_its_attention(tmp_path):
    model, x = encoder(), torch.randn(2, 5, 3)
    plan = scan(model, (x,), policy=Policy(exclude=("*.self_attn",)))
    assert {r.rule for r in plan.layers if r.name.endswith("out_proj")} == {"within"}
    plan = scan(model, (x,))
    data = plan.to_dict()
    row = next(r for r in data["layers"] if r["name"] == "1.layers.0.self_attn")
    row |= {"decision": "keep", "operator": None}
    with pytest.raises(PlanError, match="is applied by"):
        convert(model, Plan.from_dict(data), args=(x,))
    kept = convert(model, args=(x,), policy=Policy(exclude=("*.out_proj",)))
    exact(kept[1].layers[0].self_attn.out_proj.weight, model[1].layers[0].self_attn.out_proj.weight)
    assert kept[1].layers[0].self_attn.out_proj is not model[1].layers[0].self_attn.out_proj
    assert sum(p.numel() for p in kept.parameters()) == kept.prismify_plan.parameters.after
    again = convert(kept, args=(x,))
    names = [row.name for row in again.prismify_plan.layers]
    assert names == [row.name for row in plan.layers]
    assert again.prismify_plan.parameters.after == sum(p.numel() for p in again.parameters())
    save(again, tmp_path / "twice")
    exact(load(tmp_path / "twice", model=encoder())(x), again.eval()(x))


def test_shared_and_tied_attentions_stay_so():
    attention, other = (nn.MultiheadAttention(32, 4, batch_first=True) for _ in range(2))
    other.in_proj_weight, other.in_proj_bias = attention.in_proj_weight, attention.in_proj_bias
    model = nn.Sequential(nn.Linear(3, 32), Self(attention), Self(attention), Self(other), nn.Linear(32, 3))
    x = torch.randn(2, 5, 3)
    converted = convert(model, args=(x,))
    assert converted[1].attention is converted[2].attention
    assert converted[1].attention.k_proj.weight is converted[3].attention.k_proj.weight
    assert converted[1].attention.out_proj.weight is not converted[3].attention.out_proj.weight
    assert sum(p.numel() for p in converted.parameters()) == converted.prismify_plan.parameters.after


def test_it_moves_between_types_and_devices():
    layer = PrismMultihead(E, HEADS, batch_first=True, projections="qv").to(torch.bfloat16)
    x = torch.randn(2, 5, E, dtype=torch.bfloat16)
    assert layer(x, x, x)[0].dtype == torch.bfloat16
    layer = PrismMultihead.from_multihead(nn.MultiheadAttention(E, HEADS, device="meta", dtype=torch.float16))
    x = torch.empty(5, 2, E, device="meta", dtype=torch.float16)
    assert layer(x, x, x)[0].is_meta
    assert {p.dtype for p in layer.parameters()} == {torch.float16}
