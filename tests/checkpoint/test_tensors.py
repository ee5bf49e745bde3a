"""What survives saving and loading: dtypes, ties, layouts, counters, buffers that no state dict holds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import prismify
from prismify.checkpoint.formats import fit_weights, lay_out, loose_buffers, put_buffers, strides_of, unique_state
from prismify.errors import SourceError


def round_trip(model: nn.Module, folder: Path, reference: str | None = None) -> tuple[nn.Module, nn.Module]:
    """(converted, loaded); the reference is `file.py:factory`."""
    converted = prismify.convert(model.eval())
    prismify.save(converted, folder, reference=reference)
    return converted, prismify.load(folder, trust_code=reference is not None)


def assert_same(converted: nn.Module, loaded: nn.Module, *inputs: Tensor) -> None:
    for (name, value), (other, read) in zip(converted.state_dict().items(), loaded.state_dict().items(), strict=True):
        assert name == other
        assert value.dtype == read.dtype
        assert value.stride() == read.stride()
        assert torch.equal(value, read)
    with torch.no_grad():
        assert torch.equal(converted(*inputs), loaded(*inputs))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_dtype_is_kept_in_the_file_and_after(tmp_path: Path, make_plain: Callable[..., Any], dtype: Any) -> None:
    converted, loaded = round_trip(make_plain().to(dtype), tmp_path / "out")
    assert {t.dtype for t in load_file(tmp_path / "out" / "model.safetensors").values()} == {dtype}
    assert_same(converted, loaded, torch.randn(1, 3, 9, 7, dtype=dtype))


class Tied(nn.Module):
    """Tied weights (one kept, one replaced), a module that stands twice, and a norm with a counter."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(16, 3, 1)
        self.last = nn.Conv2d(16, 3, 1)
        self.last.weight = self.first.weight
        self.enter = nn.Conv2d(3, 16, 3, padding=1)
        self.a, self.b = (nn.Conv2d(16, 16, 3, padding=1) for _ in range(2))
        self.b.weight, self.b.bias = self.a.weight, self.a.bias
        self.norm = nn.BatchNorm2d(16)
        self.again = nn.Sequential(self.norm, nn.Identity())

    def forward(self, x: Tensor) -> Tensor:
        y = self.again(self.norm(self.b(self.a(self.enter(x)))))
        return self.first(y) + self.last(y)


def test_ties_and_shared_modules_survive(tmp_path: Path) -> None:
    model = Tied()
    model.norm.num_batches_tracked.fill_(5)
    scope = tmp_path / "tied.py"
    scope.write_text("from torch import Tensor, nn\n" + source_of(Tied))
    converted, loaded = round_trip(model, tmp_path / "out", f"{scope}:Tied")
    assert_same(converted, loaded, torch.randn(1, 3, 8, 8))
    assert loaded.first.weight is loaded.last.weight
    assert loaded.a.weight is loaded.b.weight
    assert loaded.norm is loaded.again[0]
    assert int(loaded.norm.num_batches_tracked) == 5
    stored = load_file(tmp_path / "out" / "model.safetensors")
    numbers = sum(p.numel() for p in loaded.parameters())
    assert numbers == sum(p.numel() for p in converted.parameters())
    assert sum(t.numel() for t in stored.values()) == numbers + sum(b.numel() for b in loaded.buffers())


def source_of(cls: type) -> str:
    import inspect

    return inspect.getsource(cls)


@pytest.mark.parametrize("how", ["assigned", "one parameter, registered twice"])
def test_ties_survive_in_a_skeleton_and_in_a_reference(tmp_path: Path, how: str) -> None:
    tie = "b.weight = a.weight" if how == "assigned" else "a.weight = b.weight = nn.Parameter(a.weight.data)"
    (tmp_path / "made.py").write_text(
        "from torch import nn\ndef make():\n"
        "    a, b = nn.Conv2d(16, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1)\n"
        f"    {tie}\n"
        "    return nn.Sequential(nn.Conv2d(3, 16, 1), nn.Conv2d(16, 16, 1), a, b, nn.Conv2d(16, 3, 1))\n"
    )
    scope: dict[str, Any] = {}
    exec((tmp_path / "made.py").read_text(), scope)
    for name, reference in (("skeleton", None), ("reference", f"{tmp_path / 'made.py'}:make")):
        converted, loaded = round_trip(scope["make"](), tmp_path / name, reference)
        assert loaded[2].weight is loaded[3].weight
        assert_same(converted, loaded, torch.randn(1, 3, 8, 8))


@pytest.mark.parametrize("how", ["skeleton", "reference"])
def test_layouts_survive(tmp_path: Path, net: str, how: str) -> None:
    """Convolutions pick their algorithm by layout, so values alone would not be bit-identical."""
    model = nn.Sequential(nn.Conv2d(3, 32, 3), nn.Conv2d(32, 32, 3), nn.Conv2d(32, 48, 3), nn.Conv2d(48, 5, 3))
    model = model.to(memory_format=torch.channels_last)
    model[3].weight = nn.Parameter(model[3].weight.permute(1, 0, 2, 3).contiguous().permute(1, 0, 2, 3))
    reference = net if how == "reference" else None
    converted, loaded = round_trip(model, tmp_path / "out", reference)
    assert_same(converted, loaded, torch.randn(2, 3, 17, 19))
    assert loaded[2].weight.is_contiguous(memory_format=torch.channels_last)


@pytest.fixture
def net(tmp_path: Path) -> str:
    """A reference to the network of the test above."""
    (tmp_path / "layers.py").write_text(
        "from torch import nn\ndef make():\n    return nn.Sequential(nn.Conv2d(3, 32, 3), nn.Conv2d(32, 32, 3), "
        "nn.Conv2d(32, 48, 3), nn.Conv2d(48, 5, 3))\n"
    )
    return f"{tmp_path / 'layers.py'}:make"


def test_views_of_one_memory_are_saved_apart(tmp_path: Path, make_plain: Callable[..., Any]) -> None:
    model = make_plain()
    flat = torch.randn(2 * 3 * 16 * 9 + 3)
    model[0].weight = nn.Parameter(flat[: 16 * 27].view(16, 3, 3, 3))
    model[3].weight = nn.Parameter(flat[16 * 27 : 2 * 16 * 27].view(3, 16, 3, 3))
    model[3].bias = nn.Parameter(flat[-3:])
    converted, loaded = round_trip(model, tmp_path / "out")
    assert_same(converted, loaded, torch.randn(1, 3, 8, 8))


class Loose(nn.Module):
    """Buffers that no state dict holds: fixed, random, and one module's that another saves."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Conv2d(3, 16, 1)
        self.inner = nn.Conv2d(16, 16, 3, padding=1)
        self.leave = nn.Conv2d(16, 3, 1)
        self.register_buffer("fixed", torch.arange(16.0).view(16, 1, 1), persistent=False)
        self.register_buffer("noise", torch.randn(16, 1, 1), persistent=False)
        self.child = nn.Module()
        self.child.register_buffer("noise", self.noise, persistent=False)
        self.saver = nn.Module()
        self.saver.register_buffer("fixed", self.fixed)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.leave(self.inner(self.enter(x) + self.fixed) * self.child.noise)
        return y


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_buffers_outside_the_state_dict_survive(tmp_path: Path, dtype: torch.dtype) -> None:
    (tmp_path / "loose.py").write_text("import torch\nfrom torch import Tensor, nn\n" + source_of(Loose))
    model = Loose()
    model.fixed += 1  # saved under another module's name, so it must come back there too
    model = model.to(dtype)
    converted, loaded = round_trip(model, tmp_path / "out", f"{tmp_path / 'loose.py'}:Loose")
    assert_same(converted, loaded, torch.randn(1, 3, 8, 8, dtype=dtype))
    assert torch.equal(loaded.noise, model.noise)
    assert torch.equal(loaded.fixed, model.fixed)
    assert "noise" not in loaded.state_dict()
    if dtype == torch.float32:  # a cast unties buffers, in torch itself
        assert loaded.noise is loaded.child.noise
        assert set(load_file(tmp_path / "out" / "buffers.safetensors")) == {"noise"}


def test_a_library_model_cast_to_half_keeps_its_tables_in_half(tmp_path: Path) -> None:
    """diffusers' position tables are in no state dict: built again they would be float32, and fail in half."""
    import diffusers

    model = diffusers.DiTTransformer2DModel(
        num_layers=1, num_attention_heads=2, attention_head_dim=8, sample_size=8, num_embeds_ada_norm=4
    ).double()
    inputs = {"hidden_states": torch.randn(1, 4, 8, 8).double(), "timestep": torch.ones(1).long()}
    inputs["class_labels"] = torch.ones(1).long()
    converted = prismify.convert(model.eval(), kwargs=inputs)
    prismify.save(converted, tmp_path / "out")
    loaded = prismify.load(tmp_path / "out")
    assert loaded.pos_embed.pos_embed.dtype == torch.float64
    with torch.no_grad():
        assert torch.equal(converted(**inputs).sample, loaded(**inputs).sample)


def test_a_model_with_parts_without_parameters(tmp_path: Path, make_plain: Callable[..., Any]) -> None:
    model = nn.Sequential(nn.Identity(), nn.Sequential(), make_plain(), nn.Dropout(), nn.ModuleList())[:4]
    converted, loaded = round_trip(model, tmp_path / "out")
    assert_same(converted, loaded, torch.randn(1, 3, 8, 8))


def test_requires_grad_survives_in_a_skeleton(tmp_path: Path, make_plain: Callable[..., Any]) -> None:
    model = make_plain()
    model[0].requires_grad_(False)
    _, loaded = round_trip(model, tmp_path / "out")
    assert [p.requires_grad for p in loaded[0].parameters()] == [False, False]
    assert all(p.requires_grad for p in loaded[2].parameters())


def test_a_model_on_meta_is_not_saved(tmp_path: Path, make_plain: Callable[..., Any]) -> None:
    with torch.device("meta"):
        model = make_plain()
    with pytest.raises(SourceError, match="has no value: the model lies on the meta device"):
        prismify.save(prismify.convert(model), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_misfit_names_the_first_three_keys_with_both_shapes() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 4), nn.Linear(4, 5))
    state = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 7)).state_dict() | {"extra": torch.ones(2, 6)}
    with pytest.raises(SourceError) as caught:
        fit_weights(model, state, "w.pt")
    assert str(caught.value) == (
        "w.pt does not fit the model: 1.weight is (7, 3), in the model (4, 3); 1.bias is (7), in the model (4); "
        "2.weight is missing (the model has (5, 4)); and 2 more"
    )
    with pytest.raises(SourceError, match=r"extra \(2, 6\) is not in the model$"):
        fit_weights(nn.Linear(2, 3), nn.Linear(2, 3).state_dict() | {"extra": torch.ones(2, 6)}, "w.pt")


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module.", "model."])
def test_wrappers_prefixes_are_dropped(prefix: str) -> None:
    model, trained = nn.Linear(2, 3), nn.Linear(2, 3)
    fit_weights(model, {prefix + k: v for k, v in trained.state_dict().items()}, "w.pt")
    assert torch.equal(model.weight, trained.weight)


def test_a_models_own_prefix_stays() -> None:
    model, trained = (nn.ModuleDict({"module": nn.Linear(2, 3)}) for _ in range(2))
    fit_weights(model, trained.state_dict(), "w.pt")
    assert torch.equal(model["module"].weight, trained["module"].weight)
    with pytest.raises(SourceError, match=r"holds features\.a\. \(1 tensor\), and none of .* such as weight \(3, 2\)"):
        fit_weights(nn.Linear(2, 3), {"features.a.scale": torch.ones(2)}, "w.pt")


def test_one_name_of_a_tied_weight_is_enough() -> None:
    model = Tied()
    state = {k: v.clone() for k, v in Tied().state_dict().items() if k not in ("first.weight", "again.0.running_mean")}
    fit_weights(model, state, "w.pt")
    assert model.first.weight is model.last.weight
    assert torch.equal(model.first.weight, state["last.weight"])


def test_batch_norms_from_before_their_counter_fit() -> None:
    state = {k: v for k, v in nn.BatchNorm2d(3).state_dict().items() if k != "num_batches_tracked"}
    model = nn.BatchNorm2d(3)
    model.num_batches_tracked.fill_(4)
    fit_weights(model, state, "w.pt")
    assert int(model.num_batches_tracked) == 0
    with pytest.raises(SourceError, match="num_batches_tracked is missing"):
        fit_weights(nn.BatchNorm2d(3), {"weight": torch.ones(3), "bias": torch.ones(3)}, "w.pt")


def test_weights_that_cannot_be_trained_are_refused_in_one_line() -> None:
    with pytest.raises(SourceError, match=r"does not fit the model: .*gradients"):
        fit_weights(nn.Linear(2, 3), {"weight": torch.ones(3, 2, dtype=torch.int8), "bias": torch.ones(3)}, "w.pt")


@pytest.mark.parametrize("strides", [[1], [1, 1, 1], [1, 2, 3, 4], "x", {"a": 1}, [9, 3, -3, 1], [0, 0, 0, 0]])
def test_strides_from_outside_are_checked(strides: Any) -> None:
    with pytest.raises(SourceError, match="strides of w are not those of a dense tensor"):
        lay_out({"w": torch.ones(4, 3, 3, 3)}, {"w": strides}, "prismify.json")


def test_strides_of_dense_tensors_only() -> None:
    model = nn.Module()
    model.register_buffer("rows", torch.randn(4, 5))
    model.register_buffer("columns", torch.randn(5, 4).t())
    model.register_buffer("every_other", torch.randn(4, 10)[:, ::2])
    model.register_buffer("one", torch.randn(1).expand(4, 5))
    assert strides_of(model) == {"columns": [1, 4]}
    laid_out = lay_out(unique_state(model), strides_of(model), "here")
    assert laid_out["columns"].stride() == (1, 4)
    assert all(torch.equal(laid_out[name], value) for name, value in model.named_buffers())


def test_buffers_find_their_place_or_say_so() -> None:
    model = Loose()
    assert set(loose_buffers(model)) == {"noise"}
    put_buffers(model, {"noise": torch.ones(2), "saver.late": torch.ones(3)}, "buffers")
    assert model.child.noise is model.noise
    assert model.saver.late.shape == (3,)
    for name in ("nowhere.noise", "enter"):
        with pytest.raises(SourceError, match="has no place for"):
            put_buffers(model, {name: torch.ones(1)}, "buffers")
