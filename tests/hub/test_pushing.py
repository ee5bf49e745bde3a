"""A model put on a hub: what goes there, what does not, and what is said when the hub refuses."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import diffusers
import pytest
import torch
import yaml
from huggingface_hub import constants
from prismify.cli.main import app
from typer.testing import CliRunner

import prismify
from prismify.checkpoint import open_source
from prismify.checkpoint.cards import is_as_written
from prismify.errors import OutputError, SourceError
from prismify.pretrained import __file__ as pretrained
from prismify.publishing import push_to_hub
from tests.hub.conftest import content, small_autoencoder
from tests.hub.server import Hub


@pytest.fixture
def folder(converted: Path, tmp_path: Path) -> Path:
    """The converted folder, to change."""
    return Path(shutil.copytree(converted, tmp_path / "mine"))


def files(hub: Hub, branch: str = "main") -> dict[str, bytes]:
    return hub.repositories["owner/name"].files(branch)


def test_a_folder_goes_and_comes_back(hub: Hub, folder: Path) -> None:
    (folder / "runs").mkdir()
    (folder / "runs" / "notes.txt").write_text("mine")
    (folder / ".env").write_text("secret")
    pushed = prismify.push_to_hub(folder, "owner/name", message="First")
    assert set(files(hub)) == {*content(folder), ".gitattributes"} - {"runs/notes.txt", ".env"}
    assert hub.repositories["owner/name"].messages[-1] == "First"
    assert pushed.url.startswith(hub.endpoint)
    here, there = prismify.load(folder).state_dict(), prismify.load("owner/name").state_dict()
    assert all(torch.equal(here[name], there[name]) for name in here)
    assert len([line for line in hub.asked if "/commit/" in line]) == 1


def test_what_is_to_be_private_goes_to_no_public_repository(hub: Hub, folder: Path) -> None:
    hub.put("owner/name", {})
    with pytest.raises(OutputError, match="is there already, and public: nothing was pushed"):
        push_to_hub(folder, "owner/name", private=True)
    assert files(hub) == {}


def test_a_model_goes_as_well(hub: Hub) -> None:
    prismify.push_to_hub(prismify.convert(small_autoencoder()), "owner/name", private=True)
    assert hub.repositories["owner/name"].private
    assert prismify.load("owner/name").prismify_plan is not None


def test_diffusers_models_and_pipelines_go_alike(hub: Hub, plain: Path) -> None:
    prismify.push_to_hub(small_autoencoder(), "owner/plain")
    assert open_source("owner/plain").build().config.sample_size == 16
    unet = diffusers.UNet2DModel(
        sample_size=8,
        block_out_channels=(8, 8),
        norm_num_groups=4,
        layers_per_block=1,
        down_block_types=("DownBlock2D",) * 2,
        up_block_types=("UpBlock2D",) * 2,
    )
    prismify.push_to_hub(diffusers.DDPMPipeline(unet, diffusers.DDPMScheduler()), "owner/pipe")
    assert set(open_source("owner/pipe").parts) == {"unet"}


def test_a_branch_is_made_and_main_stays(hub: Hub, folder: Path) -> None:
    pushed = push_to_hub(folder, "owner/name", branch="small")
    assert set(files(hub)) == {".gitattributes"}
    assert pushed.name == "owner/name@small"
    assert prismify.load(pushed.name).prismify_plan is not None


def test_what_another_model_left_is_removed_and_the_rest_stays(hub: Hub, folder: Path) -> None:
    left = {"buffers.safetensors": b"x", "skeleton.pt": b"x", "model_index.json": b"{}", "grid.png": b"x"}
    hub.put("owner/name", left)
    push_to_hub(folder, "owner/name")
    assert {*left} & {*files(hub)} == {"grid.png"}


def test_what_lies_elsewhere_and_goes_along_is_told(hub: Hub, plain: Path, folder: Path, tmp_path: Path) -> None:
    assert prismify.push_to_hub(folder, "owner/alone").elsewhere == ()
    denoiser = Path(shutil.copytree(Path(pretrained).parent / "mnist-ddpm-64", tmp_path / "denoiser"))
    record = json.loads((denoiser / "denoising.json").read_text())
    record["latents"] = {"autoencoder": {"source": str(plain)}}
    (denoiser / "denoising.json").write_text(json.dumps(record))
    pushed = prismify.push_to_hub(denoiser, "owner/digits")
    assert pushed.elsewhere == (str(plain),)
    assert "autoencoder/config.json" in pushed.files
    ran = CliRunner().invoke(app, ["push", str(denoiser), "owner/digits"])
    assert ran.stdout.splitlines()[-1] == f"The model needs what lies outside its folder; pushed with it: {plain}"


def test_nothing_tells_of_this_machine(hub: Hub, plain: Path, tmp_path: Path) -> None:
    source = open_source(str(plain))
    model = prismify.convert(source.build())
    recipe = f"recipe: autoencoder\ndata:\n  path: {tmp_path}/secret place/images\n"
    prismify.save(model, tmp_path / "out", source=source, recipe=recipe)
    (tmp_path / "out" / "evaluation.json").write_text(json.dumps(evaluation(tmp_path)))
    assert str(tmp_path).encode() in b"".join(content(tmp_path / "out").values())
    push_to_hub(tmp_path / "out", "owner/name")
    for name, data in files(hub).items():
        for place in (tmp_path, plain.parent):
            assert str(place).encode() not in data, name
    assert yaml.safe_load(files(hub)["recipe.yaml"])["data"]["path"] == "images"
    assert prismify.load("owner/name").prismify_plan is not None


def evaluation(place: Path) -> dict[str, object]:
    return {
        "data": {"path": f"{place}/kodak", "select": None, "images": 24, "size": 64, "seed": 0},
        "models": {f"{place}/out": {"PSNR": {"mean": 28.71, "deviation": 1.2, "over": "images"}}},
    }


def test_the_card_has_the_name_and_what_was_measured(hub: Hub, folder: Path, tmp_path: Path) -> None:
    (folder / "evaluation.json").write_text(json.dumps(evaluation(tmp_path)))
    push_to_hub(folder, "owner/name")
    card = files(hub)["README.md"].decode()
    assert 'prismify.load("owner/name")\n' in card
    assert "| PSNR | 28.71 ± 1.2 |" in card
    assert "On 24 images of kodak, cut to 64×64." in card
    assert is_as_written(card)


def test_a_persons_card_stays(hub: Hub, folder: Path) -> None:
    hub.put("owner/name", {"README.md": b"# By hand"})
    assert push_to_hub(folder, "owner/name").kept_card
    assert files(hub)["README.md"] == b"# By hand"
    assert not push_to_hub(folder, "owner/name", replace_card=True).kept_card
    assert is_as_written(files(hub)["README.md"].decode())
    assert not push_to_hub(folder, "owner/name").kept_card
    (folder / "README.md").write_text((folder / "README.md").read_text() + "\nMy own words.\n")
    push_to_hub(folder, "owner/name")
    assert files(hub)["README.md"].endswith(b"My own words.\n")


def test_refusals_are_one_line(hub: Hub, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def said(kind: type[Exception], what: object, name: str = "owner/name") -> str:
        with pytest.raises(kind) as caught:
            push_to_hub(what, name)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert "is no name of a repository" in said(OutputError, folder, "name")
    assert "no such folder" in said(SourceError, tmp_path / "nowhere")
    assert "holds no model" in said(SourceError, tmp_path)
    assert "was not converted" in said(SourceError, torch.nn.Linear(2, 2))
    assert hub.asked == []
    monkeypatch.setenv("HF_TOKEN", "hf_somebody_else")
    assert "asks for a token that may do this" in said(OutputError, folder)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:1")
    refused = said(OutputError, folder)
    assert "127.0.0.1:1 cannot be reached (" in refused
    assert "no such file" not in refused
    assert hub.repositories == {}


def test_a_manifest_that_lists_what_lies_elsewhere_is_refused(hub: Hub, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("x")
    manifest = json.loads((folder / "prismify.json").read_text())
    manifest["files"].append("../secret")
    (folder / "prismify.json").write_text(json.dumps(manifest))
    with pytest.raises(SourceError, match="is no file in this folder"):
        push_to_hub(folder, "owner/name")
    assert hub.asked == []
