"""The engines, once more, on what an older processor has: what rounds in between must not depend on the machine."""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

import pytest

from tests.older_processor import environment

HERE = Path(__file__).parent


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="the settings are those of x86")
def test_half_precision_without_later_instructions():
    tests = str(HERE / "test_engines.py") + "::test_kernels_types_and_layouts"
    command = [sys.executable, "-m", "pytest", "-q", "-k", "float16", "-p", "no:cacheprovider", tests]
    run = subprocess.run(command, env=environment(), cwd=HERE.parents[1], capture_output=True, text=True)
    assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-2000:]
    assert " passed" in run.stdout
