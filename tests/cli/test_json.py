"""--json: one document on stdout, with the promised fields, the same from scan, convert and report."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import prismify

Run = Callable[..., Any]
LAYER = {"name", "kind", "role", "decision", "reason", "parameters_before", "parameters_after"}
NOISY = """
import logging, os, sys, warnings
from torch import nn

print("a banner while importing")

class Noisy(nn.Sequential):
    def forward(self, x):
        print("a shape", x.shape)
        sys.__stdout__.write("past the redirection\\n")
        return super().forward(x)

def make():
    print("a banner while building")
    os.system("echo from another program")
    os.write(1, b"from below python\\n")
    warnings.warn("a warning")
    logging.warning("a log line")
    return Noisy(nn.Conv2d(3, 16, 3), nn.Conv2d(16, 16, 3), nn.Conv2d(16, 3, 3))
"""


def check(report: Any) -> None:
    parameters = report["parameters"]
    assert set(parameters) == {"before", "after", "ratio", "excluded"}
    assert parameters["ratio"] == pytest.approx(parameters["before"] / parameters["after"])
    assert all(set(entry) == {"what", "numbers"} for entry in parameters["excluded"])
    for row in report["capture"]:
        assert {"method", "technique", "inputs", "failed"} <= set(row)
    for layer in report["layers"]:
        assert set(layer) >= LAYER
        assert layer["decision"] in ("replace", "keep")
    change = sum(d["parameters_after"] - d["parameters_before"] for d in report["layers"])
    assert parameters["after"] - parameters["before"] == change


def test_convert_writes_what_it_prints_and_report_prints_it_again(tmp_path: Path, net: Path, run: Run) -> None:
    printed = run("convert", f"{net}:make", "-o", tmp_path / "out", "--json").json
    check(printed)
    assert printed.pop("output") == str(tmp_path / "out")
    assert run("report", tmp_path / "out", "--json").json == printed
    assert json.loads((tmp_path / "out" / "report.json").read_text()) == printed
    model = prismify.load(tmp_path / "out", trust_code=True)
    assert printed["parameters"]["after"] == sum(p.numel() for p in model.parameters())


def test_scan_prints_what_convert_will_do(tmp_path: Path, net: Path, run: Run) -> None:
    scanned = run("scan", f"{net}:make", "--json").json
    check(scanned)
    converted = run("convert", f"{net}:make", "-o", tmp_path / "out", "--json").json
    for key in ("parameters", "macs", "size_bytes", "layers", "capture", "kept", "replaced"):
        assert scanned[key] == converted[key]


def test_buffers_are_named_as_excluded(run: Run) -> None:
    excluded = run("scan", "timm:test_resnet", "--json").json["parameters"]["excluded"]
    assert [entry["what"] for entry in excluded] == ["buffers"]
    assert excluded[0]["numbers"] > 0


def test_arguments_are_json_or_plain_words(tmp_path: Path, net: Path, run: Run) -> None:
    net.write_text(net.read_text().replace("final=True", "final=True, name='', sizes=(), more=None"))
    words = ["width=24", "final=false", "name=plain", "sizes=[1, 2]", 'more={"a": null}', ]  # fmt: skip
    report = run("scan", f"{net}:make", *(w for word in words for w in ("--arg", word)), "--json").json
    assert report["origin"]["arguments"] == {
        "width": 24,
        "final": False,
        "name": "plain",
        "sizes": [1, 2],
        "more": {"a": None},
    }
    assert len(report["layers"]) == 2


def test_stdout_is_the_document_alone_whatever_a_model_prints(tmp_path: Path, process: Callable[..., Any]) -> None:
    (tmp_path / "noisy.py").write_text(NOISY)
    ran = process("convert", "noisy.py:make", "-o", "out", "--json", cwd=tmp_path)
    assert ran.code == 0, ran.err
    assert ran.json["replaced"]["layers"] == 1
    for text in ("a banner while building", "from another program", "from below python"):
        assert text in ran.err
    assert "Warning" not in ran.err
    assert "a log line" not in ran.err


def test_a_pipelines_document_has_a_report_for_each_part(tmp_path: Path, run: Run) -> None:
    import diffusers

    blocks: dict[str, Any] = {"down_block_types": ["DownBlock2D"], "up_block_types": ["UpBlock2D"]}
    unet = diffusers.UNet2DModel(sample_size=8, block_out_channels=(16,), norm_num_groups=4, **blocks)
    diffusers.DDPMPipeline(unet, diffusers.DDPMScheduler()).save_pretrained(tmp_path / "ddpm")
    printed = run("convert", tmp_path / "ddpm", "-o", tmp_path / "out", "--json").json
    assert set(printed["parts"]) == {"unet"}
    check(printed["parts"]["unet"])
    assert printed["parameters"]["before"] == printed["parts"]["unet"]["parameters"]["before"]
    assert run("report", tmp_path / "out", "--json").json == {k: v for k, v in printed.items() if k != "output"}
    assert run("report", tmp_path / "out").code == 0
    scanned = run("scan", tmp_path / "ddpm", "--json").json
    assert scanned["parameters"] == printed["parameters"]
    for words in (["--plan-out", tmp_path / "p.json"], ["--input", "1,3,8,8"]):
        assert "name the folder of a pipeline's part" in run("scan", tmp_path / "ddpm", *words).line
    pipeline = prismify.load(tmp_path / "out")
    pipeline.set_progress_bar_config(disable=True)
    assert pipeline(num_inference_steps=1, output_type="np").images.shape == (1, 8, 8, 3)


def test_a_pipeline_with_nothing_to_convert_says_why_for_each_part(tmp_path: Path, run: Run) -> None:
    import diffusers

    blocks: dict[str, Any] = {"down_block_types": ["DownBlock2D"], "up_block_types": ["UpBlock2D"]}
    unet = diffusers.UNet2DModel(
        sample_size=8, block_out_channels=(4,), norm_num_groups=4, attention_head_dim=4, **blocks
    )
    diffusers.DDPMPipeline(unet, diffusers.DDPMScheduler()).save_pretrained(tmp_path / "ddpm")
    line = run("convert", tmp_path / "ddpm", "-o", tmp_path / "out").line
    assert line.startswith("unet: UNet2DModel has nothing to convert: ")
    assert not (tmp_path / "out").exists()
