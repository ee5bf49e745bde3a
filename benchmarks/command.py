"""The command line of this checkout, installed or not."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
CODE = f"import prismify; prismify.__path__.append({str(ROOT)!r}); from prismify.cli.main import app; app()"
COMMAND = [sys.executable, "-c", CODE]


def run(*words: str) -> str:
    """What `prismify WORDS` prints; ends the script with its message where it fails."""
    return run_in(ROOT, *words)


def run_in(folder: Path, *words: str) -> str:
    """The same, called in a folder."""
    print("$ prismify", *words, flush=True)
    process = subprocess.run([*COMMAND, *words], cwd=folder, capture_output=True, text=True, check=False)
    if process.returncode:
        sys.exit(process.stderr)
    return process.stdout
