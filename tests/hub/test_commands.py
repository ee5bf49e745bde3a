"""The command line with a repository's name in the place of a folder, and a stranger's repository."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from prismify.cli.main import app
from typer.testing import CliRunner

import prismify
from prismify.errors import SourceError
from prismify.pretrained import __file__ as pretrained
from prismify.training.recipe import read_recipe
from tests.cli.conftest import Ran
from tests.hub.conftest import content
from tests.hub.server import TOKEN, Hub, serving

ROOT = Path(__file__).parents[2]


def run(*words: object) -> Ran:
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return Ran(result.exit_code, result.stdout, result.stderr)


def test_commands_take_names(hub: Hub, converted: Path, tmp_path: Path) -> None:
    hub.put("owner/name", content(converted))
    shown = run("report", "owner/name")
    assert shown.code == 0, shown.err
    assert "DeepPrism" in shown.out
    assert shown.err.splitlines()[-1] == "next: prismify bench owner/name"
    assert run("scan", "owner/name", "--json").json["parameters"]["before"] > 0
    (tmp_path / "images").mkdir()
    Image.new("RGB", (16, 16), "red").save(tmp_path / "images" / "a.png")
    measured = run("evaluate", "owner/name", converted, "--data", tmp_path / "images", "--json")
    assert measured.code == 0, measured.err
    there, here = measured.json["models"].values()
    assert there == here
    exported = run("export", "owner/name", "-o", tmp_path / "a.pt2", "--method", "encode", "--seconds", 0)
    assert exported.code == 0, exported.err


def test_a_variant_is_downloaded_where_it_is_asked_for(hub: Hub, plain: Path, tmp_path: Path) -> None:
    files = content(plain)
    weights = files.pop("diffusion_pytorch_model.safetensors")
    hub.put(
        "owner/both",
        {**files, "diffusion_pytorch_model.safetensors": b"x", "diffusion_pytorch_model.fp16.safetensors": weights},
    )
    hub.put("owner/half", {**files, "diffusion_pytorch_model.fp16.safetensors": weights})
    wanted = {*files, "diffusion_pytorch_model.fp16.safetensors"}
    for name, words in (
        ("owner/both", ["--variant", "fp16"]),
        ("owner/half", []),
        ("owner/half", ["--variant", "fp16"]),
    ):
        hub.downloaded.clear()
        output = tmp_path / f"{name[6:]}{len(words)}"
        ran = run("convert", name, "-o", output, *words)
        assert ran.code == 0, ran.err
        assert hub.downloaded in (wanted, set())  # the last one is in the cache
    refused = run("convert", "owner/half", "-o", tmp_path / "out", "--variant", "bf16")
    assert refused.code == 1
    assert refused.err.splitlines()[-1] == (
        "prismify: owner/half has no weights of variant 'bf16'; of variants it has fp16"
    )


def test_a_denoiser_is_sampled_by_its_name(hub: Hub, tmp_path: Path) -> None:
    hub.put("owner/digits", content(Path(pretrained).parent / "mnist-ddpm-64"))
    ran = run("sample", "owner/digits", "-o", tmp_path / "out", "-n", 1, "--steps", 1)
    assert ran.code == 0, ran.err
    assert (tmp_path / "out" / "0000.png").is_file()


def test_push(hub: Hub, converted: Path) -> None:
    ran = run("push", converted, "owner/name", "--private", "--branch", "small", "--message", "Hello")
    assert ran.code == 0, ran.err
    assert ran.err.splitlines()[-1] == "next: prismify report owner/name@small"
    assert hub.repositories["owner/name"].messages[-1] == "Hello"
    assert run("report", "owner/name@small").code == 0
    wrong = run("push", converted, "name")
    assert (wrong.code, len(wrong.err.strip().splitlines())) == (2, 1)
    assert "no such folder" in run("push", "nowhere", "owner/name").line


def test_a_name_that_is_nowhere_is_one_line(hub: Hub) -> None:
    for command in (["report"], ["scan"], ["bench"], ["sample", "-o", "out"], ["export", "-o", "a.onnx"]):
        ran = run(command[0], "owner/nobody", *command[1:])
        assert (ran.code, "no such repository" in ran.line) == (1, True), command


def test_offline_and_never_loaded_is_one_line_in_a_process_of_its_own(tmp_path: Path, converted: Path) -> None:
    start = f"import prismify; prismify.__path__.append({str(ROOT)!r})\nfrom prismify.cli.main import app; app()"
    with serving() as hub:
        hub.put("owner/name", content(converted), private=True)
        there = {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(tmp_path / "home"), "HF_TOKEN": TOKEN}
        environment = {**os.environ, **there, "HF_HUB_OFFLINE": "0", "PYTHONPATH": str(ROOT)}

        def report(name: str, **changes: str) -> Any:
            return subprocess.run(
                [sys.executable, "-c", start, "report", name],
                env={**environment, **changes}, cwd=tmp_path, capture_output=True, text=True, check=False,
            )  # fmt: skip

        first = report("owner/name")
        assert first.returncode == 0, first.stderr
        asked = len(hub.asked)
    cached = report("owner/name", HF_HUB_OFFLINE="1")
    assert (cached.returncode, cached.stdout) == (0, first.stdout)
    never = report("owner/other", HF_HUB_OFFLINE="1")
    assert never.returncode == 1
    assert never.stderr.startswith("prismify: owner/other: no such file or folder here, nor in the hub's cache")
    assert len(never.stderr.splitlines()) == 1
    assert len(hub.asked) == asked


class Evil:
    """What leaves a file where it is unpickled."""

    def __reduce__(self) -> Any:
        return (os.system, ("touch ran",))


@pytest.fixture
def evil(hub: Hub, converted: Path) -> dict[str, Any]:
    """A repository whose manifest names Python of its own."""
    manifest = json.loads((converted / "prismify.json").read_text())
    manifest["model"] = {"kind": "reference", "reference": "net.py:make", "arguments": {}, "trust_code": True}
    files = {**content(converted), "net.py": b"open('ran', 'w')"}
    hub.put("owner/evil", {**files, "prismify.json": json.dumps(manifest).encode()})
    return manifest


def test_code_of_a_repository_is_neither_downloaded_nor_run(hub: Hub, evil: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="trust"):
        prismify.load("owner/evil")
    for words in (["scan"], ["convert", "-o", "out"], ["bench"], ["export", "-o", "a.pt2"]):
        ran = run(words[0], "owner/evil", *words[1:])
        assert ran.code == 1
        assert "--trust-code" in ran.line
    assert run("report", "owner/evil").code == 0
    assert "net.py" not in hub.downloaded
    with pytest.raises(SourceError):  # whoever trusts it clones it first
        prismify.load("owner/evil", trust_code=True)
    assert not list(tmp_path.rglob("ran"))


def test_pickles_of_a_repository_run_nothing(hub: Hub, converted: Path, plain: Path, tmp_path: Path) -> None:
    manifest = json.loads((converted / "prismify.json").read_text())
    manifest["model"] = {"kind": "skeleton"}
    hub.put(
        "owner/skeleton",
        {**content(converted), "prismify.json": json.dumps(manifest).encode(), "skeleton.pt": pickle.dumps(Evil())},
    )
    with pytest.raises(SourceError):
        prismify.load("owner/skeleton")
    weights = {"diffusion_pytorch_model.bin": pickle.dumps(Evil())}
    hub.put("owner/bin", {"config.json": (plain / "config.json").read_bytes(), **weights})
    assert run("scan", "owner/bin").code == 1
    assert "diffusion_pytorch_model.bin" in hub.downloaded
    assert not list(tmp_path.rglob("ran"))


def test_no_file_makes_prismify_ask_a_hub(hub: Hub, converted: Path, tmp_path: Path) -> None:
    hub.put("owner/name", content(converted))
    train = "train: {steps: 6, batch_size: 8, learning_rate: 0.1}\n"
    recipe = f"recipe: autoencoder\nmodel: owner/name\ndata: {{path: images}}\n{train}output: out\n"
    (tmp_path / "recipe.yaml").write_text(recipe)
    assert read_recipe(tmp_path / "recipe.yaml").model.source == str(tmp_path / "owner" / "name")
    assert hub.asked == []
    named = read_recipe(tmp_path / "recipe.yaml", ["model=owner/name"]).model.source
    assert (Path(named) / "prismify.json").is_file()
