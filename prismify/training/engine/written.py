"""What a run wrote in its folder, by its own record: whatever is removed later is on it, and nothing else is."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from pathlib import Path

from ...checkpoint.atomic import clear_drafts
from ...checkpoint.manifest import read_json
from ...errors import OutputError, PrismifyError
from ...page import HTML_NAME
from ..model_files import DENOISING_NAME, is_inside, remove_model, strange_files
from .state import states

#: One relative path a line, noted before the file is written.
RECORD_NAME = ".prismify-run"
LOCK_NAME = ".lock"
#: Folders in a run's folder; a link in the place of one would lead out.
FOLDERS = ("state", "images", "tensorboard", "model", "best", "latents")
#: What a run that never started may leave, for the next one to go on with: latents take hours.
_KEPT = {LOCK_NAME, "latents"}
#: What a run writes at its end, or once.
_ONCE = (
    "model",
    "best",
    "report.md",
    HTML_NAME,
    "curves.png",
    "recipe.yaml",
    "run.json",
    "plan.json",
    "metrics.jsonl",
    DENOISING_NAME,
)
#: What runs wrote before there was a record.
_EARLIER = re.compile(
    r"(recipe\.yaml|run\.json|plan\.json|metrics\.jsonl|report\.(md|html)|curves\.png|images/step-\d{8,}\.png"
    r"|state/step-\d{8,}/state\.pt|tensorboard/events\.out\.tfevents\.[^/]+|model|best)"
)


class Written:
    """The record of a run's folder."""

    def __init__(self, folder: Path) -> None:
        self.folder, self._record = folder, folder / RECORD_NAME
        self._names = dict.fromkeys(_lines(self._record))

    def __contains__(self, path: Path) -> bool:
        return path.relative_to(self.folder).as_posix() in self._names

    def note(self, *paths: Path) -> None:
        """Write down files that are about to be written; a model's folder stands for what is in it."""
        new = [name for path in paths if (name := path.relative_to(self.folder).as_posix()) not in self._names]
        if new:
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW
            with os.fdopen(os.open(self._record, flags, 0o644), "w", encoding="utf-8") as file:
                file.writelines(f"{name}\n" for name in new)
            self._names.update(dict.fromkeys(new))

    def forget(self) -> None:
        """Remove what the record lists, and folders that are empty then."""
        for name in self._names:
            path = self.folder / name
            if not is_inside(self.folder, path):
                continue
            if path.is_dir():
                remove_model(path)
            else:
                path.unlink(missing_ok=True)
            for parent in path.relative_to(self.folder).parents:
                if parent != Path("."):
                    with suppress(OSError):  # not empty, or not there
                        (self.folder / parent).rmdir()
        self._record.unlink(missing_ok=True)
        self._names = {}

    def forget_run(self) -> None:
        """`forget`, for another run to start in the folder.

        Raises:
            OutputError: it holds a state all the same, which that run would take up.
        """
        self.forget()
        if kept := states(self.folder / "state"):
            raise OutputError(f"{self.folder} holds a state of step {kept[-1]} that no record lists: move it away")


def check_folder(folder: Path) -> None:
    """See that a folder is empty, or a run's.

    Raises:
        OutputError: it holds something else, or a link where a run has a folder.
    """
    entries = {entry.name for entry in os.scandir(folder)} - _KEPT
    if entries and RECORD_NAME not in entries and not _is_earlier_run(folder):
        shown = sorted(entries)[0]
        raise OutputError(f"{folder} holds {shown} and is not the folder of a run: name a new output")
    for name in FOLDERS:
        if (folder / name).is_symlink():
            raise OutputError(f"{folder / name} is a link: a run writes only into its own folder; name another output")


def open_record(folder: Path) -> Written:
    """The record of a folder that `check_folder` took, made where an earlier version left none; drafts are cleared."""
    if not (folder / RECORD_NAME).is_file() and _is_earlier_run(folder):
        found = (path for path in sorted(folder.rglob("*")) if is_inside(folder, path))
        Written(folder).note(*(p for p in found if _EARLIER.fullmatch(p.relative_to(folder).as_posix())))
    for place in (folder, folder / "state", folder / "images"):
        if place.is_dir():
            clear_drafts(place)
    return Written(folder)


def check_own(written: Written) -> None:
    """See that a run will replace nothing that it did not write, before it takes hours to get there.

    Raises:
        OutputError: something else lies where it writes.
    """
    for name in _ONCE:
        path = written.folder / name
        strange = [""] if path not in written else strange_files(path)
        if os.path.lexists(path) and strange:
            raise OutputError(f"{path / strange[0]} was not written by this run: move it, or name another output")


def _is_earlier_run(folder: Path) -> bool:
    if not ((folder / "run.json").is_file() and (folder / "recipe.yaml").is_file()):
        return False
    try:
        facts = read_json(folder / "run.json")
    except PrismifyError:
        return False
    return {"command", "seed", "versions", "learning_rate"} <= set(facts)


def _lines(path: Path) -> list[str]:
    if path.is_symlink() or not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    return [line for line in lines if line and not line.startswith("/") and ".." not in Path(line).parts]
