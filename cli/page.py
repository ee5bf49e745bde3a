"""A folder's report as an HTML page, with what the folder knows of searches and runs."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

#: Runs in one page at most, the newest first; the first with more of its pictures.
_MOST_RUNS = 4


def report_of(folder: Path) -> dict[str, Any] | None:
    """The report of a converted folder, of a run's model, or of the model that a search looked at.

    None is a run's whose model was not converted, or is not written yet: a page shows the run alone.

    Raises:
        SourceError: the folder is none of these, or is damaged.
        PlanError: it holds a damaged search.
    """
    from ..checkpoint.manifest import MANIFEST_NAME, read_manifest, read_report
    from ..search.telling import is_search, read_any, searched_report
    from ..training.engine.telling import is_run

    if not (folder / MANIFEST_NAME).is_file():
        if is_search(folder):
            return searched_report(read_any(folder))
        if is_run(folder):
            if not (folder / "model" / MANIFEST_NAME).is_file():
                return None
            folder = folder / "model"
    read_manifest(folder)
    return read_report(folder)


def write_page(folder: Path, report: dict[str, Any] | None, output: Path, *, force: bool) -> None:
    """Write the page of a folder.

    Args:
        report: as `report_of` found it.
        force: replace a file that prismify did not write.

    Raises:
        OutputError: the file cannot be written, or something else lies there.
        SourceError, PlanError: a search or a run of the folder is damaged.
    """
    from ..checkpoint.atomic import whole_file
    from ..errors import OutputError
    from ..page import document_of, page_text
    from ..search.telling import is_search, read_any, search_section
    from ..training.engine.telling import FACTS_NAME, run_section

    odd = output.exists() and not output.is_file()
    if odd or (output.exists() and not force and not _is_page(output)):
        raise OutputError(f"{output} exists and is no page of prismify's; choose another name, or add --force")
    if not output.absolute().parent.is_dir():
        raise OutputError(f"{output} cannot be written: {output.absolute().parent} is not a folder")
    search = search_section(read_any(folder)) if is_search(folder) else None
    runs = []
    for number, run in enumerate(_runs(folder)):
        pictures = 1 if number else 3
        runs.append(_read(run / FACTS_NAME, partial(run_section, run, pictures=pictures)))
    text = page_text(document_of(report, search=search, runs=runs))
    with whole_file(output) as draft:
        draft.write_text(text, encoding="utf-8")


def _runs(folder: Path) -> list[Path]:
    """The runs that belong to a folder: itself, the one that its model came out of, or those that trained it."""
    from ..training.engine.telling import FACTS_NAME, is_run

    if is_run(folder):
        return [folder]
    parent = folder.absolute().parent
    if folder.absolute().name in ("model", "best") and is_run(parent):
        return [parent]
    found = [path.parent for path in (folder / "runs").glob(f"*/{FACTS_NAME}")]
    return sorted(found, key=lambda run: -(run / FACTS_NAME).stat().st_mtime_ns)[:_MOST_RUNS]


def _read(where: Path, read: Callable[[], Any]) -> Any:
    """What `read` returns.

    Raises:
        SourceError: the file holds something else than prismify writes there.
    """
    from ..errors import SourceError

    try:
        return read()
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise SourceError(f"{where} is damaged: {type(error).__name__} {error}") from error


def _is_page(path: Path) -> bool:
    """Whether a file is a page that prismify wrote."""
    from ..page import GENERATOR

    with path.open("rb") as file:
        return f'<meta name="generator" content="{GENERATOR} '.encode() in file.read(2000)
