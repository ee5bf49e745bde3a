"""A folder is written whole or not at all, and nothing of anybody else's goes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import prismify
from prismify.checkpoint import atomic
from prismify.checkpoint.atomic import check_output, clear_drafts, whole_file, whole_folder
from prismify.errors import OutputError

ROOT = Path(__file__).parents[2]


def below(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def manifest(folder: Path, *files: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / "prismify.json").write_text(json.dumps({"files": list(files)}))


def fail_while_writing(folder: Path, error: type[BaseException], *, force: bool = False) -> None:
    with whole_folder(folder, force=force) as draft:
        (draft / "file").write_text("half")
        raise error


def interrupt(*_: Any) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_a_failure_leaves_nothing_not_even_parents(tmp_path: Path, error: type[BaseException]) -> None:
    with pytest.raises(error):
        fail_while_writing(tmp_path / "a" / "b" / "out", error)
    assert below(tmp_path) == set()


def test_a_failure_leaves_the_old_folder_as_it_was(tmp_path: Path) -> None:
    manifest(tmp_path / "out", "old")
    (tmp_path / "out" / "old").write_text("1")
    with pytest.raises(KeyboardInterrupt):
        fail_while_writing(tmp_path / "out", KeyboardInterrupt, force=True)
    assert below(tmp_path) == {"out", "out/old", "out/prismify.json"}


@pytest.mark.parametrize("step", ["_sync", "_put_in_place"])
def test_an_interrupt_at_the_last_moment_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    monkeypatch.setattr(atomic, step, interrupt)
    with pytest.raises(KeyboardInterrupt), whole_folder(tmp_path / "out") as draft:
        (draft / "file").write_text("all")
    assert below(tmp_path) == set()


def test_a_failed_swap_puts_the_old_folder_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest(tmp_path / "out")
    rename = Path.rename

    def fail_for_the_new(self: Path, target: Path) -> Path:
        if self.suffix != ".prismify-old" and target == tmp_path / "out":
            raise OSError(28, "No space left on device")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail_for_the_new)
    with pytest.raises(OutputError, match="No space left"), whole_folder(tmp_path / "out", force=True):
        pass
    assert below(tmp_path) == {"out", "out/prismify.json"}


def test_force_replaces_what_prismify_wrote(tmp_path: Path) -> None:
    manifest(tmp_path / "out", "old")
    (tmp_path / "out" / "old").write_text("1")
    with whole_folder(tmp_path / "out", force=True) as draft:
        (draft / "new").write_text("2")
    assert below(tmp_path) == {"out", "out/new"}


def test_an_existing_folder_needs_force(tmp_path: Path) -> None:
    manifest(tmp_path / "out")
    with pytest.raises(OutputError, match="exists; add --force"):
        check_output(tmp_path / "out", force=False)


def test_an_empty_folder_is_taken(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with whole_folder(tmp_path / "out") as draft:
        (draft / "new").touch()
    assert below(tmp_path) == {"out", "out/new"}


def test_force_takes_nobody_elses_folder(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "me.png").touch()
    with pytest.raises(OutputError, match="not written by prismify"):
        check_output(tmp_path / "photos", force=True)


def test_force_takes_nothing_that_was_put_into_a_converted_folder(tmp_path: Path) -> None:
    manifest(tmp_path / "out", "model.safetensors")
    (tmp_path / "out" / "runs").mkdir()
    with pytest.raises(OutputError, match="holds runs, which is no part of the model"):
        check_output(tmp_path / "out", force=True)


def test_force_takes_nothing_that_was_put_deeper_into_it(tmp_path: Path, make_plain: Callable[..., nn.Module]) -> None:
    prismify.save(prismify.convert(make_plain()), tmp_path / "saved")
    check_output(tmp_path / "saved", force=True)
    out = tmp_path / "out"
    manifest(out, "unet", "package")  # folders in the lists of earlier versions stand for what is in them
    for name in ("unet/config.json", "package/a/b.py", "package/__pycache__/b.pyc", "unet/__pycache__/x.pyc"):
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).touch()
    check_output(out, force=True)
    (out / "prismify.json").write_text(
        json.dumps({"files": ["unet", "package"], "files_within": ["unet/config.json", "package/a/b.py"]})
    )
    check_output(out, force=True)
    (out / "unet" / "notes.txt").touch()
    with pytest.raises(OutputError, match=r"holds unet/notes\.txt, which is no part of the model"):
        check_output(out, force=True)
    (out / "unet" / "notes.txt").unlink()
    (out / "unet" / "photos").symlink_to(tmp_path)
    with pytest.raises(OutputError, match=r"holds unet/photos, which is no part of the model"):
        check_output(out, force=True)


@pytest.mark.parametrize("content", ["", "[1]", "{}", '{"files": 3}'])
def test_force_takes_no_folder_whose_manifest_is_damaged(tmp_path: Path, content: str) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "prismify.json").write_text(content)
    with pytest.raises(OutputError, match="damaged"):
        check_output(tmp_path / "out", force=True)


def test_force_does_not_take_the_source_away(tmp_path: Path) -> None:
    manifest(tmp_path / "out", "unet")
    (tmp_path / "out" / "unet").mkdir()
    with pytest.raises(OutputError, match="holds the source"):
        check_output(tmp_path / "out", force=True, source=tmp_path / "out" / "unet")


@pytest.mark.parametrize("folder", [".", ".."])
def test_the_current_folder_is_no_output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(OutputError, match="where you stand"):
        check_output(Path(folder), force=True)


def unwritable(tmp_path: Path) -> dict[str, Path]:
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path)
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    return {
        "file": tmp_path / "file",
        "below a file": tmp_path / "file" / "out",
        "below a device": Path("/dev/null/out"),
        "proc": Path("/proc/out"),
        "link": tmp_path / "link",
        "dangling": tmp_path / "dangling",
    }


@pytest.mark.parametrize("name", ["file", "below a file", "below a device", "proc", "link", "dangling"])
def test_an_unwritable_output_is_noticed_beforehand(tmp_path: Path, name: str) -> None:
    folder = unwritable(tmp_path)[name]
    before = below(tmp_path)
    with pytest.raises(OutputError, match=r"cannot be written|is not a folder|is a link"):
        check_output(folder, force=True)
    assert below(tmp_path) == before


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o755), (0o077, 0o700), (0o002, 0o775)])
def test_files_are_as_readable_as_the_umask_says(
    tmp_path: Path, make_plain: Callable[..., nn.Module], mask: int, mode: int
) -> None:
    before = os.umask(mask)
    try:
        prismify.save(prismify.convert(make_plain()), tmp_path / "out")
    finally:
        os.umask(before)
    assert (tmp_path / "out").stat().st_mode & 0o777 == mode
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "out").iterdir()} == {mode & 0o666}


def test_an_interrupt_in_the_middle_of_saving_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make_plain: Callable[..., nn.Module]
) -> None:
    from prismify.checkpoint import folder as module

    written: list[set[str]] = []

    def interrupt_later(*_: Any) -> None:
        written.append(below(tmp_path))
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "recipe_text", interrupt_later)
    with pytest.raises(KeyboardInterrupt):
        prismify.save(prismify.convert(make_plain()), tmp_path / "deep" / "out")
    assert any(path.endswith("model.safetensors") for path in written[0])
    assert below(tmp_path) == set()


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_text("old")

    def write(path: Path, text: str, after: Callable[[], None] = lambda: None) -> None:
        with whole_file(path) as draft:
            draft.write_text(text)
            after()

    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "plan.json", "ne", interrupt)
    assert (tmp_path / "plan.json").read_text() == "old"
    write(tmp_path / "plan.json", "new")
    assert (tmp_path / "plan.json").read_text() == "new"
    assert below(tmp_path) == {"plan.json"}
    with pytest.raises(OutputError, match="could not be written"):
        write(tmp_path / "no" / "plan.json", "new")


def test_a_converted_model_that_was_not_converted_is_not_saved(tmp_path: Path) -> None:
    with pytest.raises(prismify.PrismifyError, match="was not converted"):
        prismify.save(nn.Linear(2, 2), tmp_path / "out")
    with pytest.raises(prismify.PrismifyError, match="was not converted"):
        prismify.save(torch.nn.Sequential(), tmp_path / "out")
    assert below(tmp_path) == set()


_KILLED = """
import os, signal, sys
from pathlib import Path
from prismify.checkpoint.atomic import whole_folder
with whole_folder(Path(sys.argv[1])) as draft:
    (draft / "half").write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_the_next_one_clears_what_a_killed_one_left(tmp_path: Path) -> None:
    for _ in range(2):
        subprocess.run([sys.executable, "-c", _KILLED, str(tmp_path / "out")], cwd=ROOT, check=False)
    assert len(below(tmp_path)) == 2  # a draft and its file: the second cleared the first's
    mine = [".out.0123456789abcdef.mine", ".other.0123456789abcdef.prismify-draft", ".out.draft"]
    for name in mine:
        (tmp_path / name).mkdir()
    with whole_folder(tmp_path / "out"):
        pass
    assert below(tmp_path) == {"out", *mine}


def test_a_draft_that_is_being_written_stays(tmp_path: Path) -> None:
    with whole_folder(tmp_path / "out") as first:
        (first / "a").write_text("1")
        clear_drafts(tmp_path)
        assert (first / "a").is_file()


def test_a_folder_moved_aside_by_a_killed_one_comes_back(tmp_path: Path) -> None:
    manifest(tmp_path / "out")
    (tmp_path / "out").rename(tmp_path / ".out.0123456789abcdef.prismify-old")
    with pytest.raises(OutputError, match="exists; add --force"), whole_folder(tmp_path / "out"):
        pass
    assert (tmp_path / "out" / "prismify.json").is_file()
