"""Pages and the files that their numbers come from: written anew from those, a page is what lies in `docs`."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


RESULTS = ROOT / "benchmarks" / "results"
#: How a page is written again from what was measured.
WRITERS = {
    "results.md": "import results_page; results_page.write()",
    "performance.md": "import sys, performance; sys.argv[1:] = ['--page-only']; performance.main()",
    "scan.md": (
        "import json, scan; found = json.loads(scan.RESULTS.read_text()); (scan.ROOT / 'docs' / 'scan.md')"
        ".write_text(chr(10).join([*scan.page(found), *scan.zoo_page(found)]) + chr(10))"
    ),
}


#: Results that are timed or counted, whose numbers no seed decides.
DRAWN_BY_NOBODY = {"fusion-cpu.json", "performance-cpu.json", "scan.json", "zoo.json"}


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The scripts, their results and the pictures, apart."""
    pytest.importorskip("matplotlib")
    place = tmp_path_factory.mktemp("pages")
    shutil.copytree(ROOT / "benchmarks", place / "benchmarks", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "docs" / "images", place / "docs" / "images")
    return place


@pytest.mark.parametrize("page", WRITERS)
def test_a_page_says_what_the_files_say(page: str, copy: Path) -> None:
    code = f"import sys; sys.path.insert(0, 'benchmarks'); {WRITERS[page]}"
    subprocess.run([sys.executable, "-c", code], cwd=copy, check=True, stdout=subprocess.DEVNULL)
    assert (copy / "docs" / page).read_text() == (ROOT / "docs" / page).read_text()


def test_the_zoos_page_says_what_its_file_says() -> None:
    from tests.zoo.page import markdown
    from tests.zoo.table import GROUPS, ROWS
    from tests.zoo.walk import Result

    kept = {row["name"]: Result(**row) for row in json.loads((RESULTS / "zoo.json").read_text())}
    found = {row.name: kept[row.name] for row in ROWS if row.name in kept}
    assert markdown(GROUPS, found) == (ROOT / "docs" / "zoo.md").read_text()


def test_every_result_says_when_where_and_by_which_command_it_was_made() -> None:
    rows = re.findall(r"^\| (\S+\.json) \| `(.+?)` \| (\S+) \|$", (RESULTS / "README.md").read_text(), re.MULTILINE)
    listed = {name: (command, page) for name, command, page in rows}
    there = {path.name for path in RESULTS.glob("*.json")}
    assert there == set(listed)
    for command, page in listed.values():
        script = command.split()[1] if command.split()[1] != "-m" else command.split()[2].replace(".", "/")
        assert (ROOT / script).exists()
        assert (ROOT / page).is_file()
    for name in there:
        content = json.loads((RESULTS / name).read_text())
        for row in content if isinstance(content, list) else [content]:
            assert re.fullmatch(r"\d{4}-\d\d-\d\d", row["date"]), name
            assert row.get("hardware") or row.get("machine"), name
            assert "seed" in row or name in DRAWN_BY_NOBODY, name


def test_every_picture_is_there_and_shown() -> None:
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    shown = {
        (page.parent / link).resolve() for page in pages for link in re.findall(r"\]\((\S+\.png)\)", page.read_text())
    }
    assert {path for path in shown if not path.is_file()} == set()
    assert set((ROOT / "docs" / "images").glob("*.png")) - shown == set()


def test_the_papers_map_names_files_that_are_there_and_all_that_the_paper_numbers() -> None:
    page = (ROOT / "docs" / "paper.md").read_text()
    rows = [line for line in page.splitlines() if line.startswith("| ") and line.count("|") == 4]
    for path in re.findall(r"`((?:prismify|recipes|benchmarks|tests|kernels)/[\w/]+\.py)`", "\n".join(rows)):
        assert any((ROOT / base / path).is_file() for base in ("", "prismify")), path
    text = "\n".join(row.split("|")[1] for row in rows)
    named = {f"Eq. {n}" for n in (1, 2, 3)} | {"Eqs. 4-5", "Eqs. 6-9"} | {f"Figure {n}" for n in range(1, 7)}
    named |= {f"Table {n}" for n in range(1, 5)} | {f"Sec. {n}" for n in ("3.2", "3.5", "4.1", "4.2", "4.3")}
    assert {name for name in named if name not in text} == set()
