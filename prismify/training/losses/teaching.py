"""Distillation: what student and teacher return, and how far they are apart."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn

from ...checkpoint.handoff import needed_arguments
from ...errors import RecipeError
from ...graph.latents import decode, encode, first_tensor
from ...plan import Decision, Plan
from ...plan.narrowing import makes_fewer
from ..models import is_autoencoder
from ..schema import DistillationLoss
from .terms import relative_error

Answers = dict[str, Tensor]
#: Terms of the loss by which an autoencoder is asked something.
_ASKED = ("latent", "output", "image")


class Answering(nn.Module):
    """What of a model is to be matched, in one pass.

    An autoencoder is asked for any of: "latent", and "deviation" where it has one; "output", what it decodes from the
    teacher's latents, so that each half learns from the teacher's and not from the other's mistakes (the teacher itself
    decodes its own); "image", what it makes of the images by itself. Any other model gives its output.
    "features.NAME" are the feature maps behind layers; they are of the decoder too only where that is run.
    """

    def __init__(self, model: nn.Module, layers: Sequence[str], asked: Collection[str]) -> None:
        super().__init__()
        self.model = model
        self.layers = tuple(layers)
        self.asked = frozenset(asked)

    def forward(self, images: Tensor, latents: Tensor | None = None) -> Answers:
        answers: Answers = {}
        with recorded(self.model, self.layers, answers):
            if not is_autoencoder(self.model):
                answers["output"] = first_tensor(self.model(images), type(self.model).__name__)
                return answers
            if latents is not None and self.asked == {"output"} and not self.layers:  # a decoder by itself
                answers["output"] = decode(self.model, latents)[0]
                return answers
            encoded = encode(self.model, images)
            if "latent" in self.asked:
                answers["latent"] = encoded.mean
                if encoded.log_variance is not None:
                    answers["deviation"] = (0.5 * encoded.log_variance).exp()
            if "output" in self.asked:
                answers["output"] = decode(self.model, encoded.mean if latents is None else latents)[0]
        if "image" in self.asked:
            answers["image"] = decode(self.model, encoded.mean)[0]
        return answers


def everything_of(model: nn.Module) -> Answering:
    """A pass through all of a model."""
    return Answering(model, (), ("latent", "output"))


def asked_of_student(loss: DistillationLoss) -> set[str]:
    """What a student must answer for the terms that count."""
    asked = {name for name in _ASKED if getattr(loss, name)}
    return asked | {"output"} if loss.features or loss.perceptual else asked


def asked_of_teacher(loss: DistillationLoss) -> set[str]:
    """The same of its teacher, whose latents the student's decoder is given; nothing where images say it all."""
    asked = asked_of_student(loss) - {"image"}
    return asked | {"latent"} if asked else asked


@contextmanager
def recorded(model: nn.Module, layers: Sequence[str], answers: Answers) -> Iterator[None]:
    """Collect what layers return while the model runs; of a layer that runs twice, the last."""

    def note(name: str) -> object:
        def hook(module: nn.Module, inputs: object, output: object) -> None:
            if isinstance(output, Tensor):
                answers[f"features.{name}"] = output

        return model.get_submodule(name).register_forward_hook(hook)

    handles = [note(name) for name in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()  # type: ignore[attr-defined]


def matched_layers(student: nn.Module, teacher: nn.Module, loss: DistillationLoss) -> list[str]:
    """The layers whose feature maps are compared; none where that term is off.

    Raises:
        RecipeError: the patterns match no layer that both models have.
    """
    if not loss.features:
        return []
    names = [row.name for row in replaced_rows(student) if not makes_fewer(row.operator)]
    found = shared_modules(student, teacher, loss.feature_layers, names)
    if not found:
        patterns = ", ".join(loss.feature_layers) or "the replaced layers, with as many channels as before"
        raise RecipeError(f"loss.feature_layers: student and teacher share no layer that is {patterns}")
    return found


def replaced_layers(model: nn.Module) -> list[str]:
    """The layers of a converted model that were replaced; none of any other."""
    return [row.name for row in replaced_rows(model)]


def replaced_rows(model: nn.Module) -> list[Decision]:
    """The same as the rows of its plan."""
    plan: Plan | None = getattr(model, "prismify_plan", None)
    return plan.replaced if plan is not None else []


def shared_modules(
    student: nn.Module, teacher: nn.Module, patterns: Sequence[str], names: Collection[str]
) -> list[str]:
    """The modules of both models that patterns name, or, where there is no pattern, those among `names`."""
    both = {name for name, _ in teacher.named_modules() if name}
    shared = [name for name, _ in student.named_modules() if name in both]
    if not patterns:
        return [name for name in shared if name in names]
    return [name for name in shared if any(fnmatchcase(name, pattern) for pattern in patterns)]


def check_pair(student: nn.Module, teacher: nn.Module, loss: DistillationLoss) -> None:
    """See that two models can be given the same images, and have something of what is to be matched.

    Raises:
        RecipeError: one of them needs more than images, only one is an autoencoder, or only autoencoders have what
            counts.
    """
    if is_autoencoder(student) != is_autoencoder(teacher):
        raise RecipeError(
            f"the student is a {type(student).__name__} and the teacher a {type(teacher).__name__}: "
            "only one of them has encode and decode"
        )
    if is_autoencoder(student):
        return
    if not asked_of_student(loss) - {"latent", "image"}:
        raise RecipeError(
            f"loss: a {type(student).__name__} has neither encode nor decode, so that latent and image say nothing: "
            "set output or features"
        )
    needed = needed_arguments(student)
    if len(needed) != 1:
        raise RecipeError(
            f"{type(student).__name__} needs {', '.join(needed) or 'nothing'}; distillation gives a model images alone"
        )


def distances(student: Answers, teacher: Answers) -> dict[str, Tensor]:
    """The relative squared error of whatever both answered: "output", "latent", "features".

    Raises:
        RecipeError: two answers differ in shape.
    """
    for name in teacher.keys() & student.keys():
        if teacher[name].shape != student[name].shape:
            raise RecipeError(
                f"student and teacher differ in {name}: {tuple(student[name].shape)} and {tuple(teacher[name].shape)}"
            )
    terms = {}
    if "output" in student and "output" in teacher:
        terms["output"] = relative_error(student["output"], teacher["output"])
    if "latent" in student and "latent" in teacher:
        terms["latent"] = relative_error(student["latent"], teacher["latent"])
        if "deviation" in teacher and "deviation" in student:
            # On the scale of the latents: a deviation that is tiny beside them matters as little.
            scale = teacher["latent"].detach().float().var(correction=0) + 1e-8
            gap = (student["deviation"].float() - teacher["deviation"].detach().float()).square().mean()
            terms["latent"] = terms["latent"] + gap / scale
    maps = [relative_error(student[n], teacher[n]) for n in teacher if n.startswith("features.") and n in student]
    if maps:
        terms["features"] = torch.stack(maps).mean()
    return terms


@torch.no_grad()
def answer(model: nn.Module, images: Tensor) -> Tensor:
    """The output to measure: that of `output_of`, without a gradient."""
    return output_of(model, images)


def output_of(model: nn.Module, images: Tensor) -> Tensor:
    """An autoencoder's reconstruction by the mean of its latents, any other model's output."""
    if is_autoencoder(model):
        return decode(model, encode(model, images).mean)[0]
    return first_tensor(model(images), type(model).__name__)
