"""Runs: what moves and what stands still, what is written, and what stops them."""

from __future__ import annotations

import itertools
import json
import os
import resource
import signal
import subprocess
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import prismify
from prismify.errors import DataError, OutputError, PrismifyError, RecipeError, TrainingError
from prismify.layers import Operator, build_operator
from prismify.training.engine import read_state, states
from prismify.training.engine.state import state_path
from prismify.training.initial import start_at_zero
from prismify.training.models import open_model
from prismify.training.schema import ModelSource
from tests.tolerances import exact
from tests.training.conftest import Recipe, Train, records

JUDGE = {"adversarial": 0.5, "adversarial_start": 3, "discriminator": {"channels": 8, "layers": 1}}


def said(told: list[Any]) -> str:
    return "\n".join(event.text for event in told if event.kind == "said")


def test_a_run_leaves_everything_it_used_and_made(recipe: Recipe, train: Train) -> None:
    folder, told = train(recipe(log={"tensorboard": True}))
    count = sum(p.numel() for p in prismify.load(folder / "model").parameters())
    assert said(told).startswith(f"AutoencoderKL: {count:,} parameters (")
    assert said(told).splitlines()[1:5] == [
        f"40 images from {recipe()['data']['path']}",
        "batch 8 = 1 process x 1 part x 8 images",
        "learning rate 0.003 = 0.000375 x 8",
        "6 steps (1.2 passes over the images)",
    ]
    assert [event.kind for event in told].index("began") < [event.kind for event in told].index("step")
    left = {p.name for p in folder.iterdir()} - {".prismify-run"}
    assert left == {
        "recipe.yaml", "run.json", "plan.json", "metrics.jsonl", "tensorboard", "images", "state", "model", "best",
        "report.md", "report.html",
    } | ({"curves.png"} if find_spec("matplotlib") else set())  # fmt: skip
    facts = json.loads((folder / "run.json").read_text())
    assert {"torch", "accelerate", "prismify"} <= set(facts["versions"])
    assert facts["seed"] == 0
    assert facts["data"]["images"] == 40
    assert [row["step"] for row in records(folder)] == [1, 2, 3, 4, 5, 6]
    assert {"reconstruction", "kl", "total", "gradient_norm", "learning_rate", "images_per_second"} <= set(
        records(folder)[0]
    )
    assert [row["step"] for row in records(folder, "validation")] == [3, 6]
    assert states(folder / "state")[-1] == 6
    assert "## On held-out images" in (folder / "report.md").read_text()
    page = (folder / "report.html").read_text()
    assert all(
        words in page for words in ('"measured":{"', '"losses":{"reconstruction":[[1,', '"source":"data:image/png;')
    )
    assert sorted(p.name for p in (folder / "images").iterdir()) == ["step-00000003.png", "step-00000006.png"]
    assert list((folder / "tensorboard").iterdir())
    notes = json.loads((folder / "model" / "report.json").read_text())["notes"]
    assert notes[-1] == "Trained with the recipe autoencoder: 6 steps of 8 images."
    card = (folder / "model" / "README.md").read_text()
    assert f"| psnr | {records(folder, 'validation')[-1]['psnr']:.4g} |" in card
    assert "8 images held out of" in card


def test_the_trained_model_is_the_average_and_loads(recipe: Recipe, train: Train) -> None:
    folder, _ = train(recipe())
    model = prismify.load(folder / "model")
    state = read_state(folder / "state", 6)["parts"]
    assert all(torch.equal(value, state["average"][name]) for name, value in model.state_dict().items())
    assert any(not torch.equal(value, state["model"][name]) for name, value in model.state_dict().items())


def test_learning_lowers_the_loss(recipe: Recipe, train: Train) -> None:
    folder, _ = train(recipe(train={"steps": 60}, log={"every": 1, "validate_every": 60, "tensorboard": False}))
    losses = [row["reconstruction"] for row in records(folder)]
    assert sum(losses[-5:]) < 0.5 * sum(losses[:5])


def test_no_parameter_is_left_out(recipe: Recipe, train: Train) -> None:
    content = recipe(train={"steps": 2, "ema": None})
    folder, told = train(content)
    assert "take no part" not in said(told)
    before = load_file(Path(content["model"]["source"]) / "model.safetensors")
    after = load_file(folder / "model" / "model.safetensors")
    assert not [name for name in before if torch.equal(before[name], after[name])]


def test_a_parameter_without_a_part_is_named_and_stays(recipe: Recipe, train: Train, tmp_path: Path) -> None:
    (tmp_path / "spare.py").write_text(
        "from torch import nn\nclass Spare(nn.Module):\n    def __init__(self):\n        super().__init__()\n"
        "        self.a, self.b = nn.Conv2d(3, 4, 3, 2, 1), nn.ConvTranspose2d(4, 3, 4, 2, 1)\n"
        "        self.spare = nn.Linear(2, 2)\n"
        "    def encode(self, x):\n        return self.a(x)\n    def decode(self, z):\n        return self.b(z)\n"
    )
    folder, told = train(recipe(model={"source": f"{tmp_path / 'spare.py'}:Spare"}))
    assert "2 parameters take no part in the output and stay as they are: model.spare.weight" in said(told)
    assert "kl" not in records(folder)[0]
    assert (folder / "model" / "model.safetensors").is_file()


def test_the_discriminator_stands_still_before_its_start_and_moves_after(recipe: Recipe, train: Train) -> None:
    folder, _ = train(recipe(loss=JUDGE, checkpoint={"every": 1, "keep": 10}))
    parts = [read_state(folder / "state", step)["parts"] for step in range(1, 7)]
    assert ["judge" in p or "judge_optimizer" in p for p in parts] == [False] * 3 + [True] * 3
    sizes = [state_path(folder / "state", step).stat().st_size for step in range(1, 7)]
    assert max(sizes[:3]) < min(sizes[3:])
    still = [
        all(torch.equal(a["judge"][k], b["judge"][k]) for k in a["judge"]) for a, b in itertools.pairwise(parts[3:])
    ]
    assert still == [False, False]
    rows = records(folder)
    assert [("adversarial" in row, "logits_real" in row) for row in rows] == [(False, False)] * 3 + [(True, True)] * 3
    assert {"adaptive_weight", "discriminator", "logits_fake", "discriminator_gradient_norm"} <= set(rows[-1])


@pytest.mark.parametrize("loss", [{"adaptive": False}, {"reconstruction": "l1"}])
def test_other_losses(recipe: Recipe, train: Train, loss: dict[str, Any]) -> None:
    folder, _ = train(recipe(loss={**JUDGE, **loss}))
    assert all(torch.isfinite(torch.tensor(row["total"])) for row in records(folder))


def test_accumulation_gives_the_same_gradients(recipe: Recipe, train: Train, tmp_path: Path) -> None:
    options = {"eps": 1e-5, "ema": None, "steps": 5}
    one, _ = train(recipe(train=options, output=str(tmp_path / "one")))
    two, _ = train(recipe(train={**options, "accumulation": 4}, output=str(tmp_path / "two")))
    first, second = (load_file(folder / "model" / "model.safetensors") for folder in (one, two))
    assert max(float((first[k] - second[k]).abs().max()) for k in first) < 1e-5


def test_the_last_and_the_best_states_are_kept(recipe: Recipe, train: Train) -> None:
    folder, _ = train(
        recipe(
            train={"steps": 12, "ema": None},
            log={"every": 4, "validate_every": 4, "tensorboard": False},
            checkpoint={"every": 1, "keep": 2},
        )
    )
    best = max(records(folder, "validation"), key=lambda row: row["psnr"])["step"]
    assert states(folder / "state") == sorted({11, 12, best})


def test_a_run_is_continued_and_extended(recipe: Recipe, train: Train) -> None:
    train(recipe())
    folder, told = train(recipe(train={"steps": 9}))
    assert "changed since step 6: train.steps was 6, is 9" in said(told)
    assert "going on from step 6" in said(told)
    assert [row["step"] for row in records(folder)] == list(range(1, 10))
    _, told = train(recipe(train={"steps": 9}))  # nothing is left to do
    assert not [event for event in told if event.kind == "step"]


def test_another_model_or_seed_is_another_run(recipe: Recipe, train: Train) -> None:
    train(recipe(train={"steps": 2}))
    with pytest.raises(RecipeError, match=r"holds a run with train.seed=0, not 1: name another output, or --restart"):
        train(recipe(train={"steps": 2, "seed": 1}))
    _, told = train(recipe(train={"steps": 2, "seed": 1}), restart=True)
    assert "going on" not in said(told)


def test_a_damaged_state_is_passed_over(recipe: Recipe, train: Train) -> None:
    folder, _ = train(recipe())
    newest = folder / "state" / "step-00000006" / "state.pt"
    newest.write_bytes(newest.read_bytes()[:1000])
    _, told = train(recipe())
    assert "state.pt is damaged" in said(told)
    assert "going on from step 4" in said(told)


def test_a_loss_that_diverges_names_the_term_and_keeps_the_last_good_state(recipe: Recipe, train: Train) -> None:
    content = recipe(train={"learning_rate": 1e30, "steps": 50}, checkpoint={"every": 1, "keep": 2})
    with pytest.raises(TrainingError, match=r"diverged at step \d+: \w+ is (nan|inf); the last good state is that of"):
        train(content)
    kept = states(Path(content["output"]) / "state")
    assert kept
    with pytest.raises(TrainingError, match=r"diverged"):  # the same again
        train(content)


def test_a_corrupt_image_in_the_middle_stops_with_the_state_kept(
    recipe: Recipe, train: Train, pictures: Path, tmp_path: Path
) -> None:
    import shutil

    shutil.copytree(pictures, tmp_path / "mine")
    content = recipe(data={"path": str(tmp_path / "mine"), "validation": 0}, checkpoint={"every": 100})
    victim = _image_of_step(content, 4)
    whole = victim.read_bytes()
    victim.write_bytes(whole[:100])
    with pytest.raises(DataError) as caught:
        train(content)
    assert f"{victim.name} cannot be read as an image" in str(caught.value)
    assert states(tmp_path / "run" / "state") == [4]  # kept although none was due
    victim.write_bytes(whole)
    folder, told = train(content)
    assert "going on from step 4" in said(told)
    assert [row["step"] for row in records(folder)] == [1, 2, 3, 4, 5, 6]


def _image_of_step(content: dict[str, Any], step: int) -> Path:
    from prismify.training.data import open_images, order_of
    from prismify.training.schema import Data

    images = open_images(Data(path=content["data"]["path"]))
    first = int(order_of(len(images), 0, 0)[step * content["train"]["batch_size"]])
    return Path(images.where) / images.names[first]


def test_a_full_disk_is_one_line_and_earlier_states_stay(recipe: Recipe, train: Train) -> None:
    content = recipe(train={"steps": 4})
    folder, _ = train(content)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, limits[1]))
    try:
        with pytest.raises(OutputError) as caught:
            train(recipe(train={"steps": 8}))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)
    assert "the state of step 4 is kept" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert states(folder / "state")[-1] == 4
    _, told = train(recipe(train={"steps": 8}))
    assert "going on from step 4" in said(told)


def test_a_small_disk_that_is_really_full(recipe: Recipe, train: Train, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("mounting a small disk needs root")
    try:
        with pytest.raises(OutputError, match=r"No space left|file write failed|the disk is full"):
            train(recipe(output=str(disk / "run")))
    finally:
        subprocess.run(["umount", "-l", disk], check=True)


def test_no_gpu_where_one_was_asked_for(recipe: Recipe, train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(TrainingError, match=r"train.device is cuda, and torch sees no GPU here"):
        train(recipe(train={"device": "cuda"}))


def test_a_batch_too_large_for_memory_says_what_to_do(
    recipe: Recipe, train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The allocator's own failure, provoked by a tensor that no machine holds."""
    train(recipe(train={"steps": 2}))
    from prismify.recipes import autoencoder

    monkeypatch.setattr(autoencoder, "encode", lambda model, images: (torch.empty(1 << 46), None))
    with pytest.raises(TrainingError) as caught:
        train(recipe(train={"steps": 4}))
    assert str(caught.value).startswith("out of memory with 8 images at a time: raise train.accumulation (now 1)")
    assert "the state of step 2 is kept" in str(caught.value)


@pytest.mark.parametrize(
    ("sections", "error"),
    [
        ({"data": {"path": "/nowhere"}}, "/nowhere: no such file or folder"),
        ({"train": {"batch_size": 9, "accumulation": 2}}, "train.batch_size 9 cannot be split into 1 processes x 2"),
        ({"loss": {"perceptual": 1.0, "lpips": {"weights": "/no.safetensors"}}}, "loss.lpips.weights: /no.safeten"),
        ({"model": {"source": "torchvision:resnet18"}}, "ResNet has no encode and decode: use recipe: distillation"),
        ({"data": {"size": 4}, "loss": {"adversarial": 1.0}}, "leave the discriminator no patch: it needs 24 pixels"),
    ],
)
def test_what_cannot_be_trained_is_said_before_the_first_step(
    recipe: Recipe, train: Train, sections: dict[str, Any], error: str
) -> None:
    with pytest.raises(PrismifyError) as caught:
        train(recipe(**sections))
    assert error in str(caught.value)


def test_a_folder_is_trained_in_by_one_process_at_a_time(recipe: Recipe, train: Train) -> None:
    import fcntl

    content = recipe()
    Path(content["output"]).mkdir()
    with (Path(content["output"]) / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(TrainingError, match=r"is in use: another process works there"):
            train(content)


def test_a_signal_ends_the_run_after_its_step(recipe: Recipe, train: Train) -> None:
    from prismify.recipes import carry_out

    from prismify.training.recipe import recipe_from

    told: list[Any] = []

    def watch(event: Any) -> None:
        told.append(event)
        if event.kind == "step" and event.step == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    content = recipe(checkpoint={"every": 100})
    with pytest.raises(SystemExit) as caught:
        carry_out(recipe_from(content, "recipe"), watch)
    assert caught.value.code == 128 + signal.SIGTERM
    assert states(Path(content["output"]) / "state")[-1] == 4
    assert "stopped at step 4; the same command goes on from there" in said(told)
    folder, _ = train(content)
    assert [row["step"] for row in records(folder)] == [1, 2, 3, 4, 5, 6]


def test_time_that_is_up_ends_the_run_well(recipe: Recipe, train: Train) -> None:
    folder, told = train(recipe(train={"max_minutes": 1e-4, "steps": 50}, log={"every": 100}))
    assert "minutes are up at step 1 of 50" in said(told)
    assert (folder / "model").is_dir()


def test_a_dense_model_trains_as_well(recipe: Recipe, train: Train) -> None:
    from prismify.checkpoint import open_source

    arguments = {"block_out_channels": [16], "norm_num_groups": 4, "sample_size": 16, "layers_per_block": 1}
    folder, _ = train(recipe(model={"source": "diffusers:AutoencoderKL", "arguments": arguments}))
    again = open_source(str(folder / "model")).build()
    assert type(again).__name__ == "AutoencoderKL"
    state = read_state(folder / "state", 6)["parts"]["average"]
    assert all(torch.equal(value, state[name]) for name, value in again.state_dict().items())


def test_a_model_is_converted_on_the_way(recipe: Recipe, train: Train) -> None:
    arguments = {"block_out_channels": [16], "norm_num_groups": 4, "sample_size": 16, "layers_per_block": 1}
    source = {"source": "diffusers:AutoencoderKL", "arguments": arguments, "convert": {"name": "paper"}}
    folder, _ = train(recipe(model=source, train={"steps": 2}))
    assert any(isinstance(m, prismify.DeepPrism) for m in prismify.load(folder / "model").modules())


def test_residual_branches_start_as_nothing(converted: Path) -> None:
    model = open_model(ModelSource(source=str(converted), zero=("*.resnets.*.conv2",)))
    ends = [m for name, m in model.named_modules() if name.endswith("conv2")]
    assert len(ends) == 10
    assert all(not end.weight.any() and not end.bias.any() for end in ends)
    block = model.decoder.up_blocks[0].resnets[0]
    x = torch.randn(1, 16, 5, 5)
    exact(block(x, None), x)
    with pytest.raises(RecipeError, match=r"'\*.conv9' matches no layer"):
        open_model(ModelSource(source=str(converted), zero=("*.conv2", "*.conv9")))


def test_every_kind_of_layer_starts_at_zero_and_learns() -> None:
    class Padded(torch.nn.Conv2d):
        def forward(self, input: torch.Tensor) -> torch.Tensor:
            return super().forward(torch.nn.functional.pad(input, (1, 1, 1, 1)))

    net = torch.nn.Sequential(torch.nn.Conv2d(3, 16, 3), Padded(16, 16, 3), torch.nn.Conv2d(16, 3, 3))
    converted = prismify.convert(net)
    layers = [converted[1], prismify.PrismConv(16), prismify.PrismConv(16, form="sum"), torch.nn.Linear(16, 16)]
    low: dict[str, Any] = {"type": "LowRank", "options": {"rank": 2}}
    chosen = [Operator(**low), Operator("Grouped", options={"groups": 4}), Operator("Separable")]
    chosen += [Operator("Gained", options={"operator": {"type": "DeepPrism"}})]
    chosen += [Operator("Sum", options={"operators": [low, {"type": "PrismConv"}]})]
    layers += [build_operator(operator, torch.nn.Conv2d(16, 16, 3, padding=1)) for operator in chosen]
    for layer in layers:
        start_at_zero(torch.nn.Sequential(layer), ("0",))
        shape = (2, 16) if isinstance(layer, torch.nn.Linear) else (2, 16, 4, 4)
        output = layer(torch.randn(shape))
        assert not output.any()
        (output - 1).square().sum().backward()
        assert any(p.grad is not None and p.grad.any() for n, p in layer.named_parameters() if "bias" not in n)


def test_the_seed_decides_the_weights_that_a_run_makes(recipe: Recipe, train: Train, tmp_path: Path) -> None:
    arguments = {"block_out_channels": [16], "norm_num_groups": 4, "sample_size": 16, "layers_per_block": 1}
    source = {"source": "diffusers:AutoencoderKL", "arguments": arguments, "convert": {"name": "paper"}}
    content = {"model": source, "train": {"steps": 1, "learning_rate": 1e-9, "ema": None}}
    made = []
    for i, seed in enumerate((1, 2, 1)):
        torch.rand(i)  # whatever was drawn before
        content["train"]["seed"] = seed
        folder, _ = train(recipe(**content, output=str(tmp_path / f"{i}")))
        made.append(prismify.load(folder / "model").encoder.conv_in.weight)
    assert torch.equal(made[0], made[2])
    assert not torch.allclose(made[0], made[1], atol=1e-3)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")  # Dynamo looks
def test_fused_blocks_train_to_the_same(recipe: Recipe, train: Train, tmp_path: Path) -> None:
    options = {"steps": 4, "eps": 1e-5, "ema": None}
    plain, _ = train(recipe(train=options, output=str(tmp_path / "plain")))
    fused, _ = train(recipe(train={**options, "fuse": True}, output=str(tmp_path / "fused")))
    losses = [[row["reconstruction"] for row in records(folder)] for folder in (plain, fused)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    assert any(isinstance(m, prismify.DeepPrism) for m in prismify.load(fused / "model").modules())


def test_grey_images(recipe: Recipe, train: Train, tmp_path: Path) -> None:
    (tmp_path / "grey.py").write_text(
        "from torch import nn\nclass Grey(nn.Module):\n    def __init__(self):\n        super().__init__()\n"
        "        self.a, self.b = nn.Conv2d(1, 4, 3, 2, 1), nn.ConvTranspose2d(4, 1, 4, 2, 1)\n"
        "    def encode(self, x):\n        return self.a(x)\n    def decode(self, z):\n        return self.b(z)\n"
    )
    folder, _ = train(
        recipe(model={"source": f"{tmp_path / 'grey.py'}:Grey"}, data={"channels": 1, "range": [0, 1]}, loss=JUDGE)
    )
    assert records(folder)[-1]["step"] == 6
