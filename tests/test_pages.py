"""Pages and the files that their numbers come from: written anew from those, a page is what lies in `docs`."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the scripts and their results, in which the page was written anew."""
    pytest.importorskip("matplotlib")
    place = tmp_path_factory.mktemp("pages")
    shutil.copytree(ROOT / "benchmarks", place / "benchmarks", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "docs" / "images", place / "docs" / "images")
    code = "import sys; sys.path.insert(0, 'benchmarks'); import results_page; results_page.write()"
    subprocess.run([sys.executable, "-c", code], cwd=place, check=True)
    return place


def test_the_results_page_says_what_the_files_say(written: Path) -> None:
    assert (written / "docs" / "results.md").read_text() == (ROOT / "docs" / "results.md").read_text()


def test_every_picture_is_there_and_shown() -> None:
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    shown = {
        (page.parent / link).resolve() for page in pages for link in re.findall(r"\]\((\S+\.png)\)", page.read_text())
    }
    assert {path for path in shown if not path.is_file()} == set()
    assert set((ROOT / "docs" / "images").glob("*.png")) - shown == set()
