"""Blocks that learn from the teacher's: what a block is, whose inputs it is given, and a whole run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

import prismify
from prismify import Policy
from prismify.errors import RecipeError
from prismify.training.blockwise import Lessons, blocks_of, start_from, variances_of
from prismify.training.blockwise.lessons import error_between
from prismify.training.losses import replaced_layers
from tests.training.conftest import Recipe, Train, records, small_autoencoder
from tests.training.test_processes import CLI, ROOT

NARROW = Policy(name="volumes", depth=4, min_volume=4)


class Block(nn.Module):
    """A residual block that writes to what it is given, as torchvision's do."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1))

    def forward(self, x: Tensor, scale: float = 1.0) -> Tensor:
        x = F.relu(x, inplace=True)
        return x + scale * self.body(x)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 16, 3, padding=1)
        self.blocks = nn.ModuleList([Block(), Block()])
        self.alone = nn.Sequential(nn.Conv2d(16, 16, 3, padding=1))
        self.last = nn.Conv2d(16, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        for block in self.blocks:
            x = block(x, scale=0.5)
        return self.last(self.alone(x).tanh())


@pytest.fixture
def pair() -> tuple[Net, nn.Module]:
    torch.manual_seed(0)
    teacher = Net().eval().requires_grad_(False)
    return teacher, prismify.convert(teacher, policy=NARROW).requires_grad_(True)


def lessons_of(student: nn.Module, teacher: nn.Module, x: Tensor, at_once: int | None = None) -> Lessons:
    blocks = list(blocks_of(teacher, replaced_layers(student)))
    return Lessons(student, teacher, variances_of(teacher, blocks, lambda: teacher(x)), at_once)


def gradients(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def test_a_block_is_the_innermost_module_with_a_forward_of_its_own(pair: tuple[Net, nn.Module]) -> None:
    teacher, student = pair
    assert blocks_of(teacher, replaced_layers(student)) == {
        "blocks.0": ("blocks.0.body.0", "blocks.0.body.2"),
        "blocks.1": ("blocks.1.body.0", "blocks.1.body.2"),
        "alone.0": ("alone.0",),  # only a container and the model itself are around it
    }
    model = small_autoencoder()
    found = blocks_of(model, [d.name for d in prismify.scan(model).replaced])
    assert found["encoder.down_blocks.0.resnets.0"] == tuple(f"encoder.down_blocks.0.resnets.0.conv{n}" for n in (1, 2))
    assert len(found["decoder.mid_block.attentions.0"]) == 4


def test_blocks_learn_on_what_the_teacher_gives_its_own(pair: tuple[Net, nn.Module]) -> None:
    teacher, student = pair
    x = torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        inputs = [teacher.first(x)]
        for block in teacher.blocks:
            inputs.append(block(inputs[-1].clone(), scale=0.5))
        outputs = [*inputs[1:], teacher.alone(inputs[2])]
    said = [student.blocks[i](inputs[i].clone(), scale=0.5) for i in (0, 1)] + [student.alone(inputs[2])]
    errors = [F.mse_loss(ours, its) / (its.var(correction=0) + 1e-8) for ours, its in zip(said, outputs, strict=True)]
    torch.stack(errors).mean().backward()
    wanted = gradients(student)
    student.zero_grad()
    lessons = lessons_of(student, teacher, x)
    found = lessons.from_teacher(0, lambda: teacher(x), lambda error: error.backward())
    torch.testing.assert_close(found, torch.stack(errors).mean().detach())
    assert gradients(student).keys() == wanted.keys()
    for name, gradient in gradients(student).items():
        torch.testing.assert_close(gradient, wanted[name], msg=name)
    assert not any(p.grad is not None for p in teacher.parameters())
    assert not teacher.blocks[0]._forward_hooks
    assert not teacher.blocks[0]._forward_pre_hooks


def test_blocks_learn_on_what_the_student_gives_them(pair: tuple[Net, nn.Module]) -> None:
    teacher, student = pair
    x = torch.randn(2, 3, 8, 8)
    errors, state, goal = [], student.first(x).detach(), teacher.first(x)
    for ours, its in zip(student.blocks, teacher.blocks, strict=True):
        said, goal = ours(state.clone(), scale=0.5), its(goal.clone(), scale=0.5)
        errors.append(F.mse_loss(said, goal) / (goal.var(correction=0) + 1e-8))
        state = said.detach()
    said, goal = student.alone(state), teacher.alone(goal)
    errors.append(F.mse_loss(said, goal) / (goal.var(correction=0) + 1e-8))
    torch.stack(errors).mean().backward()
    wanted = gradients(student)
    student.zero_grad()
    lessons = lessons_of(student, teacher, x)
    before = {name: vars(student.get_submodule(name)).get("forward") for name in lessons.blocks}
    with torch.no_grad():
        expected = student(x)
    made: list[Tensor] = []
    found = lessons.on_its_own(0, lambda: teacher(x), lambda: made.append(student(x)), lambda e: e.backward())
    torch.testing.assert_close(made[0], expected)  # the pass is the student's own
    torch.testing.assert_close(found, torch.stack(errors).mean().detach())
    for name, gradient in gradients(student).items():
        torch.testing.assert_close(gradient, wanted[name], msg=name)
    assert {name: vars(student.get_submodule(name)).get("forward") for name in lessons.blocks} == before


def test_a_pass_that_fails_leaves_both_models_as_they_were(pair: tuple[Net, nn.Module]) -> None:
    teacher, student = pair
    lessons = lessons_of(student, teacher, torch.randn(2, 3, 8, 8))

    def fail() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        lessons.on_its_own(0, lambda: teacher(torch.randn(1, 3, 8, 8)), fail, lambda error: error.backward())
    assert "forward" not in vars(student.blocks[0])
    with pytest.raises(ZeroDivisionError):
        lessons.from_teacher(0, fail, lambda error: error.backward())
    assert not teacher.blocks[0]._forward_hooks


def test_groups_of_blocks_take_turns(pair: tuple[Net, nn.Module]) -> None:
    teacher, student = pair
    x = torch.randn(1, 3, 8, 8)
    lessons = lessons_of(student, teacher, x, at_once=2)
    assert [lessons.chosen(step) for step in range(3)] == [
        ("blocks.0", "blocks.1"), ("alone.0", "blocks.0"), ("blocks.1", "alone.0"),
    ]  # fmt: skip
    lessons.from_teacher(1, lambda: teacher(x), lambda error: error.backward())
    assert {name.rpartition(".body")[0] or "alone" for name in gradients(student)} == {"blocks.0", "alone"}


def test_lessons_leave_the_compiled_pass_alone(pair: tuple[Net, nn.Module]) -> None:
    teacher, student = pair
    x = torch.randn(2, 3, 8, 8)
    expected = student(x).detach()
    prismify.fuse(student)
    lessons = lessons_of(student, teacher, x)
    for learn in (
        lambda: lessons.from_teacher(0, lambda: teacher(x), lambda error: error.backward()),
        lambda: lessons.on_its_own(0, lambda: teacher(x), lambda: student(x), lambda error: error.backward()),
    ):
        learn()
        torch.testing.assert_close(student(x), expected)


def test_memory_is_that_of_one_block(pair: tuple[Net, nn.Module]) -> None:
    teacher, student = pair
    x = torch.randn(2, 3, 8, 8)
    lessons = lessons_of(student, teacher, x)
    held, most = 0, 0

    def packed(value: Tensor) -> Any:
        nonlocal held, most
        held += 1
        most = max(most, held)
        return value

    def backward(error: Tensor) -> None:
        nonlocal held
        error.backward()
        held = 0

    with torch.autograd.graph.saved_tensors_hooks(packed, lambda value: value):
        lessons.from_teacher(0, lambda: teacher(x), backward)
        one_block, held, most = most, 0, 0
        F.mse_loss(student(x), x).backward()
    assert one_block * 2 < most + 4  # two blocks and a layer: the whole pass keeps more than any of them


def test_layers_start_nearest_to_the_teachers(pair: tuple[Net, nn.Module]) -> None:
    teacher, student = pair
    x = torch.randn(4, 3, 16, 16)
    lessons = lessons_of(student, teacher, x)
    before = lessons.from_teacher(0, lambda: teacher(x), lambda error: None)
    assert start_from(teacher, student, lambda: teacher(x), 500) == replaced_layers(student)
    after = lessons.from_teacher(0, lambda: teacher(x), lambda error: None)
    assert float(after) < 0.8 * float(before)


@pytest.fixture(scope="session")
def taught(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """An autoencoder as diffusers writes it, and its conversion to volumes of four channels."""
    folder = tmp_path_factory.mktemp("taught")
    model = small_autoencoder()
    model.save_pretrained(folder / "teacher")
    torch.manual_seed(0)
    source = prismify.checkpoint.open_source(str(folder / "teacher"))
    prismify.save(prismify.convert(model, policy=NARROW), folder / "student", source=source)
    return folder / "teacher", folder / "student"


def blockwise(content: dict[str, Any], taught: tuple[Path, Path], **blocks: Any) -> dict[str, Any]:
    return {**content, "recipe": "distillation", "model": {"source": str(taught[1])}, "loss": {}, "blocks": blocks}


def test_a_run_goes_from_blocks_to_the_whole(recipe: Recipe, train: Train, taught: tuple[Path, Path]) -> None:
    content = recipe(train={"steps": 8, "ema": None}, log={"every": 1, "validate_every": 8, "tensorboard": False})
    folder, told = train(blockwise(content, taught, share=0.75, own_inputs=0.5, fitted=8))
    assert "30 of 30 replaced layers start nearest to the teacher's" in [e.text for e in told if e.kind == "said"]
    rows = records(folder)
    assert ["blocks" in row for row in rows] == [True] * 6 + [False] * 2
    assert rows[2]["blocks"] < rows[0]["blocks"]
    assert rows[3]["blocks"] > rows[2]["blocks"]  # their own inputs are worse than the teacher's
    assert {"output", "latent", "total"} <= set(rows[-1])


@pytest.mark.parametrize("include", [("*.conv[12]",), ()])
def test_narrowed_models_learn_where_they_still_are_alike(
    include: tuple[str, ...], recipe: Recipe, train: Train, tmp_path: Path
) -> None:
    model = small_autoencoder()
    model.save_pretrained(tmp_path / "teacher")
    source = prismify.checkpoint.open_source(str(tmp_path / "teacher"))
    small = prismify.convert(model, policy=Policy(name="narrow", include=include))
    prismify.save(small, tmp_path / "student", source=source)
    content = recipe(train={"steps": 8, "ema": None}, log={"every": 1, "validate_every": 8, "tensorboard": False})
    content = blockwise(content, (tmp_path, tmp_path / "student"), share=0.5, fitted=8)
    folder, told = train({**content, "loss": {"features": 0.5}, "remember": 0.1})
    texts = [e.text for e in told if e.kind == "said"]
    assert f"{len(replaced_layers(small))} of {len(replaced_layers(small))} replaced layers start" in " ".join(texts)
    assert any("return fewer channels than the teacher's" in text for text in texts) == (not include)
    rows = records(folder)
    assert ["blocks" in row for row in rows] == [True] * 4 + [False] * 4
    assert rows[-1]["features"] > 0


def test_a_run_that_was_killed_goes_on_with_its_blocks(recipe: Recipe, train: Train, taught: tuple[Path, Path]) -> None:
    content = recipe(train={"steps": 8}, log={"every": 1, "validate_every": 8, "tensorboard": False})
    blocks = {"share": 0.75, "own_inputs": 0.5, "fitted": 8, "at_once": 5}
    whole, _ = train(blockwise({**content, "output": content["output"] + "-whole"}, taught, **blocks))

    class Killed(BaseException):
        pass

    def kill(event: Any) -> None:
        if event.kind == "step" and event.step == 5:
            raise Killed

    from prismify.recipes import carry_out

    from prismify.training.recipe import recipe_from

    with pytest.raises(Killed):
        carry_out(recipe_from(blockwise(content, taught, **blocks), "recipe"), kill)
    folder, told = train(blockwise(content, taught, **blocks))
    assert any("going on from step" in event.text for event in told if event.kind == "said")
    first, second = (load_file(f / "model" / "model.safetensors") for f in (whole, folder))
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.slow
def test_two_processes_teach_blocks_as_one_does(tmp_path: Path, recipe: Recipe, taught: tuple[Path, Path]) -> None:
    import yaml

    content = recipe(
        train={"steps": 12, "clip": 1.0, "ema": None, "eps": 1e-5},
        log={"every": 5, "validate_every": 12, "tensorboard": False},
    )
    # The last steps are left out: whole outputs are compared by the variance of each process's own images.
    content = blockwise(content, taught, share=1.0, own_inputs=0.5, fitted=8)
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(content))
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    for name, more in (("one", []), ("two", ["--processes", "2"])):
        words = [sys.executable, "-c", CLI, "train", "recipe.yaml", "--set", f"output={name}", *more]
        ran = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert ran.returncode == 0, ran.stderr[-2000:]
    first, second = (load_file(tmp_path / name / "model" / "model.safetensors") for name in ("one", "two"))
    start = load_file(taught[1] / "model.safetensors")
    assert max(float((first[k] - second[k]).abs().max()) for k in first) < 1e-5
    assert max(float((first[k] - start[k]).abs().max()) for k in first) > 1e-2


def test_what_cannot_learn_block_by_block_says_so(recipe: Recipe, train: Train, taught: tuple[Path, Path]) -> None:
    with pytest.raises(RecipeError, match=r"blocks: share 2 must be a number from 0 to 1"):
        train(blockwise(recipe(), taught, share=2))
    content = blockwise(recipe(), taught, share=0.5)
    content |= {"model": {"source": str(taught[0])}, "teacher": {"source": str(taught[0])}}
    with pytest.raises(RecipeError, match=r"^blocks: no layer of the model was replaced"):
        train(content)
    with pytest.raises(RecipeError, match=r"a block returns \(2, 3\), and the teacher's \(2, 4\)"):
        error_between(torch.zeros(2, 3), torch.zeros(2, 4), [1.0])
