"""ONNX files: standard operators, the model's numbers, its weights as few as they are."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from prismify.cli.main import app
from typer.testing import CliRunner

import prismify
from prismify.errors import ConversionError
from prismify.export import Entry, largest_difference, times, write_onnx, write_program
from prismify.export.runtime import feed, session
from prismify.graph import ExampleInputs
from prismify.layers import DeepPrism, DeepPrism3d, DeepPrismTranspose2d, Prism

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

ALIKE = 1e-4


def image(*shape: int) -> ExampleInputs:
    return ExampleInputs((torch.randn(shape),))


@pytest.fixture(scope="module")
def autoencoder() -> Any:
    return converted("AutoencoderKL", policy="paper", block_out_channels=(32,), latent_channels=3, layers_per_block=1)


@pytest.fixture(scope="module")
def folder(autoencoder: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("models") / "small"
    prismify.save(autoencoder, place)
    return place


def converted(source: str, policy: str = "volumes", **arguments: Any) -> torch.nn.Module:
    """A small converted model of a class of diffusers."""
    import diffusers

    model = getattr(diffusers, source)(**arguments).eval()
    return prismify.convert(model, policy=prismify.Policy(name=policy, min_volume=8, feed_forward=policy == "volumes"))


def unet() -> tuple[torch.nn.Module, ExampleInputs]:
    model = converted(
        "UNet2DConditionModel",
        block_out_channels=(32, 64),
        cross_attention_dim=16,
        attention_head_dim=8,
        layers_per_block=1,
        sample_size=16,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    )
    text = torch.randn(1, 5, 16)
    given = {"sample": torch.randn(1, 4, 16, 16), "timestep": torch.tensor([3]), "encoder_hidden_states": text}
    return model, ExampleInputs((), given)


def transformer() -> tuple[torch.nn.Module, ExampleInputs]:
    model = converted(
        "DiTTransformer2DModel", num_attention_heads=2, attention_head_dim=32, num_layers=2, sample_size=8
    )
    given = {"timestep": torch.tensor([3]), "class_labels": torch.tensor([1])}
    return model, ExampleInputs((torch.randn(1, 4, 8, 8),), given)


def sound() -> tuple[torch.nn.Module, ExampleInputs]:
    model = converted(
        "UNet1DModel", sample_size=64, extra_in_channels=16, time_embedding_dim=16, block_out_channels=(32, 32, 32)
    )
    return model, ExampleInputs((torch.randn(1, 2, 64), torch.tensor([3])))


def shipped() -> tuple[torch.nn.Module, ExampleInputs]:
    return prismify.load("cifar10-ae-64"), image(1, 3, 32, 32)


def video() -> tuple[torch.nn.Module, ExampleInputs]:
    model = converted(
        "AutoencoderKLTemporalDecoder", policy="paper", block_out_channels=(32, 32), layers_per_block=1,
        down_block_types=("DownEncoderBlock2D",) * 2,
    )  # fmt: skip
    return model, ExampleInputs((torch.randn(2, 3, 16, 16),), {"num_frames": 2})


@pytest.mark.slow
@pytest.mark.parametrize("make", [unet, transformer, sound, video, shipped], ids=lambda make: make.__name__)
def test_models_of_every_kind(make: Any, tmp_path: Path) -> None:
    model, inputs = make()
    written = write_onnx(Entry(model, "forward", inputs), tmp_path / "model.onnx")
    assert sum(written.forms.values()) >= 4
    assert max(largest_difference(written).values()) < ALIKE
    assert written.size_bytes < 2**20 + 4 * sum(p.numel() for p in model.parameters())


def test_a_layer_over_frames_strided_and_transposed(tmp_path: Path) -> None:
    layers = {
        "frames": (DeepPrism3d(16, padding=1), (1, 16, 3, 5, 5)),
        "strided": (DeepPrism(16, 32, padding=1, stride=2, topology="circular"), (1, 16, 9, 9)),
        "transposed": (DeepPrismTranspose2d(16, kernel_size=4, stride=2, padding=1), (1, 16, 5, 5)),
        "tokens": (Prism(24, topology="replicate"), (2, 7, 24)),
    }
    for name, (layer, shape) in layers.items():
        written = write_onnx(Entry(layer, "forward", image(*shape)), tmp_path / f"{name}.onnx")
        assert max(largest_difference(written).values()) < ALIKE, name


@pytest.mark.parametrize(("method", "shape", "outputs"), [
    ("forward", (1, 3, 8, 8), {"sample_out": [1, 3, 8, 8]}),
    ("encode", (1, 3, 8, 8), {"mean": [1, 3, 8, 8], "log_variance": [1, 3, 8, 8]}),
    ("decode", (1, 3, 8, 8), {"sample": [1, 3, 8, 8]}),
])  # fmt: skip
def test_an_autoencoder_and_its_halves(
    method: str, shape: tuple[int, ...], outputs: dict[str, list[int]], autoencoder: Any, tmp_path: Path
) -> None:
    written = write_onnx(Entry(autoencoder, method, image(*shape)), tmp_path / "model.onnx")
    assert written.outputs == outputs
    (most,) = largest_difference(written).values()
    assert most < ALIKE
    model = onnx.load(written.path)
    onnx.checker.check_model(model, full_check=True)
    assert {node.domain for node in model.graph.node} == {""}
    assert {entry.domain for entry in model.opset_import} == {""}
    # 27 numbers a layer: as a band they are 2,700 for one layer of 32 channels.
    assert max(len(i.raw_data) // 4 for i in model.graph.initializer) < 2_000
    assert written.size_bytes < 100_000


def test_open_sizes_are_named_and_run_at_others(autoencoder: Any, tmp_path: Path) -> None:
    written = write_onnx(Entry(autoencoder, "decode", image(1, 3, 8, 8)), tmp_path / "model.onnx", dynamic=True)
    assert written.inputs == {"z": ["batch", 3, "height", "width"]}
    assert written.outputs == {"sample": ["batch", 3, "height", "width"]}
    found = largest_difference(written)
    assert list(found) == ["z 1×3×8×8", "z 2×3×16×16", "z 3×3×24×24"]
    assert max(found.values()) < ALIKE


class Mixed(torch.nn.Module):
    """Takes tensors, numbers and lists, and passes an input on."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Conv2d(3, 3, 1)

    def forward(self, x: Any, t: Any, flag: bool = True, extra: Any = None, unused: Any = None) -> dict[str, Any]:
        return {"y": self.layer(x) * t if flag else x, "x": x, "n": 3}


@pytest.mark.parametrize(
    ("given", "names"),
    [
        (ExampleInputs((torch.ones(1, 3, 4, 4), 3)), ["x"]),
        (ExampleInputs((torch.ones(1, 3, 4, 4),), {"t": 2.0, "extra": None, "unused": torch.ones(2)}), ["x", "unused"]),
        (ExampleInputs((torch.ones(1, 3, 4, 4), torch.tensor(2.0)), {"extra": [torch.ones(1)]}), ["x", "t", "extra_0"]),
    ],
    ids=["a number", "named", "a list"],
)
def test_inputs_of_any_kind_keep_their_names(given: ExampleInputs, names: list[str], tmp_path: Path) -> None:
    written = write_onnx(Entry(Mixed(), "forward", given), tmp_path / "model.onnx", dynamic=True)
    assert list(written.inputs) == names
    assert written.outputs == {"y": ["batch", 3, "height", "width"]}
    assert max(largest_difference(written).values()) < ALIKE


@pytest.mark.parametrize("form", ["blocks", "depthwise", "dense", "conv3d"])
def test_every_form_runs(form: Any, autoencoder: Any, tmp_path: Path) -> None:
    written = write_onnx(Entry(autoencoder, "decode", image(1, 3, 4, 4)), tmp_path / "model.onnx", form=form)
    assert set(written.forms) == {form}
    assert max(largest_difference(written).values()) < ALIKE


def test_a_wrong_file_is_told_from_a_right_one(autoencoder: Any, tmp_path: Path) -> None:
    """The comparison can fail: another model's file is far from this one."""
    written = write_onnx(Entry(autoencoder, "decode", image(1, 3, 4, 4)), tmp_path / "model.onnx")
    model = onnx.load(written.path)
    kernel = next(i for i in model.graph.initializer if list(i.dims)[-3:] == [3, 3, 3])
    kernel.raw_data = bytes(len(kernel.raw_data))
    onnx.save(model, written.path)
    assert max(largest_difference(written).values()) > 10 * ALIKE


def test_what_is_no_number_is_far_from_what_is(tmp_path: Path) -> None:
    class Roots(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
            return x + 1, (x - 100).log(), x > 0

    written = write_onnx(Entry(Roots(), "forward", image(1, 5)), tmp_path / "model.onnx")
    assert max(largest_difference(written).values()) < ALIKE  # both are NaN where the logarithm is none

    class Shifted(Roots):
        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
            return x + 1, (x + 100).log(), x > 0

    other = dataclasses.replace(written, entry=Entry(Shifted(), "forward", image(1, 5)))
    assert set(largest_difference(other).values()) == {float("inf")}


class Shares(torch.nn.Module):
    """Parts of a sum that may be zero, as linear attention has them."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        parts = x.relu()
        return parts / (parts.sum(-1, keepdim=True) + 1e-15)


def test_a_tiny_number_is_not_taken_for_nothing(tmp_path: Path) -> None:
    nothing = ExampleInputs((-torch.ones(2, 3),))
    written = write_onnx(Entry(Shares(), "forward", nothing), tmp_path / "shares.onnx")
    (found,) = session(written.path).run(None, {"x": -torch.ones(2, 3).numpy()})
    assert found.tolist() == [[0.0] * 3] * 2


def test_names_that_collide_are_numbered_and_an_empty_file_is_none(tmp_path: Path) -> None:
    class Nested(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> dict[str, Any]:
            return {"a_b": x + 1, "a": {"b": x + 2}}

    written = write_onnx(Entry(Nested(), "forward", image(1, 5)), tmp_path / "model.onnx")
    assert list(written.outputs) == ["a_b", "a_b_1"]
    with pytest.raises(ConversionError, match=r"Identity.forward returns no tensor but its inputs"):
        write_onnx(Entry(torch.nn.Identity(), "forward", image(1, 5)), tmp_path / "none.onnx")
    assert not (tmp_path / "none.onnx").exists()


def test_an_opset_that_torch_does_not_write_is_refused(autoencoder: Any, tmp_path: Path) -> None:
    with pytest.raises(ConversionError, match="30"):
        write_onnx(Entry(autoencoder, "decode", image(1, 3, 4, 4)), tmp_path / "model.onnx", opset=30)
    assert not list(tmp_path.iterdir())


def test_a_model_that_fixes_its_sizes_is_not_written_with_open_ones(tmp_path: Path) -> None:
    class Fixed(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + torch.ones(2, 5)

    for write, name in ((write_onnx, "model.onnx"), (write_program, "model.pt2")):
        with pytest.raises(ConversionError, match=r"Fixed.forward fixes all its sizes: leave --dynamic out"):
            write(Entry(Fixed(), "forward", image(2, 5)), tmp_path / name, dynamic=True)


def test_a_file_runs_without_prismify_and_torch(autoencoder: Any, tmp_path: Path) -> None:
    inputs = image(1, 3, 4, 4)
    written = write_onnx(Entry(autoencoder, "decode", inputs), tmp_path / "model.onnx")
    code = (
        "import sys, numpy, onnxruntime; s = onnxruntime.InferenceSession('model.onnx'); "
        "y = s.run(None, {'z': numpy.load('z.npy')})[0]; numpy.save('y.npy', y); "
        "assert not {'torch', 'prismify'} & set(sys.modules)"
    )
    import numpy as np

    np.save(tmp_path / "z.npy", inputs.args[0].numpy())
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
    with torch.no_grad():
        (wanted,) = written.entry(*inputs.args)
    assert float((torch.from_numpy(np.load(tmp_path / "y.npy")) - wanted).abs().max()) < ALIKE


def test_a_program_runs_without_prismify(autoencoder: Any, tmp_path: Path) -> None:
    inputs = image(1, 3, 8, 8)
    entry = Entry(autoencoder, "decode", inputs)
    assert write_program(entry, tmp_path / "model.pt2", dynamic=True) == (tmp_path / "model.pt2").stat().st_size
    torch.save(torch.randn(3, 3, 4, 6), tmp_path / "z.pt")
    code = (
        "import sys, torch; p = torch.export.load('model.pt2').module(); "
        "torch.save(p(torch.load('z.pt'))[0].detach(), 'y.pt'); assert 'prismify' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
    with torch.no_grad():
        (wanted,) = entry(torch.load(tmp_path / "z.pt"))
    torch.testing.assert_close(torch.load(tmp_path / "y.pt"), wanted, atol=ALIKE, rtol=0)


def test_what_is_timed_is_a_run_of_the_file(autoencoder: Any, tmp_path: Path) -> None:
    written = write_onnx(Entry(autoencoder, "decode", image(1, 3, 4, 4)), tmp_path / "model.onnx")
    assert times({"it": written}, threads=1, seconds=0.01)["it"].median_ms > 0
    running = session(written.path, 1)
    assert list(feed(written, written.entry.example, running)) == ["z"]


def test_what_cannot_be_exported_is_one_line(autoencoder: Any, tmp_path: Path) -> None:
    class Branching(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + 1 if float(x.sum()) > 0 else x

    with pytest.raises(ConversionError, match=r"^Branching.forward cannot be exported: torch.export says: [^\n]+$"):
        write_onnx(Entry(Branching(), "forward", image(1, 3)), tmp_path / "model.onnx")
    with pytest.raises(ConversionError, match="AutoencoderKL has no method 'paint' to export"):
        Entry(autoencoder, "paint", image(1, 3))
    assert not list(tmp_path.iterdir())


def test_the_command_compares_and_names_the_dense_time(folder: Path, tmp_path: Path) -> None:
    words = ["export", str(folder), "--method", "decode", "--input", "1,3,4,4", "--threads", "1", "--seconds", "0.01"]
    ran = CliRunner().invoke(app, [*words, "-o", str(tmp_path / "deep" / "it.onnx"), "--json"])
    assert ran.exit_code == 0, ran.stderr
    report = json.loads(ran.stdout)
    assert report["bytes"] == (tmp_path / "deep" / "it.onnx").stat().st_size
    assert max(report["differences"].values()) < ALIKE
    assert set(report["times"]) == {"exported", "dense"}
    shown = CliRunner().invoke(app, [*words, "-o", str(tmp_path / "it.onnx"), "--seconds", "0"])
    assert "outputs: sample 1×3×4×4" in shown.stdout
    assert "largest difference from the model:" in shown.stdout


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["-o", "it.tflite"], "it.tflite ends with neither of .onnx, .pt2"),
        (["-o", "it.pt2", "--form", "blocks"], "--form is for .onnx files; it.pt2 is torch's own"),
        (["-o", "it.onnx", "--form", "magic"], "'magic' is not one of auto, blocks, depthwise, dense, conv3d"),
        (["-o", "it.onnx", "--method", "paint"], "AutoencoderKL has no method 'paint' to capture"),
    ],
)
def test_bad_input_is_one_line(
    words: list[str], line: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    ran = CliRunner().invoke(app, ["export", str(folder), *words])
    assert ran.exit_code != 0
    assert line in ran.stderr.splitlines()[-1]
    assert not list(tmp_path.iterdir())
