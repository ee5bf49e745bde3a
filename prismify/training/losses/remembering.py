"""A teacher's answers to images that come again: kept, they cost no pass."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

from .teaching import Answering, Answers


class Remembering:
    """What a teacher that treats every image by itself answered, by what the image holds.

    Args:
        teacher: in evaluation mode.
        size: bytes of answers that are kept, at most; those of the first images stay.
    """

    def __init__(self, teacher: Answering, size: float) -> None:
        self.teacher = teacher
        self.size = size
        self.held = 0
        self._answers: dict[bytes, Answers] = {}

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Answers:
        if not self.teacher.asked:
            return {}
        if not self.size:
            return dict(self.teacher(images))
        keys = [_key(image) for image in images]
        fresh = [i for i, key in enumerate(keys) if key not in self._answers]
        found = {key: self._answers[key] for key in keys if key in self._answers}
        if fresh:
            answers: Answers = self.teacher(images[fresh])
            for place, i in enumerate(fresh):
                found[keys[i]] = {name: value[place] for name, value in answers.items()}
                self._keep(keys[i], found[keys[i]])
        return {name: torch.stack([found[key][name] for key in keys]) for name in found[keys[0]]}

    def _keep(self, key: bytes, one: Answers) -> None:
        size = sum(value.numel() * value.element_size() for value in one.values())
        if key not in self._answers and self.held + size <= self.size:
            self.held += size
            self._answers[key] = {name: value.clone() for name, value in one.items()}


def _key(image: Tensor) -> bytes:
    content = image.detach().contiguous().cpu()
    return hashlib.blake2b(content.numpy().tobytes(), digest_size=16).digest()
