"""Modules that moved are still found under the names they had."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator

import pytest

from prismify.moved import MOVED


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    """As in a process that has not asked for an old name yet."""
    before = {name: sys.modules.pop(name) for name in MOVED if name in sys.modules}
    yield
    for name in MOVED:
        sys.modules.pop(name, None)
    sys.modules.update(before)


@pytest.mark.parametrize("old", MOVED)
def test_an_old_name_is_the_module_of_the_new_one_and_says_so(old: str) -> None:
    new = MOVED[old]
    with pytest.warns(DeprecationWarning, match=f"{old} is {new} now"):
        module = importlib.import_module(old)
    assert module is importlib.import_module(new)
    assert module.__name__ == module.__spec__.name == new


def test_names_that_never_were_are_still_missing() -> None:
    with pytest.raises(ModuleNotFoundError, match="pictures_of_cats"):
        importlib.import_module("prismify.training.pictures_of_cats")
