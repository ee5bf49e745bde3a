"""A denoiser that learns from another: what both say of the same noised pictures, and how far they are apart."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..errors import RecipeError
from ..training.losses.teaching import Answers, recorded, replaced_layers, shared_modules
from ..training.schema import Teaching
from .denoiser import Denoiser

_FEATURES = "features."


class Learner(nn.Module):
    """A denoiser with what it says on the way, brought to the order of its teacher's channels.

    Args:
        denoiser: the student, or the teacher.
        layers: names of modules whose results are matched.
        adapters: one for each of them; none for the teacher.
    """

    def __init__(self, denoiser: Denoiser, layers: tuple[str, ...] = (), adapters: nn.ModuleDict | None = None) -> None:
        super().__init__()
        self.denoiser, self.layers = denoiser, layers
        self.adapters = nn.ModuleDict() if adapters is None else adapters

    @property
    def model(self) -> nn.Module:
        """The model within, as it is saved."""
        return self.denoiser.model

    def forward(
        self, noised: Tensor, times: Tensor, labels: Tensor | None = None, context: Tensor | None = None
    ) -> Answers:
        answers: Answers = {}
        with recorded(self.denoiser.model, self.layers, answers):
            output = self.denoiser(noised, times, labels, context)
        for name in self.layers:
            key = adapter_key(name)
            if _FEATURES + name in answers and key in self.adapters:
                answers[_FEATURES + name] = self.adapters[key](answers[_FEATURES + name])
        return {**answers, "output": output}


class Adapter(nn.Module):
    """A 1x1 convolution over the channels of a feature map (B, C, H, W), or of tokens (B, N, C); thrown away at last.

    The layers that prismify makes tie their weights along the channels, so that the order of channels is theirs to
    choose: the adapter finds the teacher's. It starts as the identity where the widths are the same.
    """

    def __init__(self, width: int, wanted: int, axis: int) -> None:
        super().__init__()
        self.axis = axis
        self.linear = nn.Linear(width, wanted)
        if width == wanted:
            nn.init.eye_(self.linear.weight)
            nn.init.zeros_(self.linear.bias)

    def forward(self, features: Tensor) -> Tensor:
        adapted: Tensor = self.linear(features.movedim(self.axis, -1)).movedim(-1, self.axis)
        return adapted


def adapter_key(name: str) -> str:
    """The adapter's name: that of its layer, without dots, which a ModuleDict does not take."""
    return name.replace(".", "/")


def taught_layers(student: nn.Module, teacher: nn.Module, teaching: Teaching) -> tuple[str, ...]:
    """The modules whose results are matched: those that the patterns name, or that hold replaced layers directly.

    Raises:
        RecipeError: student and teacher share none of them.
    """
    if not teaching.features:
        return ()
    holders = {name.rpartition(".")[0] or name for name in replaced_layers(student)}
    found = shared_modules(student, teacher, teaching.feature_layers, holders)
    if not found:
        wanted = ", ".join(teaching.feature_layers)
        which = f"named {wanted}" if wanted else "that hold replaced layers"
        raise RecipeError(f"distil.feature_layers: student and teacher share no modules {which}")
    return tuple(found)


@torch.no_grad()
def make_adapters(
    student: Denoiser, teacher: Denoiser, layers: tuple[str, ...], inputs: tuple[Any, ...]
) -> tuple[tuple[str, ...], nn.ModuleDict]:
    """The layers whose results can be brought together, and an adapter for each.

    Args:
        inputs: of both denoisers, as in a step.

    Raises:
        RecipeError: none can.
    """
    was_training = student.training
    student.eval()  # statistics stay as they are
    said, taught = Learner(student, layers)(*inputs), Learner(teacher, layers)(*inputs)
    student.train(was_training)
    kept, adapters = [], nn.ModuleDict()
    for name in layers:
        ours, its = said.get(_FEATURES + name), taught.get(_FEATURES + name)
        if ours is None or its is None or ours.dim() != its.dim() or ours.dim() < 3:
            continue  # it returns no tensor, or not the same kind
        axis = 1 if ours.dim() >= 4 else -1
        if _without(ours, axis) == _without(its, axis):
            kept.append(name)
            adapters[adapter_key(name)] = Adapter(ours.shape[axis], its.shape[axis], axis).to(ours.device)
    if layers and not kept:
        raise RecipeError(f"distil.feature_layers: {layers[0]} and others return nothing that can be compared")
    return tuple(kept), adapters


def teaching_terms(said: Answers, taught: Answers, teaching: Teaching) -> dict[str, Tensor]:
    """How far a student is from its teacher: "output" and "features", each a squared error over the teacher's power."""
    terms = {}
    if teaching.output:
        terms["output"] = error_over_power(said["output"], taught["output"])
    maps = [
        error_over_power(said[name], without_outliers(taught[name], teaching.most_deviations))
        for name in taught
        if name.startswith(_FEATURES) and name in said
    ]
    if maps:
        terms["features"] = torch.stack(maps).mean()
    return terms


def error_over_power(said: Tensor, taught: Tensor) -> Tensor:
    """Squared error over the teacher's mean square: 0 is equal, 1 as bad as saying nothing.

    The power is that of each picture, so that the mean over a batch is the same however the batch is split.
    """
    said, taught = said.float().flatten(1), taught.detach().float().flatten(1)
    return ((said - taught).square().mean(1) / (taught.square().mean(1) + 1e-12)).mean()


def without_outliers(features: Tensor, most: float | None) -> Tensor:
    """Features (B, ...) cut to `most` deviations from each picture's mean: a few huge ones would be all that counts."""
    if most is None:
        return features
    over = list(range(1, features.dim()))
    mean, deviation = features.mean(over, keepdim=True), features.std(over, keepdim=True)
    return features.clamp(mean - most * deviation, mean + most * deviation)


def _without(tensor: Tensor, axis: int) -> list[int]:
    shape = list(tensor.shape)
    del shape[axis]
    return shape
