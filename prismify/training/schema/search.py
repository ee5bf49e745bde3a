"""What a recipe says by which the candidates for every block are taught and scored."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from ...errors import RecipeError
from ...plan import Policy
from ..bounds import whole
from .common import Recipe
from .diffusion import Noise


@dataclass(frozen=True, kw_only=True)
class SearchRecipe(Recipe):
    """Teach every block of a trained model each candidate for a short while, and see what it costs the output.

    Args:
        candidates: name -> the policy that puts it in the place of layers, or None to leave it out; a block may always
            be kept.
        fitted: images on which candidates are fitted to the model's layers in closed form, before they learn.
        positions: of each call of a layer that such a fit looks at, at most.
        widths: look for the channels that every width of the whole model can lose, instead of trying candidates.
        noise: of a denoiser, how images are noised; None for all other models.
    """

    judging: ClassVar[tuple[str, str] | None] = None

    recipe: Literal["search"]
    candidates: dict[str, Policy | None]
    fitted: int = 32
    positions: int = 2000
    widths: bool = False
    noise: Noise | None = None

    def __post_init__(self) -> None:
        whole("search", self, 2**31, fitted=1, positions=1)
        if not self.policies:
            raise RecipeError("candidates: name at least one, as candidates: {low rank 4: {operator: LowRank, ...}}")
        if self.model.convert is not None:
            raise RecipeError("model.convert: a search starts from the trained model as it is")
        if self.data.validation < 1:
            raise RecipeError("data: validation images are what candidates are scored on: hold out at least 1")

    @property
    def policies(self) -> dict[str, Policy]:
        """The candidates that are not left out."""
        return {name: policy for name, policy in self.candidates.items() if policy is not None}
