"""States on disk."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from prismify.errors import OutputError
from prismify.training.engine.state import write_state


def test_a_disk_that_takes_no_more_is_said_in_plain_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object) -> None:
        raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 12352 vs 12246")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OutputError, match="the disk is full, or takes no file so large; nothing was left"):
        write_state(tmp_path / "state", 1, {})
    assert not (tmp_path / "state").exists()
