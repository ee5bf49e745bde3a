"""A repository's name in the place of a folder: what is loaded, what is downloaded, and what is said when it is not."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from huggingface_hub import constants

import prismify
from prismify.checkpoint import open_source
from prismify.checkpoint.hub import fetching, hub_name, needed_files
from prismify.errors import SourceError
from tests.hub.conftest import content
from tests.hub.server import Hub


def test_a_converted_model_is_loaded_by_its_name(hub: Hub, converted: Path) -> None:
    hub.put("owner/name", content(converted))
    here, there = prismify.load(converted).state_dict(), prismify.load("owner/name").state_dict()
    assert here.keys() == there.keys()
    assert all(torch.equal(here[name], there[name]) for name in here)


def test_a_path_goes_first(hub: Hub, converted: Path, tmp_path: Path) -> None:
    (tmp_path / "owner").mkdir()
    (tmp_path / "owner" / "name").symlink_to(converted)
    assert prismify.load("owner/name").prismify_plan is not None
    assert hub.asked == []


def test_a_slip_in_a_path_is_no_question_to_a_hub(hub: Hub, converted: Path, tmp_path: Path) -> None:
    hub.put("runs/vae", content(converted))
    (tmp_path / "runs").mkdir()
    with pytest.raises(SourceError, match="runs/vae: no such file or folder"):
        open_source("runs/vae")
    assert hub.asked == []
    assert open_source("runs/vae@main").origin["kind"] == "prismify folder"


def test_a_revision_is_that_state(hub: Hub, converted: Path, plain: Path) -> None:
    repository = hub.put("owner/name", content(plain))
    first = repository.branches["main"]
    repository.commit(content(converted))
    repository.commit(content(converted), "other")
    assert prismify.load("owner/name", revision="other").prismify_plan is not None
    assert open_source("owner/name").origin["kind"] == "prismify folder"
    assert open_source(f"owner/name@{first}").origin["kind"] == "diffusers folder"


def test_a_diffusers_folder_is_a_source_and_only_what_it_needs_is_downloaded(hub: Hub, plain: Path) -> None:
    others = {
        "pickled.ckpt": b"x",
        "diffusion_pytorch_model.bin": b"x",
        "diffusion_pytorch_model.fp16.safetensors": b"x",
        "setup.py": b"raise SystemExit",
        ".cache/config.json": b"{}",
        "flax/diffusion_flax_model.msgpack": b"x",
        "pictures/grid.png": b"x",
    }
    hub.put("owner/plain", {**content(plain), **others, "README.md": b"# A model"})
    model = open_source("owner/plain").build()
    assert type(model).__name__ == "AutoencoderKL"
    assert hub.downloaded == {*content(plain), "README.md"}


def test_pickled_weights_are_taken_where_there_are_no_others() -> None:
    names = ["unet/config.json", "unet/diffusion_pytorch_model.bin", "vae/diffusion_pytorch_model.safetensors"]
    assert needed_files([*names, "vae/diffusion_pytorch_model.bin"], "x") == sorted(names)


def test_of_each_folder_one_precision_is_taken() -> None:
    unet = [
        "model.fp16-00001-of-00002.safetensors",
        "model.safetensors.index.fp16.json",
        "model.safetensors",
        "model.bin",
    ]
    names = [f"unet/{name}" for name in unet] + ["vae/model-00001-of-00002.bf16.safetensors", "pytorch_model.bin"]
    names += [
        "pytorch_model.fp16.safetensors",
        "diffusion_pytorch_model.fp16.bin",
        "vae/diffusion_pytorch_model.fp8.bin",
    ]
    assert needed_files(names, "x") == ["pytorch_model.bin", "unet/model.safetensors", names[4]]
    assert needed_files(names, "x", "fp16") == sorted([names[0], names[1], names[4], names[7]])
    with pytest.raises(SourceError, match="x has no weights of variant 'int4'; of variants it has bf16, fp16, fp8"):
        needed_files(names, "x", "int4")


@pytest.mark.parametrize("name", ["../evil.json", "a/../../config.json", "/etc/config.json", "a\\config.json", "a//b"])
def test_names_that_lead_out_are_refused(hub: Hub, converted: Path, tmp_path: Path, name: str) -> None:
    hub.put("owner/evil", {**content(converted), name: b"{}"})
    with pytest.raises(SourceError, match="leads out of its folder") as caught:
        prismify.load("owner/evil")
    assert "\n" not in str(caught.value)
    assert hub.downloaded == set()


WORDS = {
    "unknown": ("owner/nobody", "no such repository at 127.0.0.1"),
    "private": ("owner/secret", "or a private one that your token does not open"),
    "revision": ("owner/name@v9", "but no revision 'v9' of it"),
    "empty": ("owner/empty", "holds no config.json, model_index.json or prismify.json"),
}


@pytest.mark.parametrize("case", WORDS)
def test_what_is_not_given_is_one_line(hub: Hub, converted: Path, monkeypatch: pytest.MonkeyPatch, case: str) -> None:
    name, words = WORDS[case]
    hub.put("owner/name", content(converted))
    hub.put("owner/secret", content(converted), private=True)
    hub.put("owner/empty", {"notes.csv": b""})
    monkeypatch.setenv("HF_TOKEN", "hf_somebody_else")
    with pytest.raises(SourceError) as caught:
        prismify.load(name)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_private_repository_opens_with_its_token(hub: Hub, converted: Path) -> None:
    hub.put("owner/secret", content(converted), private=True)
    assert prismify.load("owner/secret").prismify_plan is not None


def test_a_hub_that_fails_is_one_line(hub: Hub, converted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.put("owner/name", content(converted))
    hub.broken = 418
    with pytest.raises(SourceError, match=r"owner/name: 127\.0\.0\.1:\d+ answered with the error 418"):
        prismify.load("owner/name")


def test_nobody_answers(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:1")
    with pytest.raises(
        SourceError, match=r"no such file or folder here, and 127\.0\.0\.1:1 cannot be reached"
    ) as caught:
        prismify.load("owner/name")
    assert "\n" not in str(caught.value)


def test_what_was_loaded_once_needs_no_network(hub: Hub, converted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.put("owner/name", content(converted))
    prismify.load("owner/name")
    asked = len(hub.asked)
    fetching._fetched.cache_clear()  # as in another process
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert prismify.load("owner/name").prismify_plan is not None
    with pytest.raises(SourceError, match="nor in the hub's cache, and HF_HUB_OFFLINE is set"):
        prismify.load("owner/other")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:1")
    fetching._fetched.cache_clear()
    assert prismify.load("owner/name").prismify_plan is not None
    assert len(hub.asked) == asked


def test_names() -> None:
    assert str(hub_name("owner/name@refs/pr/1")) == "owner/name@refs/pr/1"
    for text in ("name", "a/b/c", "./a/b", "../b", "a/b.safetensors", "diffusers:A/b", "~/b", "a/b@", "a/..", "a/b/"):
        assert hub_name(text) is None, text


def test_only_a_hub_has_revisions(converted: Path) -> None:
    with pytest.raises(SourceError, match="has no revisions"):
        prismify.load(converted, revision="main")
