"""Recipes of people's own: a function that a recipe's file names, and what the file may say."""

from __future__ import annotations

import re
from collections.abc import Callable
from inspect import signature
from typing import Any, get_type_hints

from ..checkpoint import Trust
from ..checkpoint.references import parse_reference
from ..checkpoint.references.reference import own_function
from ..errors import RecipeError, one_line
from .schema import Recipe

OwnRecipe = Callable[..., Any]
_FUNCTION = re.compile(r"(.+\.py|[^\W\d][\w.]*):[^\W\d][\w.]*", re.DOTALL)


def is_own(name: object) -> bool:
    """Whether what `recipe:` says names a function, as `file.py:train` or `package.module:train`."""
    return isinstance(name, str) and _FUNCTION.fullmatch(name) is not None


def own_recipe(name: str, where: str, trust: Trust) -> OwnRecipe:
    """The function that a recipe names.

    Args:
        where: what names it, for messages.

    Raises:
        SourceError: the person did not say that its code may run, or there is no such function.
    """
    trust.check(parse_reference(name), where)
    return own_function(name, "recipe")


def schema_of(function: OwnRecipe, name: str) -> type[Recipe]:
    """What a recipe's file may say: the class that the function's first parameter is annotated by.

    Raises:
        RecipeError: that is not `Recipe`, nor a dataclass derived from it.
    """
    try:
        parameters = list(signature(function).parameters)
        hint = get_type_hints(function).get(parameters[0]) if parameters else None
    except Exception as error:  # an annotation may name anything
        raise RecipeError(f"{name}: its annotations cannot be read: {one_line(error)}") from error
    if not (isinstance(hint, type) and issubclass(hint, Recipe)):
        raise RecipeError(
            f"{name} is no recipe: annotate its first parameter by prismify.training.schema.Recipe, or a dataclass "
            "derived from it, as in def train(recipe: Recipe, watch, *, restart, trust)"
        )
    return hint
