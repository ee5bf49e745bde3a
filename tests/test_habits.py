"""The files that a repository's hosts and tools read agree with the project that they speak of."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
MAKEFILE = (ROOT / "Makefile").read_text()
README = (ROOT / "README.md").read_text()
FORMS = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / ".github").rglob("*.md")]


def read(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files_that_are_there(page: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text())
    local = [link for link in links if "://" not in link]
    assert [link for link in local if not (page.parent / link).exists()] == []


def test_the_citation_is_of_this_version_and_of_the_paper_that_the_readme_names() -> None:
    cited = read(ROOT / "CITATION.cff")
    assert (cited["version"], cited["license"], cited["title"]) == (
        PROJECT["version"],
        PROJECT["license"],
        PROJECT["name"],
    )
    paper = cited["preferred-citation"]
    assert f"https://doi.org/{paper['doi']}" in README
    assert f"{' & '.join(one['family-names'] for one in paper['authors'])}, {paper['year']}" in README
    assert {"orcid", "url"} & {key for one in paper["authors"] for key in one} == set()


def test_the_workflow_runs_what_the_makefile_has_on_every_python_that_is_promised() -> None:
    job = read(ROOT / ".github" / "workflows" / "test.yml")["jobs"]["test"]
    matrix = job["strategy"]["matrix"]
    targets = set(re.search(r"^\.PHONY: (.+)$", MAKEFILE, re.MULTILINE)[1].split())  # type: ignore[index]
    assert set(matrix["target"]) == {"test", "test-slow", "docs"} <= targets
    assert PROJECT["requires-python"] == f">={min(matrix['python'], key=lambda v: int(v.split('.')[1]))}"
    assert "make ${{ matrix.target }} PYTHON=python" in [step.get("run") for step in job["steps"]]


def test_hooks_run_the_ruff_of_make_test() -> None:
    hooks = read(ROOT / ".pre-commit-config.yaml")["repos"][0]["hooks"]
    for hook in hooks:
        program, command = hook["entry"].split()[:2]
        assert f"$(BIN)/{program.removeprefix('.venv/bin/')} {command}" in MAKEFILE
    assert {hook["id"] for hook in hooks} == {"ruff-format", "ruff-check"}


@pytest.mark.parametrize("form", [form for form in FORMS if form.stem != "config"], ids=lambda form: form.stem)
def test_an_issue_form_has_what_its_host_asks_for(form: Path) -> None:
    content = read(form)
    assert {"name", "description", "body"} <= content.keys()
    names = [field["id"] for field in content["body"]]
    assert len(names) == len(set(names))
    for field in content["body"]:
        assert field["type"] in ("textarea", "input", "checkboxes", "dropdown", "markdown")
        assert field["attributes"]["label"]


def test_a_model_that_does_not_convert_is_reported_with_its_scan() -> None:
    fields = {field["id"]: field for field in read(ROOT / ".github" / "ISSUE_TEMPLATE" / "model.yml")["body"]}
    assert "prismify scan" in fields["scan"]["attributes"]["label"]
    assert fields["scan"]["validations"]["required"] is True


def test_every_extra_is_explained() -> None:
    rows = re.findall(r"^\| `(\w+)` \| .+ \| .+ \|$", README.split("| extra |")[1].split("\n\n")[0], re.MULTILINE)
    assert set(rows) == set(PROJECT["optional-dependencies"])


def test_the_changes_keep_their_form() -> None:
    lines = (ROOT / "CHANGELOG.md").read_text().splitlines()
    versions = [line for line in lines if line.startswith("## ")]
    assert versions[0] == "## [Unreleased]"
    assert any(line.startswith(f"## [{PROJECT['version']}]") for line in versions)
    kinds = {line for line in lines if line.startswith("### ")}
    assert kinds <= {f"### {kind}" for kind in ("Added", "Changed", "Deprecated", "Removed", "Fixed", "Security")}
    body = lines[lines.index("## [Unreleased]") :]
    assert [line for line in body if line and not line.startswith(("## ", "### ", "* ", "  "))] == []
