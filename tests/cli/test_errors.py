"""Wrong input: one clear line that says what to do, exit code 1 (2 for usage), and nothing on disk."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

Run = Callable[..., Any]
RESNET = ["--model", "torchvision:resnet18", "--arg", "num_classes=3"]


def below(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


@pytest.fixture
def here(tmp_path: Path, net: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a broken file of every sort, and `net.py`."""
    monkeypatch.chdir(tmp_path)
    linear = nn.Linear(2, 3)
    torch.save(linear.state_dict(), "linear.pt")
    torch.save(linear, "linear_module.pt")
    save_file(linear.state_dict(), "linear.safetensors")
    for name in ("linear.pt", "linear.safetensors"):
        content = Path(name).read_bytes()
        Path(f"cut_{name}").write_bytes(content[: len(content) // 2])
    Path("text.txt").write_text("hello")
    Path("photos").mkdir()
    Path("photos/me.png").touch()
    Path("a_file").touch()
    Path("not_a_plan.json").write_text("{")
    Path("list_of_numbers.pt").write_bytes(b"")
    torch.save(3, "number.pt")
    Path("no_match.py").write_text(
        "from torch import nn\ndef one():\n    return nn.Conv2d(3, 16, 3)\ndef none():\n    return nn.ReLU()\n"
        "def fails():\n    raise RuntimeError('first\\nsecond')\ndef text():\n    return 'model'\n"
        "def depthwise():\n    return nn.Sequential(nn.Conv2d(3, 16, 3), nn.Conv2d(16, 16, 3, groups=16), "
        "nn.Conv2d(16, 3, 3))\n"
    )
    return tmp_path


WRONG: dict[str, tuple[list[str], str]] = {
    "missing file": (["missing.pt"], "missing.pt: no such file"),
    "missing folder": (
        ["missing"],
        "missing: no such file or folder, no trained model that comes along (cifar10-ae-64, mnist-ddpm-64)",
    ),
    "missing index": (["weights.safetensors"], "weights.safetensors: no such file"),
    "truncated safetensors": (
        ["cut_linear.safetensors", *RESNET],
        "cut_linear.safetensors is truncated or not a safetensors file",
    ),
    "truncated pickle": (["cut_linear.pt", *RESNET], "cut_linear.pt is damaged or not a torch checkpoint"),
    "empty pickle": (["list_of_numbers.pt", *RESNET], "list_of_numbers.pt is damaged"),
    "misfit": (
        ["linear.pt", *RESNET],
        "linear.pt does not fit the model: it holds weight (1 tensor), bias (1 tensor), and none of the model's names, "
        "such as conv1.weight (64, 3, 7, 7)",
    ),
    "bare state dict": (["linear.pt"], "linear.pt holds weights without an architecture: name it with --model"),
    "number": (["number.pt", *RESNET], "number.pt holds a int, neither a state dict nor a module"),
    "no weights": (["text.txt"], "text.txt: weights end in .safetensors"),
    "python file": (["net.py"], "net.py is Python code: name the factory in it, as net.py:factory"),
    "no factory": (["net.py:made"], "net.py has no factory 'made'; it has make"),
    "no model folder": (["photos"], "photos holds no config.json, model_index.json or prismify.json"),
    "no such class": (["diffusers:UNet3"], "diffusers has no model 'UNet3'"),
    "no such model": (["timm:resnet17"], "timm has no model 'resnet17'; close are"),
    "no such package": (["no_package.x:make"], "cannot import 'no_package.x'"),
    "module and model": (["linear_module.pt", *RESNET], "linear_module.pt holds a whole Linear: drop --model"),
    "reference and model": (["timm:test_resnet", *RESNET], "--model names the architecture of a weights file"),
    "folder and model": (["photos", *RESNET], "photos holds no weights under a name such as"),
    "factory fails": (["no_match.py:fails"], "no_match.py:fails failed: RuntimeError: first second"),
    "factory gives text": (["no_match.py:text"], "no_match.py:text returned a str, not an nn.Module"),
    "wrong argument": (["net.py:make", "--arg", "depth=3"], "net.py:make failed: TypeError"),
    "policy": (["net.py:make", "--policy", "papers"], "'papers' is not one of paper, volumes"),
    "topology": (["net.py:make", "--topology", "torus"], "topology 'torus' is not one of zero, replicate, circular"),
    "bias": (["net.py:make", "--bias", "none"], "bias 'none' is not one of scalar, channel"),
    "kernel": (["net.py:make", "--channel-kernel", "4"], "channel kernel size 4 must be odd and positive"),
    "depth": (["net.py:make", "--depth", "8"], "belong to policy 'volumes'"),
    "share": (["net.py:make", "--policy", "narrow", "--share", "x*=0.5"], "--share 'x*' matches no width"),
    "whole share": (["net.py:make", "--policy", "narrow", "--share", "1"], "share 1 must be between 0 and 1"),
    "include": (["net.py:make", "--include", "decoder.*"], "--include 'decoder.*' matches no layer; names look like"),
    "exclude": (["net.py:make", "--exclude", "x*"], "--exclude 'x*' matches no layer"),
    "input does not run": (["net.py:make", "--input", "1,5,8,8"], "Sequential.forward does not run on the given"),
    "method": (["net.py:make", "--method", "sample"], "Sequential has no method 'sample' to capture"),
    "input is a broken file": (["net.py:make", "--input", "cut_linear.pt"], "cut_linear.pt is damaged"),
}
CONVERT_ONLY: dict[str, tuple[list[str], str]] = {
    "single layer": (["no_match.py:one"], "Conv2d has nothing to convert: 1 input and output layers"),
    "no layers": (["no_match.py:none"], "ReLU has nothing to convert"),
    "depthwise": (["no_match.py:depthwise"], "Sequential has nothing to convert"),
    "everything excluded": (
        ["net.py:make", "--exclude", "*"],
        "nothing to convert: 1 layers excluded by a pattern",
    ),
    "missing plan": (["net.py:make", "--plan", "nowhere.json"], "nowhere.json: cannot read the plan"),
    "no plan": (["net.py:make", "--plan", "not_a_plan.json"], "not_a_plan.json: not JSON"),
}


@pytest.mark.parametrize(
    ("command", "name"),
    [*(("scan", name) for name in WRONG), *(("convert", name) for name in [*WRONG, *CONVERT_ONLY])],
)
def test_wrong_input_is_one_line_and_leaves_nothing(here: Path, run: Run, command: str, name: str) -> None:
    words, message = (WRONG | CONVERT_ONLY)[name]
    before = below(here)
    ran = run(command, *words, *(["-o", "out"] if command == "convert" else []))
    assert ran.code == 1
    assert ran.out == ""
    assert message in ran.line
    assert below(here) == before


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("a_file", "a_file is not a folder; choose another output"),
        ("a_file/out", "cannot be written: "),
        ("/proc/out", "/proc/out cannot be written: "),
        ("/dev/null/out", "/dev/null/out cannot be written: "),
        ("photos", "photos exists and was not written by prismify; choose another output"),
        (".", "is where you stand"),
    ],
)
@pytest.mark.parametrize("force", [[], ["--force"]])
def test_an_output_that_cannot_be_is_told_before_anything_is_read(
    here: Path, run: Run, output: str, message: str, force: list[str]
) -> None:
    before = below(here)
    ran = run("convert", "no_match.py:fails", "-o", output, *force)
    assert ran.code == 1
    assert message in ran.line
    assert below(here) == before


def test_an_existing_output_needs_force(here: Path, run: Run) -> None:
    assert run("convert", "net.py:make", "-o", "out").code == 0
    before = {p: p.read_bytes() for p in Path("out").iterdir()}
    assert run("convert", "net.py:make", "-o", "out").line == "out exists; add --force to replace it"
    assert {p: p.read_bytes() for p in Path("out").iterdir()} == before
    assert run("convert", "net.py:make", "--seed", "1", "-o", "out", "--force").code == 0
    assert Path("out/model.safetensors").read_bytes() != before[Path("out/model.safetensors")]
    Path("out/notes.txt").write_text("mine")
    assert (
        "out holds notes.txt, which is no part of the model"
        in run("convert", "net.py:make", "-o", "out", "--force").line
    )


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["net.py:make", "--zzz"],
        ["net.py:make", "--depth", "many"],
        ["net.py:make", "--share", "half"],
        ["net.py:make", "--share", "0.5", "--share", "0.25"],
        ["net.py:make", "--arg", "width"],
        ["net.py:make", "--arg", "width=[1"],
        ["net.py:make", "--arg", "2x=1"],
        ["net.py:make", "--input", "1,3,x"],
        ["net.py:make", "--input", "1,-3,8,8"],
        ["net.py:make", "--input", "missing.pt"],
        ["net.py:make", "--input", "number.pt"],
        ["net.py:make", "--input", "linear_module.pt"],
    ],
    ids=" ".join,
)
@pytest.mark.parametrize("command", ["scan", "convert"])
def test_wrong_usage_exits_with_2(here: Path, run: Run, command: str, words: list[str]) -> None:
    before = below(here)
    ran = run(command, *words, *(["-o", "out"] if command == "convert" else []))
    assert ran.code == 2
    assert ran.out == ""
    assert ran.line.endswith(f"see prismify {command} --help")
    assert below(here) == before


def test_the_output_is_not_optional_and_the_seed_is_a_number(here: Path, run: Run) -> None:
    assert run("convert", "net.py:make").code == 2
    assert run("convert", "net.py:make", "-o", "out", "--seed", "-1").code == 2
    assert run("convert", "net.py:make", "-o", "out", "--seed", str(2**63)).code == 2
    assert run("convert", "net.py:make", "-o", "out", "--seed", str(2**63 - 1)).code == 0
    assert run("no-such-command").code == 2


def test_a_converted_folder_can_be_converted_in_its_own_place(here: Path, run: Run) -> None:
    net = (here / "net.py").read_text().replace("if final", "if False else nn.Conv2d(width, 2 * width, 3) if final")
    Path("net.py").write_text(net)
    assert run("convert", "net.py:make", "-o", "out").code == 0
    words = ["out", "-o", "out", "--policy", "volumes", "--min-volume", "4", "--trust-code"]
    assert "add --force" in run("convert", *words).line
    assert run("convert", *words, "--force", "--include", "4").code == 1  # the last layer is an output
    assert Path("out/net.py").is_file()


def test_reports_of_nothing_are_one_line(here: Path, run: Run) -> None:
    assert "is not a folder that prismify wrote" in run("report", "photos").line
    assert "is not a folder that prismify wrote" in run("report", "nowhere").line
    assert run("report").code == 2
    assert run("convert", "net.py:make", "-o", "out").code == 0
    report = json.loads(Path("out/report.json").read_text())
    for broken in ("{", "{}", json.dumps(report | {"layers": [1]}), json.dumps(report | {"macs": {}})):
        Path("out/report.json").write_text(broken)
        ran = run("report", "out")
        assert ran.code == 1
        assert "report.json" in ran.line


def test_a_surprise_is_one_line_too(here: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    import prismify.scanning

    def surprise(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError("division\nby zero")

    monkeypatch.setattr(prismify.scanning, "scan_captured", surprise)
    for words in (["scan", "net.py:make"], ["convert", "net.py:make", "-o", "out"]):
        line = run(*words).line
        assert line == "ZeroDivisionError: division by zero (unexpected; PRISMIFY_DEBUG=1 shows where)"
    monkeypatch.setenv("PRISMIFY_DEBUG", "1")
    with pytest.raises(AssertionError, match="division"):
        run("scan", "net.py:make")


def test_a_silly_input_is_a_slip_of_usage(here: Path, run: Run) -> None:
    ran = run("scan", "net.py:make", "--input", "1,3,999999,999999")
    assert ran.code == 2
    assert "2,999,994,000,003 numbers" in ran.err


def test_options_that_a_plan_overrules_are_refused(here: Path, run: Run) -> None:
    assert run("scan", "net.py:make", "--plan-out", "plan.json").code == 0
    ran = run("convert", "net.py:make", "-o", "out", "--plan", "plan.json", "--policy", "volumes")
    assert "drop --policy" in ran.line


def test_a_method_that_cannot_be_read_is_an_error(here: Path, run: Run) -> None:
    assert "state_dict cannot be captured" in run("scan", "net.py:make", "--method", "state_dict").line


def test_negative_widths_are_refused(here: Path, run: Run) -> None:
    assert "must not be negative" in run("scan", "net.py:make", "--min-width", "-1").line


def test_too_little_memory_is_told(here: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    import prismify.cli.inputs as inputs

    monkeypatch.setattr(inputs, "_LARGEST_INPUT", 1 << 62)
    assert run("scan", "net.py:make", "--input", "1,3,1000000,1000000000").line.startswith("not enough memory")


def test_an_interrupt_leaves_nothing(here: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    import prismify.checkpoint.folder as module

    written: list[set[str]] = []

    def interrupt(*_: Any) -> None:
        written.append(below(here))
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "write_json", interrupt)
    before = below(here)
    ran = run("convert", "net.py:make", "-o", "deep/out")
    assert ran.code != 0
    assert "Traceback" not in ran.err
    assert len(written[0] - before) > 2
    assert below(here) == before


def test_a_plan_of_another_model_is_told(here: Path, run: Run) -> None:
    assert run("scan", "net.py:make", "--plan-out", "plan.json").code == 0
    ran = run("convert", "timm:test_resnet", "--plan", "plan.json", "-o", "out")
    assert "the plan's layer '0' is not in ResNet" in ran.line
    ran = run("convert", "net.py:make", "--arg", "width=24", "--plan", "plan.json", "-o", "out")
    assert ran.code == 0  # the same layers, so the plan replays on other widths
    assert run("scan", "net.py:make", "--plan-out", "no/plan.json").line.startswith("no/plan.json could not be written")
