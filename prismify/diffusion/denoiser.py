"""A denoiser of any library, called in one way."""

from __future__ import annotations

import inspect

from torch import Tensor, nn

from ..errors import RecipeError
from ..graph.inputs import CLASS_NAMES, CONTEXT_NAMES, TIME_NAMES
from ..graph.latents import first_tensor

#: The argument of networks that see an image at several sizes: which of them.
SCALE_NAMES = ("scale", "scales")
_PLACES = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


class Denoiser(nn.Module):
    """A model, its time, class, context and scale given by the names that its `forward` has for them.

    The first argument is what is noised. Of results with twice its channels (means and variances, as DiT returns), the
    first half counts.

    Args:
        model: any module that takes a noised tensor (B, C, ...) and a time (B,).

    Raises:
        RecipeError: its forward takes no time.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        parameters = inspect.signature(model.forward).parameters
        names = [name for name, p in parameters.items() if p.kind in (*_PLACES, inspect.Parameter.KEYWORD_ONLY)]
        if not names:
            raise RecipeError(f"{type(model).__name__} takes nothing by name: it is no denoiser")
        self._time = _found(names[1:], TIME_NAMES) or next(iter(names[1:2]), None)
        if self._time is None:
            raise RecipeError(f"{type(model).__name__} takes {names[0]} alone, and no time: it is no denoiser")
        self._label = _found(names[1:], CLASS_NAMES)
        self._context = _found(names[1:], CONTEXT_NAMES)
        self._scale = _found(names[1:], SCALE_NAMES)

    @property
    def takes_labels(self) -> bool:
        """Whether the model has an argument for a class."""
        return self._label is not None

    @property
    def takes_context(self) -> bool:
        """Whether the model has an argument for a text."""
        return self._context is not None

    @property
    def takes_scale(self) -> bool:
        """Whether the model has an argument for the size at which it sees an image."""
        return self._scale is not None

    def forward(
        self,
        noised: Tensor,
        time: Tensor,
        labels: Tensor | None = None,
        context: Tensor | None = None,
        scale: Tensor | None = None,
    ) -> Tensor:
        """What the model predicts, shaped as `noised`.

        Args:
            noised: shape (B, C, ...).
            time: shape (B,).
            labels: classes, shape (B,), int64.
            context: a text's tokens, shape (B, L, width).
            scale: the number of the scale, shape (B,).
        """
        assert self._time is not None
        given = {self._time: time}
        for name, value in ((self._label, labels), (self._context, context), (self._scale, scale)):
            if name is not None and value is not None:
                given[name] = value
        predicted = first_tensor(self.model(noised, **given), type(self.model).__name__)
        return predicted[:, : noised.shape[1]] if predicted.shape[1] == 2 * noised.shape[1] else predicted


def _found(names: list[str], known: tuple[str, ...]) -> str | None:
    return next((name for name in known if name in names), None)
