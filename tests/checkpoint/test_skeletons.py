"""Skeletons: what they can name, and where the classes they name are looked for."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from prismify import convert, load, save
from prismify.errors import SourceError, UnsafePickleError
from tests.graph.nets import Chain


def test_a_class_of_the_program_that_saved_is_not_sought_in_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    main = sys.modules["__main__"]
    kind = type("Scripted", (Chain,), {"__module__": "__main__"})
    monkeypatch.setattr(main, "Scripted", kind, raising=False)
    save(convert(kind(), args=(torch.randn(1, 3, 8, 8),)), tmp_path / "out")
    allow = ["__main__.Scripted"]
    assert type(load(tmp_path / "out", allow=allow)) is kind
    monkeypatch.delattr(main, "Scripted")
    elsewhere = r"in the program that saved the file, and this is another one: .*model="
    with pytest.raises(UnsafePickleError, match=elsewhere) as told:
        load(tmp_path / "out", allow=allow)
    assert "\n" not in str(told.value)
    assert type(load(tmp_path / "out", model=kind())) is kind


class Holding(Chain):
    """Holds what a file cannot name safely, each kind by a name of its own."""

    class Inner:
        pass

    @staticmethod
    def still(x: torch.Tensor) -> torch.Tensor:
        return x

    @classmethod
    def make(cls) -> Holding:
        return cls()


@pytest.mark.parametrize(
    ("held", "said"),
    [
        (Holding.Inner, "Holding.Inner stands inside a class"),
        (Holding.Inner(), "Holding.Inner stands inside a class"),
        (Holding.still, "Holding.still stands inside a class"),
        (Holding.make, "Holding.make is a method of no module"),
        (torch.compile(nn.Identity(), backend="eager"), "it holds .*, which load would refuse"),
    ],
)
def test_what_a_file_cannot_name_is_named_when_saving(held: Any, said: str, tmp_path: Path) -> None:
    net = Holding()
    net.held = held
    with pytest.raises(SourceError, match=said):
        save(convert(net, args=(torch.randn(1, 3, 8, 8),)), tmp_path / "out")
    assert not (tmp_path / "out").exists()
