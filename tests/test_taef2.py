"""A real pretrained autoencoder, from its published weights to a converted folder in a fresh process."""

from __future__ import annotations

import importlib.util
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import prismify
from prismify import Policy, convert, scan
from prismify.export import Entry, largest_difference, write_onnx
from prismify.graph import ExampleInputs
from prismify.layers import DeepPrism
from tests.tolerances import exact

ROOT = Path(__file__).parents[1]
EXAMPLE = ROOT / "examples" / "taef2.py"
pytestmark = pytest.mark.data


@pytest.fixture(scope="module")
def taef2():
    spec = importlib.util.spec_from_file_location("taef2_example", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def pretrained(taef2, shared_data):
    model = taef2.TAEF2().eval()
    state = {name: value.float() for name, value in taef2.joined_weights(shared_data / "taef2").items()}
    model.load_state_dict(state, strict=True)
    return model


def psnr(model: torch.nn.Module, path: Path) -> float:
    """Peak signal-to-noise ratio in dB of an 8-bit reconstruction."""
    x = torch.from_numpy(np.array(Image.open(path).convert("RGB"))).permute(2, 0, 1)[None] / 255
    y = (model(x).clamp(0, 1) * 255).round() / 255
    return -10 * math.log10(float((x - y).square().mean()))


@pytest.mark.slow
def test_its_decoder_runs_in_onnx_runtime(pretrained, tmp_path):
    for name in ("onnxscript", "onnxruntime"):
        pytest.importorskip(name)
    small = convert(pretrained, policy=Policy(name="narrow", share=0.5, multiple=8))
    written = write_onnx(Entry(small, "decode", ExampleInputs((torch.randn(1, 32, 4, 4),))), tmp_path / "d.onnx")
    assert max(largest_difference(written).values()) < 1e-4


@pytest.mark.slow
@torch.inference_mode()
def test_the_architecture_is_right(pretrained, shared_data):
    """Every fourth of Kodak's pictures: all 24 give 30.2 dB, and take minutes."""
    values = [psnr(pretrained, path) for path in sorted((shared_data / "kodak").glob("*.png"))[::4]]
    assert values == pytest.approx([27.18, 28.00, 32.77, 23.60, 32.39, 28.92], abs=0.05)


def test_what_is_replaced(pretrained):
    plan = scan(pretrained)
    replaced = plan.replaced
    assert len(replaced) == 66
    assert {(r.kind, r.in_channels, r.out_channels, r.kernel_size) for r in replaced} == {("conv2d", 64, 64, (3, 3))}
    roles = {r.name: r.role for r in plan.layers if r.role != "inner"}
    assert roles == {"encoder.0": "input", "encoder.14": "output", "decoder.1": "input", "decoder.19": "output"}
    converted = convert(pretrained, plan)
    strides = [m.stride for m in converted.modules() if isinstance(m, DeepPrism)]
    assert (strides.count((2, 2)), strides.count((1, 1))) == (3, 63)
    assert any("must be retrained" in note for note in plan.notes)


def test_the_converted_folder_loads_in_a_fresh_process(taef2, shared_data, tmp_path):
    from safetensors.torch import save_file

    from prismify.checkpoint import open_source

    save_file(taef2.joined_weights(shared_data / "taef2"), tmp_path / "taef2.safetensors")
    source = open_source(str(tmp_path / "taef2.safetensors"), model=f"{EXAMPLE}:TAEF2")
    model = source.build().float()
    converted = prismify.convert_(model)
    prismify.save(converted, tmp_path / "out", source=source)
    image = Image.open(shared_data / "kodak" / "23.png").convert("RGB").resize((192, 128))
    x = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None] / 255
    torch.save(x, tmp_path / "x.pt")
    code = (
        "import torch, prismify, sys; torch.manual_seed(1)\n"
        f"prismify.__path__.append({str(ROOT)!r})\n"
        "model = prismify.load(sys.argv[1] + '/out', trust_code=True)\n"
        "with torch.inference_mode(): torch.save(model(torch.load(sys.argv[1] + '/x.pt')), sys.argv[1] + '/y.pt')"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, cwd=ROOT)
    with torch.inference_mode():
        exact(torch.load(tmp_path / "y.pt"), converted(x))


@pytest.mark.slow
def test_an_exported_program_is_converted_by_the_command_line(pretrained, shared_data, tmp_path):
    """No Python source of the model: from `.pt2` to `.pt2`, run in a process that has no prismify."""
    from prismify.cli.main import app
    from typer.testing import CliRunner

    image = Image.open(shared_data / "kodak" / "23.png").convert("RGB").resize((96, 64))
    x = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None] / 255
    shapes = ({0: torch.export.Dim("batch", min=1, max=16)},)
    torch.export.save(torch.export.export(pretrained, (torch.cat([x, x]),), dynamic_shapes=shapes), tmp_path / "t.pt2")
    ran = CliRunner().invoke(app, ["convert", str(tmp_path / "t.pt2"), "-o", str(tmp_path / "out"), "--json"])
    assert ran.exit_code == 0, ran.stderr
    torch.save(x, tmp_path / "x.pt")
    code = (
        "import sys, torch; sys.modules['prismify'] = None\n"
        "program = torch.export.load(sys.argv[1] + '/out/model.pt2')\n"
        "with torch.inference_mode():\n"
        "    torch.save(program.module()(torch.load(sys.argv[1] + '/x.pt')), sys.argv[1] + '/y.pt')"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", code, str(tmp_path)], check=True)
    program = prismify.load(tmp_path / "out")
    assert sum(p.numel() for p in program.parameters()) == 242_005
    assert len(program.prismify_plan.replaced) == 66
    twin = convert(pretrained, program.prismify_plan, args=(x,))
    assert not any(twin.load_state_dict(program.state_dict))
    with torch.inference_mode():
        torch.testing.assert_close(torch.load(tmp_path / "y.pt"), twin(x))
    kept = [n for n in program.state_dict if program.state_dict[n].shape == pretrained.state_dict()[n].shape]
    for name in kept:
        exact(program.state_dict[name], pretrained.state_dict()[name])
