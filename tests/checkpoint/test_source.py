"""SOURCE: what each kind is taken for, and what is said of what is none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from prismify.checkpoint import Source, open_source
from prismify.errors import SourceError

VAE: dict[str, Any] = {
    "block_out_channels": (8,),
    "norm_num_groups": 4,
    "latent_channels": 2,
    "sample_size": 8,
    "layers_per_block": 1,
}


@pytest.fixture
def vae(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    diffusers.AutoencoderKL(**VAE).save_pretrained(tmp_path / "vae")
    return tmp_path / "vae"


def opened(source: Path | str, **how: Any) -> Source:
    found = open_source(str(source), **how)
    assert isinstance(found, Source)
    return found


def test_old_key_names_are_brought_up_to_date(vae: Path) -> None:
    """The Stable Diffusion autoencoders on the hub still have the names of diffusers 0.17."""
    state = load_file(vae / "diffusion_pytorch_model.safetensors")
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    for new, before in old.items():
        state = {k.replace(f"attentions.0.{new}.", f"attentions.0.{before}."): v for k, v in state.items()}
    assert any(".query." in name for name in state)
    save_file(state, vae / "diffusion_pytorch_model.safetensors")
    original = diffusers.AutoencoderKL.from_pretrained(vae).state_dict()
    model = opened(vae).build()
    for name, value in model.state_dict().items():
        assert torch.equal(value, original[name])


@pytest.mark.parametrize("empty", [False, True])
def test_weights_that_do_not_fit_are_named_at_scan_too(vae: Path, empty: bool) -> None:
    state = load_file(vae / "diffusion_pytorch_model.safetensors")
    state["encoder.conv_in.weight"] = torch.ones(8, 4, 3, 3)
    del state["decoder.conv_out.bias"]
    save_file(state, vae / "diffusion_pytorch_model.safetensors")
    with pytest.raises(SourceError) as caught:
        opened(vae).build(empty=empty)
    assert "encoder.conv_in.weight is (8, 4, 3, 3), in the model (8, 3, 3, 3)" in str(caught.value)
    assert "decoder.conv_out.bias is missing (the model has (3))" in str(caught.value)


def test_a_scan_sees_the_files_dtype_without_its_values(vae: Path) -> None:
    model = diffusers.AutoencoderKL.from_pretrained(vae)
    model.half().save_pretrained(vae)
    model = opened(vae).build(empty=True)
    assert {(p.dtype, p.is_meta) for p in model.parameters()} == {(torch.float16, True)}


def test_full_precision_is_preferred_to_a_variant(vae: Path) -> None:
    model = diffusers.AutoencoderKL.from_pretrained(vae)
    model.half().save_pretrained(vae, variant="fp16")
    assert next(opened(vae).build().parameters()).dtype == torch.float32
    (vae / "diffusion_pytorch_model.safetensors").unlink()
    assert next(opened(vae).build().parameters()).dtype == torch.float16


def test_a_config_alone_starts_afresh_and_says_so(vae: Path) -> None:
    (vae / "diffusion_pytorch_model.safetensors").unlink()
    source = opened(vae)
    assert source.described()["weights"] == "fresh"
    assert not next(source.build().parameters()).is_meta
    assert next(source.build(empty=True).parameters()).is_meta


def test_weights_under_a_strange_name_are_not_passed_over(vae: Path) -> None:
    (vae / "diffusion_pytorch_model.safetensors").rename(vae / "my_model.safetensors")
    with pytest.raises(SourceError, match=r"holds my_model\.safetensors, which is no name that diffusers gives"):
        opened(vae)


def test_a_shard_without_its_index_is_not_taken_for_the_whole(vae: Path) -> None:
    shard = vae / "diffusion_pytorch_model.fp16-00001-of-00002.safetensors"
    (vae / "diffusion_pytorch_model.safetensors").rename(shard)
    with pytest.raises(SourceError, match="00001-of-00002"):
        opened(vae)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"_class_name": "AutoencoderXL"}, "diffusers has no model 'AutoencoderXL'"),
        ({"_class_name": None}, "names no _class_name"),
        ({"_class_name": "DDPMScheduler"}, "diffusers has no model 'DDPMScheduler'"),
        ({"block_out_channels": "wide"}, "config.json does not make a AutoencoderKL: TypeError"),
        ({"down_block_types": ["NoBlock2D"]}, "config.json does not make a AutoencoderKL: ValueError"),
        ({"norm_num_groups": 5}, "config.json does not make a AutoencoderKL: ValueError"),
    ],
)
@pytest.mark.parametrize("empty", [False, True])
def test_a_wrong_config_is_one_line(vae: Path, change: dict[str, Any], message: str, empty: bool) -> None:
    config = json.loads((vae / "config.json").read_text()) | change
    (vae / "config.json").write_text(json.dumps(config))
    with pytest.raises(SourceError) as caught:
        opened(vae).build(empty=empty)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", ["", "[]", "{", '"x"'])
def test_a_damaged_config_is_one_line(vae: Path, content: str) -> None:
    (vae / "config.json").write_text(content)
    with pytest.raises(SourceError, match=r"config\.json"):
        opened(vae)


def test_what_is_no_source_is_said_to_be_none(tmp_path: Path) -> None:
    torch.save(nn.Linear(2, 3).state_dict(), tmp_path / "w.pt")
    (tmp_path / "net.py").write_text("")
    (tmp_path / "notes.txt").write_text("")
    cases: list[tuple[str, dict[str, Any], str]] = [
        (f"{tmp_path}", {}, "holds no config.json, model_index.json or prismify.json"),
        (f"{tmp_path}", {"model": "timm:resnet18"}, "w.pt does not fit the model"),
        (f"{tmp_path / 'missing.pt'}", {}, "no such file"),
        (f"{tmp_path / 'missing'}", {}, "no such file or folder, no trained model"),
        (f"{tmp_path / 'net.py'}", {}, "is Python code: name the factory in it"),
        (f"{tmp_path / 'notes.txt'}", {}, "weights end in"),
        (f"{tmp_path / 'w.pt'}", {}, "holds weights without an architecture: name it with --model"),
        (f"{tmp_path / 'w.pt'}", {"arguments": {"a": 1}}, "name one with --model"),
        (f"{tmp_path / 'w.pt'}", {"model": "resnet18"}, "neither a file nor a model reference"),
        ("timm:test_resnet", {"model": "timm:test_resnet"}, "SOURCE is a model reference itself"),
    ]
    for source, how, message in cases:
        with pytest.raises(SourceError) as caught:
            opened(source, **how).build()
        assert message in str(caught.value), source


def test_a_module_needs_no_architecture(tmp_path: Path) -> None:
    torch.save(nn.Linear(2, 3), tmp_path / "m.pt")
    with pytest.raises(SourceError, match="holds a whole Linear: drop --model"):
        opened(tmp_path / "m.pt", model="timm:test_resnet").build()


def test_weights_bring_themselves_so_a_librarys_own_are_not_asked_for(tmp_path: Path) -> None:
    import timm

    torch.save(timm.create_model("test_resnet").state_dict(), tmp_path / "w.pt")
    source = opened(tmp_path / "w.pt", model="timm:test_resnet", arguments={"pretrained": True})
    assert source.build()
    assert source.rebuild == {"kind": "reference", "reference": "timm:test_resnet", "arguments": {}}
