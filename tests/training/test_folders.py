"""Which files of a folder are images that a person means; what is passed over is counted and said."""

from __future__ import annotations

import json
import os
import shutil
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image, features

from prismify.errors import DataError
from prismify.training.data import decoding, open_images, passed_over_text
from prismify.training.schema import Data

HIDDEN = "folders that are hidden or hold thumbnails or trash"


def few(folder: Path, count: int, suffix: str = ".png", **how: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        Image.new("RGB", (8, 8), (i, 0, 0)).save(folder / f"{i}{suffix}", **how)
    return folder


def names(folder: Path, **how: Any) -> list[str]:
    return list(open_images(Data(path=str(folder), **how)).names)


def test_what_no_person_put_there_is_left_out_and_counted(tmp_path: Path) -> None:
    folder = few(tmp_path / "d", 2)
    left_out = (".ipynb_checkpoints", ".Trash-0/files", "a/.thumbnails", "@eaDir", "$RECYCLE.BIN", "__MACOSX")
    for name in left_out:
        few(folder / name, 1)
    few(folder / "trash", 1)  # a class of its own, in pictures of waste
    (folder / "._0.png").write_bytes(b"junk")
    (folder / "labels.txt").touch()
    (folder / "README").touch()
    images = open_images(Data(path=str(folder)))
    assert images.names == ["0.png", "1.png", "trash/0.png"]
    assert images.passed_over == {HIDDEN: len(left_out), ".txt": 1, "files without a suffix": 1, "hidden files": 1}
    with tarfile.open(tmp_path / "d.tar", "w") as tar:
        tar.add(folder, ".")
    packed = open_images(Data(path=str(tmp_path / "d.tar")))
    assert sorted(packed.names) == images.names
    assert packed.passed_over == images.passed_over
    assert names(few(tmp_path / ".cache" / "mine", 1)) == ["0.png"]  # named by the person


def test_links_are_followed_and_end(tmp_path: Path) -> None:
    folder, other = few(tmp_path / "d", 2), few(tmp_path / "other", 1)
    (folder / "again").symlink_to(folder)
    (folder / "beside").symlink_to("z")  # sorts before the folder that it points to
    few(folder / "z", 1)
    (folder / "more").symlink_to(other)
    (folder / "up").symlink_to("..")
    (other / "up").symlink_to(tmp_path)
    (folder / "self.png").symlink_to("self.png")
    (folder / "gone.png").symlink_to("nowhere.png")
    os.mkfifo(folder / "pipe.png")  # reading it would wait for ever
    images = open_images(Data(path=str(folder)))
    assert images.names == ["0.png", "1.png", "more/0.png", "z/0.png"]
    assert images.passed_over == {"links to folders that are read already": 4, "files that cannot be opened": 3}


def test_a_stray_archive_does_not_replace_the_folder(tmp_path: Path) -> None:
    folder = few(tmp_path / "d" / "a", 3).parent
    with tarfile.open(folder / "backup.tar", "w") as tar:
        tar.add(folder / "a" / "0.png", "0.png")
    images = open_images(Data(path=str(folder)))
    assert images.names == ["a/0.png", "a/1.png", "a/2.png"]
    assert passed_over_text(images.passed_over) == "1 .tar (to read an archive, name it itself)"
    for number in range(4):
        shutil.copy(folder / "backup.tar", folder / f"{number}.tar")
    shards = open_images(Data(path=str(folder)))  # five archives and three pictures of what is in them
    assert len(shards) == 5
    assert shards.passed_over == {"images beside the shards": 3}
    assert len(open_images(Data(path=str(folder), kind="image_folder"))) == 3


def test_suffixes_that_pillow_reads_are_taken(tmp_path: Path) -> None:
    folder = few(tmp_path, 1, ".jfif", format="JPEG")
    for suffix, feature in ((".avif", "avif"), (".jp2", "jpg_2000")):
        if features.check(feature):
            few(folder, 1, suffix)
    few(folder, 1, ".JPE", format="JPEG")
    images = open_images(Data(path=str(folder)))
    assert len(images) == len(list(folder.iterdir()))
    for i in range(len(images)):
        assert images.picture(i).mode == "RGB"


def test_heic_is_read_by_its_plugin_or_said_to_need_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few(tmp_path, 1)
    (tmp_path / "phone.heic").write_bytes(b"ftypheic" + bytes(8))
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    forget_plugins()
    images = open_images(Data(path=str(tmp_path)))
    assert images.names == ["0.png"]
    assert passed_over_text(images.passed_over) == "1 .heic (to read: pip install pillow-heif)"

    for table in ("ID", "OPEN", "EXTENSION"):
        monkeypatch.setattr(Image, table, getattr(Image, table).copy())
    plugin = SimpleNamespace(register_heif_opener=lambda: heif_opener(Image))
    monkeypatch.setitem(sys.modules, "pillow_heif", plugin)
    forget_plugins()
    images = open_images(Data(path=str(tmp_path)))
    assert images.names == ["0.png", "phone.heic"]
    assert images.picture(1).size == (3, 2)
    monkeypatch.undo()
    forget_plugins()


def forget_plugins() -> None:
    decoding._formats.cache_clear()
    decoding.suffixes.cache_clear()


def heif_opener(pillow: Any) -> None:
    def opened(file: Any, name: str) -> Any:
        return Image.new("RGB", (3, 2))

    pillow.register_open("HEIF", opened, lambda start: start.startswith(b"ftypheic"))
    pillow.register_extensions("HEIF", [".heic"])


def test_one_image_is_a_set_of_one(tmp_path: Path) -> None:
    few(tmp_path, 2)
    (tmp_path / "0.png").rename(tmp_path / "a [1].png")
    assert names(tmp_path / "a [1].png") == ["a [1].png"]


def test_a_folder_without_images_says_what_lies_there(tmp_path: Path) -> None:
    few(tmp_path / ".hidden", 1)
    (tmp_path / "all.zip").touch()
    with pytest.raises(DataError, match=r"holds no images .*, but 1 .zip \(to read an archive.*, 1 folders that are"):
        open_images(Data(path=str(tmp_path)))


def test_names_that_are_no_utf8_are_names(
    tmp_path: Path, recipe: Callable[..., dict[str, Any]], train: Callable[..., tuple[Path, list[Any]]]
) -> None:
    folder = few(tmp_path / os.fsdecode(b"caf\xe9"), 10)
    (folder / "0.png").rename(folder / os.fsdecode(b"z\xe9.png"))
    (folder / os.fsdecode(b"y\xe9.png")).write_bytes(b"no image")
    images = open_images(Data(path=str(folder)))
    assert images.names[-1] == "z\udce9.png"
    assert images.picture(10).size == (8, 8)
    with pytest.raises(DataError, match="y\udce9" r"[.]png cannot be read as an image"):
        images.picture(9)
    content = recipe(data={"path": str(folder), "skip_damaged": True, "validation": 2}, train={"steps": 2})
    content["log"]["tensorboard"] = True
    content["output"] = str(tmp_path / os.fsdecode(b"run\xe9"))
    run, told = train(content)
    assert any(event.text.startswith("no TensorBoard: its writer takes no folder") for event in told)
    assert json.loads((run / "run.json").read_text())["data"]["path"] == str(folder)
    assert "caf\\udce9" in (run / "report.md").read_text()
    train({**content, "train": {**content["train"], "steps": 4}})  # its own recipe and journal are read back
    assert len((run / "metrics.jsonl").read_text().splitlines()) >= 4


def test_a_run_says_once_what_was_passed_over(
    pictures: Path, tmp_path: Path, recipe: Callable[..., dict[str, Any]], train: Callable[..., tuple[Path, list[Any]]]
) -> None:
    folder = tmp_path / "d"
    shutil.copytree(pictures, folder)
    few(folder / ".cache", 1)
    (folder / "notes.txt").touch()
    run, told = train(recipe(data={"path": str(folder)}, train={"steps": 2}))
    said = [event.text for event in told if event.kind == "said" and "passed over" in event.text]
    assert said == [f"passed over: 1 .txt, 1 {HIDDEN}"]
    assert json.loads((run / "run.json").read_text())["data"]["passed_over"] == {".txt": 1, HIDDEN: 1}
