"""A thousand damaged files: each is refused in one line or harmless, and none writes, runs or fills anything."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="limits memory as Linux does")
def test_a_thousand_damaged_files(tmp_path: Path) -> None:
    """Folders, weights, pickles, programs, indexes, configs and plans; see `mutations.py`."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    words = [sys.executable, "-W", "ignore", "-m", "tests.checkpoint.mutations", str(tmp_path), "1", "1000"]
    ran = subprocess.run(words, env=environment, cwd=ROOT, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr[-2000:]
    assert "Traceback" not in ran.stderr
    result = json.loads(ran.stdout)
    assert result["wrong"] == []
    assert sum(result["outcomes"].values()) == 1000
    assert result["outcomes"]["refused"] > 500
    assert result["outcomes"]["identical"] > 50
