"""Every command that ends well names the one that follows, on stderr; typed as it stands, that one runs."""

from __future__ import annotations

import os
import pty
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
import typer
from PIL import Image
from prismify.cli.main import app

from prismify.layers import own
from tests.cli.conftest import NET, ROOT, Ran

Run = Callable[..., Ran]
SHORT = [
    "--set", "train.steps=2", "--set", "train.batch_size=4", "--set", "train.device=cpu", "--set", "data.validation=4",
    "--set", "loss.adversarial=0",
]  # fmt: skip


def following(ran: Ran, **given: object) -> list[str]:
    """The words of the command that a finished one names, with what stands for a person's own replaced."""
    assert ran.code == 0, ran.err
    line = ran.err.strip().splitlines()[-1]
    assert line.startswith("next: prismify "), ran.err
    words = shlex.split(line.removeprefix("next: prismify "))
    for name, value in given.items():
        words = [str(value) if word == name else word.replace(f"={name}", f"={value}") for word in words]
    return words


def can_be_typed(words: list[str]) -> None:
    """See that there is such a command, with such options; numbers that a person puts in are any number."""
    group: Any = typer.main.get_command(app)
    command = group.commands[words[0]]
    rest = words[1:]
    if hasattr(command, "commands"):
        command, rest = command.commands[rest[0]], rest[1:]
    command.make_context(words[0], ["3" if word == "N" else word for word in rest])


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small autoencoder, a file with a factory, and pictures; its name is to be quoted."""
    folder = tmp_path_factory.mktemp("on the way")
    (folder / "net.py").write_text(NET)
    torch.manual_seed(0)
    vae = diffusers.AutoencoderKL(block_out_channels=(16,), norm_num_groups=4, sample_size=16, latent_channels=2)
    vae.save_pretrained(folder / "vae")
    whole = Image.open(ROOT / "examples" / "images" / "balloons.png").convert("RGB")
    (folder / "images").mkdir()
    for i in range(12):
        whole.crop((10 * i, 5 * i, 10 * i + 16, 5 * i + 16)).save(folder / "images" / f"{i}.png")
    return folder


def test_an_autoencoder_from_command_to_command(place: Path, run: Run) -> None:
    images = place / "images"
    words = following(run("scan", place / "vae", "--exclude", "decoder.*", "--all"), DIR=place / "small")
    assert words == ["convert", str(place / "vae"), "--exclude", "decoder.*", "-o", str(place / "small")]
    words = following(run(*words), IMAGES=images)
    assert words == ["train", str(place / "small" / "recipe.yaml"), "--set", f"data.path={images}"]
    words = following(run(*words, *SHORT), IMAGES=images)
    trained = place / "small" / "runs" / "autoencoder"
    assert words == ["evaluate", str(trained), "--data", str(images)]
    words = following(run(*words), OUT=place / "pairs")
    assert words == ["reconstruct", str(trained), str(images), "-o", str(place / "pairs")]
    assert following(run(*words))[:2] == ["evaluate", str(trained)]
    assert len(list((place / "pairs").glob("*.png"))) == 12
    assert following(run("report", place / "small"))[:2] == ["train", str(place / "small" / "recipe.yaml")]
    assert following(run("report", trained / "model"))[0] == "evaluate"
    measured = run("bench", place / "small", "--seconds", "0.01", "--json")
    assert following(measured)[:2] == ["train", str(place / "small" / "recipe.yaml")]
    assert measured.json["model"] == "AutoencoderKL"  # stdout is the document alone


def test_a_plan_is_what_the_next_conversion_is_given(place: Path, run: Run) -> None:
    plan, source = place / "plan.json", f"{place / 'net.py'}:make"
    words = following(run("scan", source, "--arg", "width=24", "--plan-out", plan, "--json"), DIR=place / "planned")
    assert words == ["convert", source, "--arg", "width=24", "--plan", str(plan), "-o", str(place / "planned")]
    assert following(run(*words)) == ["train", str(place / "planned" / "recipe.yaml"), "--trust-code",
                                      "--set", "data.path=IMAGES"]  # fmt: skip
    other = place / "other.json"
    ran = run("convert", source, "--policy", "volumes", "--plan-only", "-o", other)
    assert following(ran) == ["convert", source, "--plan", str(other), "-o", "DIR"]


def test_a_scan_that_finds_nothing_to_replace_names_what_may(place: Path, run: Run) -> None:
    (place / "widening.py").write_text(
        "from torch import nn\ndef make():\n    widths = (3, 16, 32, 16, 3)\n"
        "    return nn.Sequential(*(nn.Conv2d(a, b, 3) for a, b in zip(widths, widths[1:])))\n"
    )
    words = following(run("scan", f"{place / 'widening.py'}:make"))
    assert words == ["scan", f"{place / 'widening.py'}:make", "--policy", "volumes"]
    assert following(run(*words), DIR=place / "out")[0] == "convert"


OWN = """
import torch
from torch import nn
import prismify
from prismify.layers import Operator

@prismify.register_operator
class Scaled(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels, 1, 1))

    @classmethod
    def from_layer(cls, layer):
        return cls(layer.in_channels)

    def forward(self, x):
        return x * self.weight

def policy(layer):
    same = layer.role == "inner" and layer.kind == "conv2d" and layer.in_channels == layer.out_channels
    return Operator("Scaled") if same else None
"""


def test_an_operator_of_ones_own_is_registered_by_what_follows(
    place: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    monkeypatch.setattr(own, "_OWN", {})  # what is registered here is no other test's
    (place / "scaled.py").write_text(OWN)
    ran = run("convert", "net.py:make", "--policy", "scaled.py:policy", "-o", "scaled")
    words = following(ran, IMAGES="images")
    assert words == [
        "train",
        "scaled/recipe.yaml",
        "--trust-code",
        "--import",
        "scaled.py",
        "--set",
        "data.path=images",
    ]
    assert "prismify.load('scaled', trust_code=True), after import scaled" in ran.out
    allowed = ["--import", "scaled.py", "--trust-code"]
    assert following(run("bench", "scaled", "--seconds", "0.01", *allowed), IMAGES="images") == [
        "train", "scaled/recipe.yaml", "--trust-code", "--import", "scaled.py", "--set", "data.path=images",
    ]  # fmt: skip
    # A model without encode and decode is compared with nothing: its report follows.
    words = following(run(*words, *SHORT[:-2]))
    assert words[0] == "report"
    assert run(*words).code == 0


def test_what_a_strangers_recipe_asks_for_is_not_advised(place: Path, run: Run) -> None:
    source = f"{place / 'net.py'}:make"
    assert "--trust-code" in following(run("convert", source, "-o", place / "sent"))
    assert "--trust-code" not in following(run("report", place / "sent"))


@pytest.mark.parametrize(
    ("words", "after"),
    [
        (["doctor"], ["bench", "8,256,32,32"]),
        (["doctor", "--json"], ["bench", "8,256,32,32"]),
        (["bench", "1,8,6,6", "--seconds", "0.01"], ["bench", "SOURCE"]),
        (["recipes", "ls"], ["recipes", "cp", "NAME"]),
        (["recipes", "cp", "demo", "mine.yaml"], ["train", "mine.yaml", "--set", "data.path=IMAGES"]),
        (
            ["recipes", "validate", "demo", "--set", "data.path=a b"],
            ["train", "demo", "--set", "data.path=a b"],
        ),
        (["recipes", "validate", "cifar10-fast"], ["train", "cifar10-fast", "--set", "data.path=IMAGES"]),
        (["new", "--list"], ["new", "NAME", "-o", "DIR"]),
        (["report", "cifar10-ae-64"], ["evaluate", "cifar10-ae-64", "--data", "IMAGES"]),
        (["report", "mnist-ddpm-64", "--json"], ["sample", "mnist-ddpm-64", "-o", "samples"]),
        (["sample", "mnist-ddpm-64", "-n", "2", "--steps", "2", "-o", "out"], ["judge", "out", "--data", "IMAGES"]),
        (
            ["judge", "out", "--data", "images"],
            ["judge", "out", "--data", "images", "--features", "FILE"],
        ),
        (["judge", "out", "--data", "images/0.png"], ["judge", "out", "--data", "images/0.png", "-o", "DIR"]),
        (["judge", "out", "--data", "images/0.png", "-o", "judged"], ["sample", "DIR", "-o", "OTHER", "--steps", "N"]),
        (["bench", "net.py:make", "--seconds", "0.01", "--threads", "1"], ["convert", "net.py:make", "-o", "DIR"]),
        (["reproduce", "sinddm", "-o", "paper"], ["reproduce", "table3", "-o", "paper"]),
    ],
    ids=lambda words: " ".join(words),
)
def test_the_next_command_is_named(
    place: Path, run: Run, monkeypatch: pytest.MonkeyPatch, words: list[str], after: list[str]
) -> None:
    monkeypatch.chdir(place)
    if words[0] == "judge" and not (place / "out").exists():
        run("sample", "mnist-ddpm-64", "-n", "2", "--steps", "2", "-o", "out")
    ran = run(*words)
    assert following(ran) == after
    assert "next:" not in ran.out
    can_be_typed(after)


@pytest.mark.parametrize("words", [["doctor"], ["recipes", "ls"], ["new", "--list"], ["report", "cifar10-ae-64"]])
def test_a_terminal_is_shown_that_libraries_are_loading(words: list[str]) -> None:
    code = f"import prismify; prismify.__path__.append({str(ROOT)!r}); from prismify.cli.main import app; app({words})"
    ours, theirs = pty.openpty()
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm"}
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=theirs, env=environment) as running:
        os.close(theirs)
        shown = b""
        while chunk := _read(ours):
            shown += chunk
    os.close(ours)
    assert running.returncode == 0, shown
    assert b"loading libraries" in shown
    assert b"next: prismify " in shown


def _read(terminal: int) -> bytes:
    """What came out; nothing once its other end is closed."""
    try:
        return os.read(terminal, 1 << 16)
    except OSError:
        return b""


def test_a_scanned_pipeline_is_converted_next(run: Run, tmp_path: Path) -> None:
    unet = diffusers.UNet2DModel(
        sample_size=8, block_out_channels=(16, 16), layers_per_block=1, norm_num_groups=4,
        down_block_types=("DownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "UpBlock2D"),
    )  # fmt: skip
    diffusers.DDPMPipeline(unet, diffusers.DDPMScheduler()).save_pretrained(tmp_path / "pipeline")
    words = following(run("scan", tmp_path / "pipeline", "--policy", "volumes"))
    assert words == ["convert", str(tmp_path / "pipeline"), "--policy", "volumes", "-o", "DIR"]
    assert following(run("scan", tmp_path / "pipeline", "--min-width", "32"))[:1] == ["scan"]  # nothing to convert
