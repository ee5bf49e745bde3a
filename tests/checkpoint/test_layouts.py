"""Checkpoints as people have them: a model inside a larger file, averaged weights, shards, original names."""

from __future__ import annotations

import json
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import prismify
from prismify.checkpoint import Source, open_source
from prismify.checkpoint.layouts import Selection, averaged, find_prefix, groups, groups_text
from prismify.errors import SourceError
from tests.cli.conftest import NET, python, run  # noqa: F401

SIZES: dict[str, Any] = {
    "block_out_channels": [16, 32],
    "norm_num_groups": 4,
    "layers_per_block": 1,
    "latent_channels": 4,
}
BLOCKS = {
    "down_block_types": ["DownEncoderBlock2D"] * 2,
    "up_block_types": ["UpDecoderBlock2D"] * 2,
}


def autoencoder() -> Any:
    import diffusers

    return diffusers.AutoencoderKL(**SIZES, **BLOCKS).eval()


def compvis_name(name: str) -> str:
    """What latent diffusion's own code calls a tensor of diffusers' `AutoencoderKL`."""
    parts = name.split(".")
    if parts[1:2] == ["down_blocks"]:
        parts[1] = "down"
    if parts[1:2] == ["up_blocks"]:
        parts[1:3] = ["up", str(len(SIZES["block_out_channels"]) - 1 - int(parts[2]))]
    name = ".".join(parts)
    for ours, theirs in (
        ("mid_block.resnets.0", "mid.block_1"), ("mid_block.resnets.1", "mid.block_2"), ("resnets", "block"),
        ("mid_block.attentions.0.group_norm", "mid.attn_1.norm"),
        ("mid_block.attentions.0.to_out.0", "mid.attn_1.proj_out"),
        ("mid_block.attentions.0.to_", "mid.attn_1."), ("conv_shortcut", "nin_shortcut"), ("conv_norm_out", "norm_out"),
        ("downsamplers.0", "downsample"), ("upsamplers.0", "upsample"),
    ):  # fmt: skip
        name = name.replace(ours, theirs)
    return name


def compvis(model: nn.Module) -> dict[str, Tensor]:
    """The state dict of an `AutoencoderKL` as latent diffusion's code saves it: attention in 1x1 convolutions."""
    state = {compvis_name(name): value for name, value in model.state_dict().items()}
    return {n: v[:, :, None, None] if ".attn_1." in n and v.dim() == 2 else v for n, v in state.items()}


def denoiser() -> nn.Sequential:
    scope: dict[str, Any] = {}
    exec(NET, scope)
    made: nn.Sequential = scope["make"]()
    return made


@pytest.fixture
def ldm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Any, nn.Sequential, nn.Sequential]:
    """A latent diffusion checkpoint as Lightning wrote it: four groups, averages, and objects of its own classes."""
    vae, raw, average = autoencoder(), denoiser(), denoiser()
    state = {f"first_stage_model.{name}": value for name, value in compvis(vae).items()}
    state |= {f"model.diffusion_model.{name}": value for name, value in raw.state_dict().items()}
    state |= {"model_ema." + f"diffusion_model.{n}".replace(".", ""): v for n, v in average.state_dict().items()}
    state |= {"model_ema.decay": torch.tensor(0.9999), "model_ema.num_updates": torch.tensor(3), "betas": torch.ones(5)}
    state["cond_stage_model.transformer.embeddings.weight"] = torch.ones(3, 4)
    lightning = types.ModuleType("pytorch_lightning_of_then")
    exec(
        "class ModelCheckpoint:\n    def __init__(self): self.best = 1\nclass AttributeDict(dict): pass",
        vars(lightning),
    )
    for made in (lightning.ModelCheckpoint, lightning.AttributeDict):
        made.__module__ = lightning.__name__
    monkeypatch.setitem(sys.modules, lightning.__name__, lightning)
    content = {"epoch": 3, "global_step": 7, "state_dict": state, "hyper_parameters": lightning.AttributeDict(lr=1.0)}
    content["callbacks"] = {lightning.ModelCheckpoint: {"best": lightning.ModelCheckpoint()}}
    torch.save(content, tmp_path / "ldm.ckpt")
    monkeypatch.delitem(sys.modules, lightning.__name__)
    (tmp_path / "net.py").write_text(NET)
    (tmp_path / "vae").mkdir()
    (tmp_path / "vae" / "config.json").write_text(vae.to_json_string())
    return tmp_path / "ldm.ckpt", vae, raw, average


def built(path: Path, **how: Any) -> tuple[nn.Module, list[str]]:
    source = open_source(str(path), **how)
    assert isinstance(source, Source)
    model = source.build()
    assert isinstance(model, nn.Module)
    empty = source.build(empty=True)
    assert isinstance(empty, nn.Module)
    assert {n: t.shape for n, t in empty.state_dict().items()} == {n: t.shape for n, t in model.state_dict().items()}
    return model, source.notes


def same(model: nn.Module, other: nn.Module) -> bool:
    ours, theirs = model.state_dict(), other.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize("suffix", [".ckpt", ".safetensors"])
def test_an_autoencoder_under_its_original_names(ldm: Any, suffix: str) -> None:
    path, vae, _, _ = ldm
    if suffix == ".safetensors":
        source = {f"first_stage_model.{n}": v.contiguous() for n, v in compvis(vae).items()}
        path = path.with_suffix(suffix)
        save_file(source | {"model.diffusion_model.x.weight": torch.ones(2)}, path)
    for how in ({"config": path.parent / "vae"}, {"model": "diffusers:AutoencoderKL", "arguments": SIZES | BLOCKS}):
        model, notes = built(path, **how)
        assert same(model, vae)
        assert any("original release" in note for note in notes)


def test_a_model_is_found_under_its_prefix_and_its_averages_on_demand(ldm: Any) -> None:
    path, _, raw, average = ldm
    how = {"model": f"{path.parent / 'net.py'}:make"}
    model, notes = built(path, **how)
    assert same(model, raw)
    assert any("under 'model.diffusion_model.'" in note for note in notes)
    assert same(built(path, **how, select=Selection(ema=True))[0], average)
    assert same(built(path, **how, select=Selection("model.diffusion_model"))[0], raw)
    with pytest.raises(SourceError, match=r"no names that begin with 'unet\.'; it holds first_stage_model\."):
        built(path, **how, select=Selection("unet"))


def test_a_file_without_an_architecture_lists_its_groups(ldm: Any) -> None:
    with pytest.raises(SourceError) as caught:
        built(ldm[0])
    assert "first_stage_model. (" in str(caught.value)
    assert "model.diffusion_model. (6 tensors)" in str(caught.value)
    assert "--config FOLDER" in str(caught.value)


def test_the_command_line_says_what_was_chosen(ldm: Any, run: Callable[..., Any]) -> None:  # noqa: F811
    path, vae, _, _ = ldm
    report = run("scan", path, "--config", path.parent / "vae", "--json").json
    assert report["model"] == "AutoencoderKL"
    assert any("original release" in note for note in report["notes"])
    report = run("convert", path, "--config", path.parent / "vae", "-o", path.parent / "out", "--json").json
    loaded = prismify.load(path.parent / "out")
    replaced = {row["name"] for row in report["layers"] if row["decision"] == "replace"}
    for name, value in vae.state_dict().items():
        if name.rpartition(".")[0] not in replaced:
            assert torch.equal(loaded.state_dict()[name], value)
    assert (
        "drop --ema" in run("scan", path.parent / "vae", "--ema").line
        or "no folder vae_ema" in run("scan", path.parent / "vae", "--ema").line
    )


def test_a_lightning_checkpoint_of_one_model(tmp_path: Path) -> None:
    trained = denoiser()
    (tmp_path / "net.py").write_text(NET)
    state = {f"net.{name}": value for name, value in trained.state_dict().items()}
    state |= {"loss.discriminator.weight": torch.ones(2), "ema.shadow": torch.ones(1)}
    torch.save({"state_dict": state, "pytorch-lightning_version": "2.0"}, tmp_path / "last.ckpt")
    model, notes = built(tmp_path / "last.ckpt", model=f"{tmp_path / 'net.py'}:make")
    assert same(model, trained)
    assert "under 'net.'" in notes[0]


def test_a_model_that_is_there_twice_is_to_be_chosen() -> None:
    state = {
        f"{who}.{name}": value for who in ("generator", "teacher") for name, value in denoiser().state_dict().items()
    }
    with pytest.raises(SourceError, match=r"more than once: generator\. \(6 tensors\), teacher\. .*--prefix"):
        find_prefix(state, denoiser().state_dict(), None, "w.pt")
    assert find_prefix(state, denoiser().state_dict(), "teacher", "w.pt") == "teacher."
    state = {name.replace("teacher", "net_ema"): value for name, value in state.items()}
    assert find_prefix(state, denoiser().state_dict(), None, "w.pt") == "generator."


def test_groups() -> None:
    names = ["a.b.c.weight", "a.b.c.bias", "a.b.d.weight", "e.weight", "f"]
    assert groups(names) == {"a.b.": 3, "e.": 1, "f": 1}
    assert groups_text([f"g{i}.w" for i in range(9)]).endswith("g5. (1 tensor) and 3 more")


@pytest.mark.parametrize("prefix", ["ema_model.", "model_ema.module.", "ema."])
def test_averages_under_a_prefix(prefix: str) -> None:
    state = {"model.a.w": torch.zeros(1), f"{prefix}a.w": torch.ones(1)}
    assert averaged(state, "here") == {"a.w": state[f"{prefix}a.w"]}


def test_averages_that_are_not_there_or_belong_to_nothing() -> None:
    with pytest.raises(SourceError, match="holds no averaged"):
        averaged({"a.w": torch.ones(1)}, "here")
    with pytest.raises(SourceError, match="the averaged bw belongs to no weight"):
        averaged({"model.a.w": torch.ones(1), "model_ema.aw": torch.ones(1), "model_ema.bw": torch.ones(1)}, "here")


def test_variants_and_averaged_folders(tmp_path: Path) -> None:
    models = {"vae": autoencoder(), "vae_ema": autoencoder()}
    for name, model in models.items():
        model.save_pretrained(tmp_path / name)
    models["vae"].half().save_pretrained(tmp_path / "vae", variant="fp16")
    assert next(built(tmp_path / "vae")[0].parameters()).dtype == torch.float32
    half, _ = built(tmp_path / "vae", select=Selection(variant="fp16"))
    assert same(half, models["vae"])
    average, notes = built(tmp_path / "vae", select=Selection(ema=True))
    assert same(average, models["vae_ema"])
    assert "vae_ema" in notes[0]
    with pytest.raises(SourceError, match=r"no weights of variant 'bf16': it holds .*fp16\.safetensors"):
        open_source(str(tmp_path / "vae"), select=Selection(variant="bf16"))
    with pytest.raises(SourceError, match="there is no folder vae_ema_ema beside it"):
        open_source(str(tmp_path / "vae_ema"), select=Selection(ema=True))


def shards(model: nn.Module, folder: Path, suffix: str, files: int = 2) -> Path:
    """A few files and their index, as transformers and diffusers write them."""
    folder.mkdir()
    state = {name: value.contiguous() for name, value in model.state_dict().items()}
    stem = "pytorch_model" if suffix == ".bin" else "model"
    where = {name: f"{stem}-0000{1 + i % files}-of-0000{files}{suffix}" for i, name in enumerate(state)}
    for file in set(where.values()):
        part = {name: state[name] for name in state if where[name] == file}
        save_file(part, folder / file) if suffix == ".safetensors" else torch.save(part, folder / file)
    index = folder / f"{stem}{suffix}.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": where}))
    return index


@pytest.mark.parametrize("suffix", [".safetensors", ".bin"])
@pytest.mark.parametrize("whole_folder", [False, True])
def test_shards_are_converted_as_one_file_is(
    tmp_path: Path,
    suffix: str,
    whole_folder: bool,
    run: Callable[..., Any],  # noqa: F811
) -> None:
    model = autoencoder()
    index = shards(model, tmp_path / "shards", suffix)
    save_file(model.state_dict(), tmp_path / "one.safetensors")
    model.save_config(tmp_path / "config")
    words = ["--config", tmp_path / "config", "--json", "-o"]
    source = index.parent if whole_folder else index
    of_shards = run("convert", source, *words, tmp_path / "a").json
    of_one = run("convert", tmp_path / "one.safetensors", *words, tmp_path / "b").json
    assert of_shards["layers"] == of_one["layers"]
    ours, theirs = (load_file(tmp_path / name / "model.safetensors") for name in ("a", "b"))
    assert {n: (v.shape, v.dtype) for n, v in ours.items()} == {n: (v.shape, v.dtype) for n, v in theirs.items()}
    kept = [name for name in ours if name in model.state_dict() and ours[name].shape == model.state_dict()[name].shape]
    assert all(torch.equal(ours[name], model.state_dict()[name]) for name in kept)
    loaded = prismify.load(tmp_path / "a")
    assert loaded(torch.randn(1, 3, 16, 16)).sample.isfinite().all()


DEEP = """
from torch import nn

def make(width=2048, layers=12):
    body = [nn.Conv2d(3, 64, 3, padding=1), nn.Conv2d(64, 64, 3, padding=1), nn.Conv2d(64, 8, 3, padding=1)]
    dense = [nn.Linear(width, width, bias=False) for _ in range(layers)]
    return nn.Sequential(*body, nn.Flatten(), nn.Linear(512, width), *dense)
"""

#: Linux keeps the most memory a process had; 5 written to `clear_refs` starts that anew.
PEAK = """
import sys
from pathlib import Path
from prismify.cli.main import app

def peak():
    line = next(l for l in Path("/proc/self/status").read_text().splitlines() if l.startswith("VmHWM"))
    return int(line.split()[1]) << 10

def convert(source, output, *words):
    try:
        app(["convert", source, "--model", sys.argv[1] + ":make", "--input", "1,3,8,8", "-o", output, "--json", *words])
    except SystemExit as end:
        assert not end.code

convert(sys.argv[2] + "/small/model.safetensors.index.json", sys.argv[2] + "/a", "--arg", "width=64")
Path("/proc/self/clear_refs").write_text("5")
before = peak()
convert(sys.argv[2] + "/large/model.safetensors.index.json", sys.argv[2] + "/b")
print(peak() - before, file=sys.stderr)
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="reads Linux's account of memory")
def test_a_sharded_model_is_never_whole_in_memory(tmp_path: Path, python: Callable[..., Any]) -> None:  # noqa: F811
    """200 MB in three shards, nearly all of it kept: less memory than 1.2 shards, which hold 67 MB each."""
    (tmp_path / "deep.py").write_text(DEEP)
    scope: dict[str, Any] = {}
    exec(DEEP, scope)
    shards(scope["make"](64), tmp_path / "small", ".safetensors")
    model = scope["make"]()
    index = shards(model, tmp_path / "large", ".safetensors", 3)
    largest = max(file.stat().st_size for file in index.parent.glob("*.safetensors"))
    del model
    arguments = f"import sys; sys.argv[1:] = [{str(tmp_path / 'deep.py')!r}, {str(tmp_path)!r}]\n"
    ran = python(arguments + PEAK)
    assert ran.code == 0, ran.err
    assert int(ran.err.splitlines()[-1]) < 1.2 * largest
    kept = load_file(tmp_path / "b" / "model.safetensors")
    assert kept["5.weight"].shape == (2048, 2048)
