"""A stranger's files, through every command and without a flag of trust: nothing runs, is lost or written elsewhere."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import struct
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image
from torch import nn

import prismify

Run = Callable[..., Any]
EVIL = """
from pathlib import Path
from torch import nn

Path({canary!r}).write_text("imported")

def make(**arguments):
    return nn.Sequential(nn.Conv2d(3, 16, 3), nn.Conv2d(16, 16, 3), nn.Conv2d(16, 3, 3))
"""


class _Shell:
    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> Any:
        return os.system, (self.command,)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of the person's, with a file of theirs, pictures, and what a stranger sent in `sent`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    (tmp_path / "mine.txt").write_text("mine")
    (tmp_path / ".hidden.draft").write_text("mine")
    (tmp_path / "pictures").mkdir()
    for i in range(4):
        Image.new("RGB", (16, 16), (40 * i, 90, 10)).save(tmp_path / "pictures" / f"{i}.png")
    (tmp_path / "sent").mkdir()
    (tmp_path / "sent" / "evil.py").write_text(EVIL.format(canary=str(tmp_path / "canary")))
    return tmp_path


def _net() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 16, 3), nn.Conv2d(16, 16, 3), nn.Conv2d(16, 3, 3))


def _converted(here: Path, **changes: Any) -> Path:
    """A converted folder whose manifest says what a stranger likes."""
    folder = here / "sent" / "folder"
    prismify.save(prismify.convert(_net()), folder)
    manifest = json.loads((folder / "prismify.json").read_text())
    (folder / "prismify.json").write_text(json.dumps({**manifest, **changes}))
    (folder / "evil.py").write_text((here / "sent" / "evil.py").read_text())
    return folder


def _shell(here: Path) -> str:
    return f"touch {here / 'canary'}"


def folder_built_by_its_file(here: Path) -> Path:
    return _converted(here, model={"kind": "reference", "reference": "evil.py:make", "arguments": {}})


def folder_built_by_the_shell(here: Path) -> Path:
    arguments = {"command": _shell(here)}
    origin = {"kind": "reference", "reference": "os:system", "arguments": arguments}
    return _converted(
        here, source=origin, model={"kind": "reference", "reference": "os:system", "arguments": arguments}
    )


def folder_from_the_shell(here: Path) -> Path:
    arguments = {"command": _shell(here)}
    return _converted(here, source={"kind": "reference", "reference": "os:system", "arguments": arguments})


def folder_from_a_file(here: Path) -> Path:
    torch.save(_net().state_dict(), here / "sent" / "w.pt")
    origin = {"kind": "weights", "path": str(here / "sent" / "w.pt"), "reference": f"{here / 'sent'}/evil.py:make"}
    return _converted(here, source=origin)


def folder_with_a_skeleton(here: Path) -> Path:
    folder = _converted(here)
    torch.save(_Shell(_shell(here)), folder / "skeleton.pt")
    return folder


def pickle(here: Path) -> Path:
    torch.save({"state_dict": {"weight": torch.ones(2)}, "config": _Shell(_shell(here))}, here / "sent" / "evil.pt")
    return here / "sent" / "evil.pt"


def program(here: Path) -> Path:
    path = here / "sent" / "evil.pt2"
    torch.export.save(torch.export.export(_net(), (torch.randn(1, 3, 16, 16),)), path)
    content = path.read_bytes()
    path.write_bytes(content.replace(b"torch.ops.aten", b"os.system.aten"))
    return path


def pipeline(here: Path) -> Path:
    folder = here / "sent" / "pipeline"
    folder.mkdir()
    index = {
        "_class_name": "Mine",
        "_diffusers_version": "0",
        "unet": ["evil", "make"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    (folder / "model_index.json").write_text(json.dumps(index))
    (folder / "evil.py").write_text((here / "sent" / "evil.py").read_text())
    (folder / "vae").mkdir()
    (folder / "vae" / "config.json").write_text(json.dumps({"_class_name": "os.system"}))
    return folder


def _recipe(here: Path, **changes: Any) -> Path:
    content = {
        "recipe": "autoencoder",
        "model": {"source": str(here / "sent" / "evil.py") + ":make"},
        "data": {"path": str(here / "pictures"), "size": 16, "validation": 0},
        "train": {"batch_size": 2, "learning_rate": 1e-3, "steps": 1, "device": "cpu"},
        "loss": {"perceptual": 0.0, "adversarial": 0.0},
        "output": str(here / "out"),
        **changes,
    }
    path = here / "sent" / "recipe.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def recipe_that_trusts_itself(here: Path) -> Path:
    model = {"source": str(folder_built_by_its_file(here)), "trust_code": True, "allow": ["posix.system"]}
    return _recipe(here, model=model)


def recipe_of_a_file(here: Path) -> Path:
    return _recipe(here)


def recipe_of_the_shell(here: Path) -> Path:
    return _recipe(here, model={"source": "os:system", "arguments": {"command": _shell(here)}})


def recipe_with_a_teacher(here: Path) -> Path:
    teacher = {"source": "subprocess:getoutput", "arguments": {"cmd": _shell(here)}}
    loss = {"output": 1.0}
    return _recipe(here, recipe="distillation", model={"source": str(_converted(here))}, teacher=teacher, loss=loss)


def recipe_over_what_is_mine(here: Path) -> Path:
    return _recipe(here, model={"source": "diffusers:AutoencoderKL"}, output=str(here))


def recipe_with_tags(here: Path) -> Path:
    path = _recipe(here)
    path.write_text(path.read_text() + f"\nlog: !!python/object/apply:os.system ['{_shell(here)}']\n")
    return path


def run_of_a_stranger(here: Path) -> Path:
    """A run's folder, with a recipe, a state and a record that are not what they seem."""
    recipe = yaml.safe_load(_recipe(here).read_text())
    folder = here / "sent" / "run"
    (folder / "state" / "step-00000001").mkdir(parents=True)
    torch.save({"step": 1, "parts": _Shell(_shell(here))}, folder / "state" / "step-00000001" / "state.pt")
    (folder / "recipe.yaml").write_text(yaml.safe_dump({**recipe, "output": str(here / "out")}))
    facts = dict.fromkeys(("command", "seed", "versions", "learning_rate"), 0)
    (folder / "run.json").write_text(json.dumps(facts))
    (folder / ".prismify-run").write_text("../../mine.txt\n../../pictures/0.png\nup/mine.txt\nbest\n")
    (folder / "up").symlink_to(here)
    (folder / "best").symlink_to(here / "pictures")
    return folder


def recipe_into_a_run_of_a_stranger(here: Path) -> Path:
    model = {"source": "diffusers:AutoencoderKL"}
    return _recipe(here, model=model, output=str(run_of_a_stranger(here)))


def run_whose_lock_is_a_link(here: Path) -> Path:
    (here / "sent" / "run").mkdir()
    for name in (".lock", ".prismify-run"):
        (here / "sent" / "run" / name).symlink_to(here / "mine.txt")
    return _recipe(here, model={"source": "diffusers:AutoencoderKL"}, output=str(here / "sent" / "run"))


def index_that_leads_out(here: Path) -> Path:
    torch.save(_Shell(_shell(here)), here / "sent" / "w.bin")
    folder = here / "sent" / "vae"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"_class_name": "AutoencoderKL"}))
    index = {"weight_map": {"a": "../w.bin", "b": str(here / "sent" / "w.bin")}}
    (folder / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def deep_json(here: Path) -> Path:
    return _converted(here, source=json.loads('{"a":' * 500 + "1" + "}" * 500))


def weights_of_a_huge_header(here: Path) -> Path:
    path = here / "sent" / "w.safetensors"
    path.write_bytes(struct.pack("<Q", 1 << 62) + b"{}")
    return path


def plan(here: Path) -> Path:
    path = here / "sent" / "plan.json"
    content = prismify.scan(_net()).to_dict()
    path.write_text(json.dumps({**content, "model": "os:system", "notes": [f"$({_shell(here)})"]}))
    return path


def images(here: Path) -> Path:
    path = here / "sent" / "images.tar"
    file = io.BytesIO()
    Image.new("RGB", (16, 16)).save(file, "PNG")
    with tarfile.open(path, "w") as archive:
        for name in ("../../mine.png", str(here / "mine2.png"), "a/b.png"):
            entry = tarfile.TarInfo(name)
            entry.size = len(file.getvalue())
            archive.addfile(entry, io.BytesIO(file.getvalue()))
    return path


def _text_encoder(here: Path) -> Path:
    """The folder of a pipeline whose text encoder and tokenizer name code that lies beside them."""
    folder = here / "sent" / "texts"
    for part in ("tokenizer", "text_encoder"):
        (folder / part).mkdir(parents=True)
        (folder / part / "evil.py").write_text((here / "sent" / "evil.py").read_text())
        named = {"AutoConfig": "evil.make", "AutoModel": "evil.make", "AutoTokenizer": ["evil.make", "evil.make"]}
        config = {"architectures": ["CLIPTextModel"], "model_type": "evil", "auto_map": named}
        for name in ("config.json", "tokenizer_config.json"):
            (folder / part / name).write_text(json.dumps(config))
    torch.save(_Shell(_shell(here)), folder / "text_encoder" / "pytorch_model.bin")
    return folder


def denoiser(here: Path) -> Path:
    """A trained denoiser's folder whose record names an autoencoder that is a command, and texts that are code."""
    folder = _converted(here)
    source = {"source": "os:system", "arguments": {"command": _shell(here)}}
    space = {"autoencoder": source, "hash": "0" * 16, "mean": [0.0], "deviation": [1.0]}
    record = {"format_version": 1, "noise": {}, "shape": [1, 8, 8], "texts": str(_text_encoder(here)), "latents": space}
    (folder / "denoising.json").write_text(json.dumps(record))
    return folder


def denoiser_of_texts(here: Path) -> Path:
    folder = _converted(here)
    record = {"format_version": 1, "noise": {}, "shape": [3, 8, 8], "texts": str(_text_encoder(here))}
    (folder / "denoising.json").write_text(json.dumps(record))
    return folder


def _diffusion(here: Path, **changes: Any) -> Path:
    arguments = {"block_out_channels": [8], "down_block_types": ["DownBlock2D"], "up_block_types": ["UpBlock2D"],
                 "norm_num_groups": 4, "sample_size": 16}  # fmt: skip
    model = {"source": "diffusers:UNet2DModel", "arguments": arguments}
    return _recipe(here, **{"recipe": "diffusion", "model": model, "loss": {}, **changes})


def recipe_in_the_latents_of_a_command(here: Path) -> Path:
    return _diffusion(here, autoencoder={"source": "os:system", "arguments": {"command": _shell(here)}})


def recipe_of_a_text_encoder(here: Path) -> Path:
    (here / "sent" / "told").mkdir()
    shutil.copy(here / "pictures" / "0.png", here / "sent" / "told" / "0.png")
    (here / "sent" / "told" / "0.txt").write_text("a")
    data = {"path": str(here / "sent" / "told"), "size": 16, "validation": 0}
    return _diffusion(here, condition={"kind": "text", "encoder": str(_text_encoder(here))}, data=data)


KINDS = (
    folder_built_by_its_file, folder_built_by_the_shell, folder_from_the_shell, folder_from_a_file,
    folder_with_a_skeleton, pickle, program, pipeline, recipe_that_trusts_itself, recipe_of_a_file, recipe_of_the_shell,
    recipe_with_a_teacher, recipe_over_what_is_mine, recipe_with_tags, run_of_a_stranger,
    recipe_into_a_run_of_a_stranger, run_whose_lock_is_a_link, index_that_leads_out, deep_json,
    weights_of_a_huge_header, plan, images, denoiser, denoiser_of_texts, recipe_in_the_latents_of_a_command,
    recipe_of_a_text_encoder,
)  # fmt: skip
COMMANDS: dict[str, list[str]] = {
    "scan": ["scan", "FILE"],
    "scan as weights": ["scan", "FILE", "--model", "timm:test_resnet"],
    "scan inputs": ["scan", "timm:test_resnet", "--input", "FILE"],
    "convert": ["convert", "FILE", "-o", "out"],
    "convert by a plan": ["convert", "timm:test_resnet", "--plan", "FILE", "-o", "out"],
    "report": ["report", "FILE"],
    "bench": ["bench", "FILE", "--seconds", "0.01"],
    "train": ["train", "FILE"],
    "train again": ["train", "FILE", "--restart"],
    "distil": [
        "train", "distil", "--set", "model=FILE", "--set", "data.path=pictures", "--set", "output=out",
        "--set", "train.steps=1", "--set", "train.device=cpu",
    ],
    "recipes validate": ["recipes", "validate", "FILE"],
    "recipes cp": ["recipes", "cp", "FILE", "out"],
    "evaluate": ["evaluate", "FILE", "--data", "pictures", "-o", "out"],
    "evaluate data": ["evaluate", "cifar10-ae-64", "--data", "FILE", "--size", "16", "-o", "out"],
    "evaluate weights": ["evaluate", "cifar10-ae-64", "--data", "pictures", "--lpips", "FILE"],
    "reconstruct": ["reconstruct", "FILE", "pictures", "-o", "out"],
    "reconstruct data": ["reconstruct", "cifar10-ae-64", "FILE", "-o", "out"],
    "sample": ["sample", "FILE", "-n", "1", "--steps", "1", "-o", "out"],
    "judge": ["judge", "FILE", "--data", "pictures", "--count", "4", "-o", "out"],
    "judge data": ["judge", "pictures", "--data", "FILE", "-o", "out"],
}  # fmt: skip


def tree(folder: Path) -> dict[str, str]:
    """Every path outside the named output, with what it holds."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if name != "out" and not name.startswith("out/"):
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "folder"
    return found


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_nothing_runs_is_lost_or_is_written_elsewhere(kind: Callable[[Path], Path], here: Path, run: Run) -> None:
    file = kind(here)
    before = tree(here)
    for name, words in COMMANDS.items():
        ran = run(*(word.replace("FILE", str(file)) for word in words))
        assert "(unexpected;" not in ran.err, f"{name}: {ran.err}"
        assert not (here / "canary").exists(), f"{name} ran what {kind.__name__} holds"
        assert tree(here) == before, name
        shutil.rmtree(here / "out", ignore_errors=True)  # so that no command is refused for what another wrote


def test_the_canary_sings(here: Path, run: Run) -> None:
    """The same files do run what they hold where the person says so."""
    recipe = recipe_of_a_file(here)
    assert "--trust-code" in run("train", recipe).line
    assert not (here / "canary").exists()
    run("train", recipe, "--trust-code")
    assert (here / "canary").exists()


def test_naming_a_file_at_the_command_line_is_trust_in_it(here: Path, run: Run) -> None:
    run("train", _recipe(here, model={"source": "diffusers:AutoencoderKL"}), "--set", "model=sent/evil.py:make")
    assert (here / "canary").exists()


def test_code_in_a_folder_of_pythonpath_is_ones_own(here: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(here / "sent"))
    run("train", recipe_of_a_file(here))
    assert (here / "canary").exists()


def test_pythons_own_library_makes_no_model_whoever_names_it(here: Path, run: Run) -> None:
    command = ["--arg", f"command={_shell(here)}"]
    assert "os is a module of Python's own" in run("scan", "os:system", *command).line
    (here / "mine.py").write_text("import os\n")
    assert "has no factory 'os.system'" in run("scan", "mine.py:os.system", *command).line
    assert not (here / "canary").exists()
