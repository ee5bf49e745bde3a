"""Pipelines: models are converted, everything else is copied byte for byte, and the whole still samples."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from torch import nn

import prismify
from prismify.checkpoint import Pipeline, open_source, pipeline_report, save_pipeline
from prismify.errors import OutputError, PrismifyError, SourceError


def unet(width: int = 16) -> nn.Module:
    blocks = {"down_block_types": ("DownBlock2D",), "up_block_types": ("UpBlock2D",), "layers_per_block": 1}
    return diffusers.UNet2DModel(sample_size=8, block_out_channels=(width,), norm_num_groups=4, **blocks)


@pytest.fixture
def ldm(tmp_path: Path) -> Path:
    """A latent diffusion pipeline on disk, with files that no library asked for."""
    vq = diffusers.VQModel(block_out_channels=(16,), norm_num_groups=4, sample_size=8)
    pipeline = diffusers.LDMPipeline(vq, unet(), diffusers.DDIMScheduler(num_train_timesteps=4))
    pipeline.save_pretrained(tmp_path / "ldm")
    (tmp_path / "ldm" / "LICENSE").write_bytes(b"\x00\xff do as you like")
    (tmp_path / "ldm" / "samples").mkdir()
    (tmp_path / "ldm" / "samples" / "one.bin").write_bytes(bytes(range(256)))
    (tmp_path / "ldm" / ".git").mkdir()
    (tmp_path / "ldm" / ".git" / "objects").write_bytes(b"large")
    return tmp_path / "ldm"


def converted(folder: Path, *names: str, policy: Any = "paper") -> tuple[Pipeline, dict[str, nn.Module]]:
    pipeline = open_source(str(folder), trust_code=True)
    assert isinstance(pipeline, Pipeline)
    return pipeline, {n: prismify.convert(pipeline.parts[n].build(), policy=policy) for n in names or pipeline.parts}


def sample(pipeline: Any) -> torch.Tensor:
    pipeline.set_progress_bar_config(disable=True)
    images = pipeline(generator=torch.manual_seed(0), num_inference_steps=2, output_type="np").images
    return torch.from_numpy(images)


def tree(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_a_pipeline_is_converted_and_samples_the_same(ldm: Path) -> None:
    source, models = converted(ldm)
    assert set(models) == {"unet", "vqvae"}
    before = diffusers.DiffusionPipeline.from_pretrained(ldm, **models)
    save_pipeline(source, models, ldm.parent / "out")
    loaded = prismify.load(ldm.parent / "out")
    assert type(loaded) is diffusers.LDMPipeline
    assert loaded.unet.prismify_plan.replaced
    assert torch.equal(sample(loaded), sample(before))


def test_everything_else_is_copied_byte_for_byte(ldm: Path) -> None:
    source, models = converted(ldm)
    save_pipeline(source, models, ldm.parent / "out")
    original, written = tree(ldm), tree(ldm.parent / "out")
    for name, content in original.items():
        if name.split("/")[0] not in (*models, ".git"):
            assert written[name] == content
    assert not any(name.startswith(".git") for name in written)
    report = json.loads(written["report.json"])
    assert report == pipeline_report(source, {n: m.prismify_plan for n, m in models.items()}) | {
        "parts": report["parts"]
    }
    assert {e["what"] for e in report["parameters"]["excluded"]} == {
        "samples: copied untouched",
        "scheduler: copied untouched",
    }


def test_each_part_loads_by_itself(ldm: Path) -> None:
    source, models = converted(ldm)
    save_pipeline(source, models, ldm.parent / "out")
    part = prismify.load(ldm.parent / "out" / "unet")
    assert part.state_dict().keys() == models["unet"].state_dict().keys()


def test_a_part_that_is_not_converted_stays_a_diffusers_folder(ldm: Path) -> None:
    source, models = converted(ldm, "unet")
    save_pipeline(source, models, ldm.parent / "out")
    assert tree(ldm.parent / "out" / "vqvae") == tree(ldm / "vqvae")
    assert sample(prismify.load(ldm.parent / "out")).isfinite().all()


def test_converting_a_converted_pipeline_keeps_the_parts_it_leaves(ldm: Path) -> None:
    source, models = converted(ldm)
    save_pipeline(source, models, ldm.parent / "out")
    first = sample(prismify.load(ldm.parent / "out"))
    again, models = converted(ldm.parent / "out", "unet", policy=prismify.Policy("volumes", min_volume=4))
    save_pipeline(again, models, ldm.parent / "twice")
    manifest = json.loads((ldm.parent / "twice" / "prismify.json").read_text())
    assert manifest["parts"] == ["unet", "vqvae"]
    report = json.loads((ldm.parent / "twice" / "report.json").read_text())
    assert set(report["parts"]) == {"unet", "vqvae"}
    loaded = prismify.load(ldm.parent / "twice")
    assert loaded.vqvae.prismify_plan.replaced
    assert not torch.equal(sample(loaded), first)


@pytest.mark.parametrize("variant", [None, "fp16"])
def test_half_precision_samples_with_parts_that_were_not_converted(tmp_path: Path, variant: str | None) -> None:
    """diffusers reads parts as float32 unless told otherwise, and a half UNet cannot use those."""
    pipeline = diffusers.LDMPipeline(
        diffusers.VQModel(block_out_channels=(16,), norm_num_groups=4, sample_size=8),
        unet(),
        diffusers.DDIMScheduler(num_train_timesteps=4),
    ).to(torch.bfloat16)
    pipeline.save_pretrained(tmp_path / "half", variant=variant)
    source, models = converted(tmp_path / "half", "unet")
    save_pipeline(source, models, tmp_path / "out")
    loaded = prismify.load(tmp_path / "out")
    assert {p.dtype for part in (loaded.unet, loaded.vqvae) for p in part.parameters()} == {torch.bfloat16}
    loaded.unet(torch.randn(1, 3, 8, 8, dtype=torch.bfloat16), 1)
    loaded.vqvae(torch.randn(1, 3, 8, 8, dtype=torch.bfloat16))


def test_linked_files_are_copied_with_their_content(ldm: Path) -> None:
    """The hub's cache holds links to blobs elsewhere."""
    weights = ldm / "vqvae" / "diffusion_pytorch_model.safetensors"
    blob = weights.rename(ldm.parent / "blob")
    weights.symlink_to(blob)
    source, models = converted(ldm, "unet")
    save_pipeline(source, models, ldm.parent / "out")
    copied = ldm.parent / "out" / "vqvae" / weights.name
    assert not copied.is_symlink()
    assert copied.read_bytes() == blob.read_bytes()


def test_a_pipeline_is_not_copied_into_itself(ldm: Path) -> None:
    source, models = converted(ldm)
    before = tree(ldm)
    with pytest.raises(OutputError, match="inside the pipeline that is copied"):
        save_pipeline(source, models, ldm / "out")
    assert tree(ldm) == before


def edit_index(folder: Path, **changes: Any) -> None:
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps(index | changes))


@pytest.mark.parametrize("name", ["../evil", "/tmp/evil", "a/b", "..", ".", "", "a\\b"])
def test_a_part_outside_the_folder_is_refused(ldm: Path, name: str) -> None:
    edit_index(ldm, **{name: ["diffusers", "UNet2DModel"]})
    with pytest.raises(SourceError, match="names a part outside its folder"):
        open_source(str(ldm))


@pytest.mark.parametrize("name", ["../unet", "/etc", "", None, 3, ["unet"]])
def test_a_manifest_names_parts_of_its_own_folder_only(ldm: Path, name: Any) -> None:
    source, models = converted(ldm)
    save_pipeline(source, models, ldm.parent / "out")
    path = ldm.parent / "out" / "prismify.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"parts": [name]}))
    with pytest.raises(SourceError, match="names a part outside its folder"):
        prismify.load(ldm.parent / "out")


@pytest.mark.parametrize(
    "changes",
    [
        {"_class_name": ["evil", "Pipeline"]},
        {"_class_name": "EvilPipeline"},
        {"scheduler": ["evil", "Scheduler"]},
        {"scheduler": ["os", "system"]},
        {"extra": ["evil_module", "Thing"]},
    ],
    ids=str,
)
def test_an_index_that_names_code_asks_for_trust(
    ldm: Path, changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """diffusers imports whatever an index names."""
    source, models = converted(ldm)
    save_pipeline(source, models, ldm.parent / "out")
    marker = ldm.parent / "ran"
    code = f"open({str(marker)!r}, 'w').close()\nclass Pipeline: pass\nclass Scheduler: pass\nclass Thing: pass\n"
    for place in ("evil.py", "evil_module.py", "scheduler/evil.py", "scheduler/os.py"):
        (ldm.parent / "out" / place).write_text(code)
    monkeypatch.syspath_prepend(str(ldm.parent / "out"))
    edit_index(ldm.parent / "out", **changes)
    with pytest.raises(SourceError, match="runs Python code: load it with trust_code=True"):
        prismify.load(ldm.parent / "out")
    assert not marker.exists()


def test_a_pipeline_within_a_pipeline_takes_trust(ldm: Path) -> None:
    """Its own index may name any code."""
    source, models = converted(ldm, "unet")
    save_pipeline(source, models, ldm.parent / "out")
    index = {"_class_name": "LDMPipeline", "part": ["evil", "Thing"]}
    (ldm.parent / "out" / "vqvae" / "model_index.json").write_text(json.dumps(index))
    edit_index(ldm.parent / "out", vqvae=["diffusers", "DiffusionPipeline"])
    with pytest.raises(SourceError, match=r"names vqvae, a pipeline within it .*, which runs Python code"):
        prismify.load(ldm.parent / "out")


def test_a_pipeline_without_models_is_told(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "model_index.json").write_text('{"_class_name": "LDMPipeline"}')
    with pytest.raises(SourceError, match="none of the pipeline's components is a diffusers model"):
        open_source(str(tmp_path / "empty"))
    (tmp_path / "empty" / "model_index.json").write_text("{")
    with pytest.raises(SourceError, match=r"model_index\.json is damaged"):
        open_source(str(tmp_path / "empty"))


@pytest.mark.parametrize("damage", ["index", "scheduler", "part"])
def test_a_damaged_pipeline_is_told(ldm: Path, damage: str) -> None:
    source, models = converted(ldm)
    save_pipeline(source, models, ldm.parent / "out")
    out = ldm.parent / "out"
    broken: dict[str, Callable[[], Any]] = {
        "index": lambda: (out / "model_index.json").write_text("{"),
        "scheduler": lambda: (out / "scheduler" / "scheduler_config.json").unlink(),
        "part": lambda: (out / "unet" / "model.safetensors").write_bytes(b"123"),
    }
    broken[damage]()
    with pytest.raises(PrismifyError) as caught:
        prismify.load(out)
    assert "\n" not in str(caught.value)


def test_a_link_that_leads_up_is_not_followed_for_ever(ldm: Path) -> None:
    for name in ("samples/a", "samples/b", "up"):
        (ldm / name).symlink_to(ldm)
    source, models = converted(ldm, "unet")
    save_pipeline(source, models, ldm.parent / "out")
    assert {p.name for p in (ldm.parent / "out" / "samples").iterdir()} == {"one.bin"}
    manifest = json.loads((ldm.parent / "out" / "prismify.json").read_text())
    assert {"samples/one.bin", "unet/prismify.json"} <= set(manifest["files_within"])
    save_pipeline(source, models, ldm.parent / "out", force=True)
