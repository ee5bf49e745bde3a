"""The start of a run: its device, what it says before the first step, and what it writes down about itself."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from ...checkpoint.atomic import whole_file
from ...checkpoint.formats.tensors import separate_state
from ...checkpoint.manifest import write_json
from ...errors import RecipeError, TrainingError
from ...facts import parameter_count
from ..data import Images, passed_over_text
from ..models import reconstruct
from ..rates import parameters_by_kind
from ..recipe import recipe_yaml
from ..schema import Train
from .run import Run

_LIBRARIES = ("torch", "accelerate", "numpy", "pillow", "torchvision", "diffusers", "torchmetrics")


def make_accelerator(train: Train) -> Any:
    """Hugging Face Accelerate's view of this process: its device, and the others.

    Raises:
        TrainingError: there is no such device; or the batch cannot be split among the processes.
    """
    from accelerate import Accelerator

    if train.device == "cuda" and not torch.cuda.is_available():
        raise TrainingError("train.device is cuda, and torch sees no GPU here: set train.device=auto or cpu")
    on_cpu = train.device == "cpu" or not torch.cuda.is_available()
    if on_cpu and train.mixed_precision == "fp16":
        raise TrainingError("train.mixed_precision fp16 needs a GPU: set no or bf16")
    accelerator = Accelerator(cpu=on_cpu, mixed_precision=train.mixed_precision, step_scheduler_with_optimizer=False)
    processes = accelerator.num_processes
    if train.batch_size % (processes * train.accumulation):
        raise TrainingError(
            f"train.batch_size {train.batch_size} cannot be split into {processes} processes x "
            f"{train.accumulation} accumulation parts: choose a multiple of {processes * train.accumulation}"
        )
    return accelerator


def introduce(
    run: Run,
    model: nn.Module,
    images: Images,
    notes: dict[str, Any],
    beside: Mapping[str, dict[str, Any]] = MappingProxyType({}),
) -> None:
    """Say what is about to happen, and write what the run uses beside its results.

    Args:
        notes: further facts for `run.json`.
        beside: further JSON files of the folder, by their names.
    """
    train, shares = run.recipe.train, run.shares
    kinds = {k: sum(p.numel() for p in ps) for k, ps in parameters_by_kind(model, train.rates.operators).items()}
    of_kinds = ", ".join(f"{n:,} {k}" for k, n in kinds.items() if n)
    run.say(f"{type(model).__name__}: {parameter_count(model):,} parameters ({of_kinds})")
    run.say(f"{len(images):,} images from {images.where}")
    if images.passed_over:
        run.say(f"passed over: {passed_over_text(images.passed_over)}")
    run.say(
        f"batch {shares.batch_size} = {shares.processes} process{'es' * (shares.processes > 1)} x {shares.parts} "
        f"part{'s' * (shares.parts > 1)} x {shares.size} images"
    )
    run.say(f"learning rate {train.rate:.4g} = {train.rate / train.batch_size:.4g} x {train.batch_size}")
    run.say(f"{run.steps:,} steps ({run.steps * shares.batch_size / len(images):.3g} passes over the images)")
    if run.leads:
        for name, content in beside.items():
            run.written.note(run.folder / name)
            with whole_file(run.folder / name) as draft:
                write_json(draft, content)
        _write_facts(run, model, images, notes)


def _write_facts(run: Run, model: nn.Module, images: Images, notes: dict[str, Any]) -> None:
    run.written.note(*(run.folder / name for name in ("recipe.yaml", "run.json", "plan.json")))
    with whole_file(run.folder / "recipe.yaml") as draft:
        draft.write_text(recipe_yaml(run.recipe), encoding="utf-8")
    plan = getattr(model, "prismify_plan", None)
    if plan is not None:
        with whole_file(run.folder / "plan.json") as draft:
            write_json(draft, plan.to_dict())
    facts = {
        "command": sys.argv,
        "seed": run.seed,
        "versions": versions(),
        "hardware": hardware(run.device),
        "processes": run.shares.processes,
        "model": {"class": type(model).__name__, "parameters": parameter_count(model)},
        "data": {
            "path": images.where,
            "images": len(images),
            "fingerprint": images.fingerprint(),
            "passed_over": dict(images.passed_over),
        },
        "learning_rate": run.recipe.train.rate,
        "steps": run.steps,
        **notes,
    }
    with whole_file(run.folder / "run.json") as draft:
        write_json(draft, facts)


def versions() -> dict[str, str]:
    """Python, prismify and the libraries that results depend on."""
    from ...version import __version__

    found = {"python": platform.python_version(), "prismify": __version__}
    for name in _LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def hardware(device: torch.device) -> str:
    """Where a run ran, in words."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU, {torch.get_num_threads()} threads of {os.cpu_count()} cores ({platform.machine()})"


def see_that_it_fits(model: nn.Module, probe: Tensor, *, whole: bool) -> None:
    """See before the first step that a model takes images of this size, and that it can be written in the end.

    Args:
        probe: the first image, as a batch of one.
        whole: an autoencoder's reconstruction must have the size of its image.

    Raises:
        RecipeError: it does not; the message names data.size.
        SourceError: it holds what no file of weights can.
    """
    if getattr(model, "prismify_plan", None) is None:
        separate_state(model)
    size = f"{probe.shape[3]}x{probe.shape[2]}"
    was_training = model.training
    model.eval()  # statistics and dropout stay as they are
    try:
        with torch.no_grad():
            made = reconstruct(model, probe) if whole else model(probe)
    except Exception as error:  # whatever somebody's model raises
        if isinstance(error, (RecipeError, torch.OutOfMemoryError, MemoryError)) or "allocate memory" in str(error):
            raise
        text = " ".join(str(error).split())[:160]
        raise RecipeError(f"{type(model).__name__} takes no images of {size} ({text}): set data.size") from error
    finally:
        model.train(was_training)
    if whole and made.shape != probe.shape:
        raise RecipeError(
            f"{type(model).__name__} makes {tuple(made.shape[1:])} of images of {tuple(probe.shape[1:])}: set "
            "data.size, as to a multiple of what it halves"
        )


def freeze_unused(run: Run, module: nn.Module, probe: tuple[Tensor | None, ...]) -> None:
    """Keep the parameters that no output depends on out of training: distributed training waits for all others.

    Args:
        probe: inputs of `module`, of one image.

    Raises:
        RecipeError: no parameter is left.
    """
    named = [(n, p) for n, p in module.named_parameters() if p.requires_grad]
    module.eval()
    outputs = module(*probe)
    values = outputs.values() if isinstance(outputs, dict) else outputs
    total = torch.stack([v.float().mean() for v in values if isinstance(v, Tensor) and v.requires_grad]).sum()
    gradients = torch.autograd.grad(total, [p for _, p in named], allow_unused=True)
    module.train()
    unused = [(n, p) for (n, p), g in zip(named, gradients, strict=True) if g is None]
    if len(unused) == len(named):
        raise RecipeError(f"no parameter of {type(module).__name__} takes part in what it returns")
    for _, parameter in unused:
        parameter.requires_grad_(False)
    if unused:
        names = ", ".join(n for n, _ in unused[:3])
        run.say(f"{len(unused)} parameters take no part in the output and stay as they are: {names}")
