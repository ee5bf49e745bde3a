"""Where images come from: folders, tars, shards, arrays. Each is a list of names and a way to read one."""

from __future__ import annotations

import hashlib
import re
import tarfile
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ...errors import DataError
from ..schema import Data
from .decoding import decode, suffixes
from .folders import image_or_kind, list_images, passed_over_text

_TARS = (".tar", ".tar.gz", ".tgz", ".tar.xz", ".tar.bz2")
#: A compressed tar has no random access, so its images are kept in memory, as they are compressed.
_MOST_BYTES = 4 << 30
_MOST_CLASSES = 1 << 20
#: Bytes of a caption that are read: text encoders take a few hundred words.
_MOST_CAPTION = 1 << 16
#: What stands in front of names from several shards.
_SHARD_NAME = re.compile(r"^[^/]*\.tar/")
_NAMED = 8  # suffixes, of all that can be read
_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")


@dataclass(frozen=True)
class Images:
    """A set of images.

    Args:
        where: what a person named.
        names: one an image, in a fixed order.
        read: the bytes of the image's file, or a uint8 array (H, W, C), by its number.
        data: how they are read: the background, white, and the bound on their size.
        passed_over: kind of what lies beside them -> how many.
        labels: the class of each image, from 0; None where they have none.
        classes: the classes' names, or their numbers in words.
        captions: what is said of an image, by its number; None where nothing is said of any.
    """

    where: str
    names: Sequence[str]
    read: Callable[[int], Any] = field(repr=False)
    data: Data = field(default_factory=Data)
    passed_over: Mapping[str, int] = field(default_factory=dict)
    labels: Sequence[int] | None = field(default=None, repr=False)
    classes: tuple[str, ...] = ()
    captions: Callable[[int], str] | None = field(default=None, repr=False)

    def __len__(self) -> int:
        return len(self.names)

    def picture(self, index: int) -> Image.Image:
        """One image, upright and without alpha: mode RGB or L; or F with white at 255, where it has more levels.

        Raises:
            DataError: it is damaged, too large, or cannot be read; the message names it.
        """
        name = f"{self.where}: {self.names[index]}"
        try:
            return decode(self.read(index), self.data)
        except DataError as error:
            raise DataError(f"{name} {error}, or set data.skip_damaged=true") from error
        except Exception as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            raise DataError(
                f"{name} cannot be read as an image ({reason}); remove it, or set data.skip_damaged=true"
            ) from error

    def fingerprint(self) -> str:
        """A hash of the names, by which a resumed run knows its data again."""
        digest = hashlib.sha256()
        for name in self.names:
            digest.update(name.encode("utf-8", "surrogateescape") + b"\0")
        return digest.hexdigest()[:16]

    def glimpse(self, count: int = 64) -> str:
        """A hash of the bytes of `count` images spread over all, which images of the same names do not share."""
        digest = hashlib.sha256()
        for index in sorted({len(self) * number // count for number in range(count)}):
            found = self.read(index)
            digest.update(found if isinstance(found, bytes) else np.ascontiguousarray(found).tobytes())
        return digest.hexdigest()[:16]

    def subset(self, chosen: Sequence[int]) -> Images:
        """Some of the images, in the order given."""
        labels = None if self.labels is None else [self.labels[i] for i in chosen]
        captions = None if self.captions is None else _Picked(self.captions, chosen)
        names = [self.names[i] for i in chosen]
        return replace(self, names=names, read=_Picked(self.read, chosen), labels=labels, captions=captions)


@dataclass(frozen=True)
class _Picked:
    read: Callable[[int], Any]
    chosen: Sequence[int]

    def __call__(self, index: int) -> Any:
        return self.read(self.chosen[index])


def open_images(data: Data, *, path: str | None = None, select: str | None = None) -> Images:
    """The images that a recipe's `data` names.

    Args:
        path, select: in place of the recipe's own.

    Raises:
        DataError: nothing lies there, or no image does.
    """
    if data.kind == "teacher" and path is None:
        raise DataError("data.kind=teacher is for the recipe diffusion, whose teacher samples: name images instead")
    where, pattern = path or data.path, select if path else select or data.select
    if where is None:
        raise DataError("data.path is not set: name a folder, a tar or an npz of images (--set data.path=...)")
    kind = _kind_of(where) if data.kind == "auto" or path else data.kind
    images = _with_classes_of_folders(_OPENERS[kind](where, data))
    if pattern is not None:
        chosen = [i for i, name in enumerate(images.names) if fnmatchcase(name, pattern)]
        if not chosen:
            raise DataError(f"{where}: no image matches select {pattern!r}; names look like {images.names[0]!r}")
        images = images.subset(chosen)
    return images


def _with_classes_of_folders(images: Images) -> Images:
    """Images without labels that all lie in folders below what a person named: the folder's name is the class."""
    if images.labels is not None:
        return images
    folders = [_SHARD_NAME.sub("", name).rpartition("/")[0] for name in images.names]
    if not all(folders):
        return images
    names = [folder.rpartition("/")[2] for folder in folders]  # train/cat and test/cat are one class
    classes = tuple(sorted(set(names)))
    numbers = {name: number for number, name in enumerate(classes)}
    return replace(images, labels=[numbers[name] for name in names], classes=classes)


def _kind_of(where: str) -> str:
    path = Path(where)
    if _RANGE.search(where):
        return "webdataset"
    if not path.exists():
        raise DataError(f"{where}: no such file or folder")
    if path.is_dir():
        if (path / "cifar-10-batches-py").is_dir():
            return "cifar10"
        shards = len(list(path.glob("*.tar")))
        # A tar among images is one that somebody left there; an image among tars is a preview of them.
        return "webdataset" if shards and shards > len(list_images(path)[0]) else "image_folder"
    if path.suffix == ".npz":
        return "npz"
    if path.name.endswith(_TARS):
        return "tar"
    if path.suffix.lower() in suffixes():
        return "image"
    raise DataError(f"{where} is neither a folder, nor a tar, nor an npz of images, nor an image")


def _folder(where: str, data: Data) -> Images:
    root = Path(where)
    if not root.is_dir():
        raise DataError(f"{where}: no such folder")
    names, passed = list_images(root)
    if not names:
        raise _no_images(where, passed)
    said = [(root / name).with_suffix(".txt").is_file() for name in names]
    captions = _CaptionReader(root, names, said) if any(said) else None
    return Images(where, names, _FileReader(root, names), data, passed, captions=captions)


def _no_images(where: str, passed: Mapping[str, int]) -> DataError:
    beside = f", but {passed_over_text(passed)}" if passed else ""
    common = suffixes()[:_NAMED]
    return DataError(f"{where} holds no images ({', '.join(common)}, {len(suffixes()) - len(common)} more){beside}")


@dataclass(frozen=True)
class _FileReader:
    root: Path
    names: Sequence[str]

    def __call__(self, index: int) -> bytes:
        return (self.root / self.names[index]).read_bytes()


@dataclass(frozen=True)
class _CaptionReader:
    """The text beside an image, under its name: 001.txt beside 001.jpg."""

    root: Path
    names: Sequence[str]
    said: Sequence[bool]

    def __call__(self, index: int) -> str:
        if not self.said[index]:
            return ""
        path = (self.root / self.names[index]).with_suffix(".txt")
        try:
            with path.open("rb") as file:
                return file.read(_MOST_CAPTION).decode("utf-8", "replace").strip()
        except OSError as error:
            raise DataError(f"{path} cannot be read ({error.strerror})") from error


def _npz(where: str, data: Data) -> Images:
    try:
        with np.load(where, allow_pickle=False) as content:
            keys = list(content.files)
            array = content["images" if "images" in keys else keys[0]]
            labels, captions = (_readable(content, name) for name in ("labels", "captions"))
    except Exception as error:
        raise DataError(f"{where} is damaged or no npz file ({' '.join(str(error).split())[:120]})") from error
    if array.dtype != np.uint8 or array.ndim not in (3, 4) or (array.ndim == 4 and array.shape[-1] not in (1, 3)):
        raise DataError(f"{where}: images are {array.dtype} {array.shape}, expected uint8 (N, H, W) or (N, H, W, 3)")
    if array.ndim == 4 and array.shape[-1] == 1:
        array = array[..., 0]
    if not len(array):
        raise DataError(f"{where} holds no images")
    images = Images(where, [f"{i}" for i in range(len(array))], array.__getitem__, data)
    if captions is not None and captions.shape == (len(array),) and captions.dtype.kind == "U":
        images = replace(images, captions=_Texts(captions.tolist()))
    if labels is None or not _are_classes(labels, len(array)):  # which only conditional models miss
        return images
    classes = tuple(map(str, range(int(labels.max()) + 1)))
    return replace(images, labels=labels.astype(np.int64).tolist(), classes=classes)


@dataclass(frozen=True)
class _Texts:
    texts: Sequence[str]

    def __call__(self, index: int) -> str:
        return self.texts[index]


def _readable(content: Any, name: str) -> Any:
    """An array of an npz, or None where it is not there or not to be read (objects), which not all commands need."""
    try:
        return content[name] if name in content.files else None
    except ValueError:
        return None


def _are_classes(labels: Any, count: int) -> bool:
    """Whether an array holds a whole number from 0 for each image, and none so large that it is no class."""
    if labels.shape != (count,) or labels.dtype.kind not in "iuf":
        return False
    return bool(np.all((labels >= 0) & (labels < _MOST_CLASSES) & (labels % 1 == 0)))


def _cifar10(where: str, data: Data) -> Images:
    import importlib

    module = importlib.import_module("prismify.families.torchvision_data")
    array, labels, classes = module.cifar10(Path(where), train=data.split == "train")
    names = [f"{data.split}/{i}" for i in range(len(array))]
    return Images(where, names, array.__getitem__, data, labels=labels, classes=classes)


def _tar(where: str, data: Data) -> Images:
    if where.endswith(".tar"):
        return _shards(where, data)
    names: list[str] = []
    contents: list[bytes] = []
    size = 0
    passed: Counter[str] = Counter()
    for name, _, length, file in _members(Path(where), "r:*", passed):
        size += length
        if size > _MOST_BYTES:
            raise DataError(f"{where} holds more than {_MOST_BYTES >> 30} GiB compressed: unpack it, or make it a .tar")
        assert file is not None
        names.append(name)
        contents.append(file.read())
    if not names:
        raise _no_images(where, passed)
    order = sorted(range(len(names)), key=names.__getitem__)
    return Images(where, [names[i] for i in order], [contents[i] for i in order].__getitem__, data, passed)


def _shards(where: str, data: Data) -> Images:
    """Plain tars, read in place: the offset of every image is found once, and any image can be read at any time.

    That is what makes a run over shards shuffle fully and go on exactly where it stopped.
    """
    paths = _shard_paths(where)
    names: list[str] = []
    spans: list[tuple[int, int, int]] = []
    passed: Counter[str] = Counter()
    for number, path in enumerate(paths):
        for name, offset, length, _ in _members(path, "r:", passed):
            names.append(f"{path.name}/{name}" if len(paths) > 1 else name)
            spans.append((number, offset, length))
    if not names:
        raise _no_images(where, passed)
    beside = len(list_images(Path(where))[0]) if Path(where).is_dir() else 0
    passed.update({"images beside the shards": beside} if beside else {})
    return Images(where, names, _SpanReader(paths, np.array(spans, dtype=np.int64)), data, passed)


@dataclass(frozen=True)
class _SpanReader:
    paths: Sequence[Path]
    spans: Any  # (N, 3): which file, from where, how long

    def __call__(self, index: int) -> bytes:
        number, offset, length = (int(v) for v in self.spans[index])
        with self.paths[number].open("rb") as file:
            file.seek(offset)
            content = file.read(length)
        if len(content) != length:
            raise OSError(f"{self.paths[number].name} ends after {len(content)} of {length} bytes")
        return content


def _shard_paths(where: str) -> list[Path]:
    found = _RANGE.search(where)
    if found is None:
        path = Path(where)
        paths = sorted(path.glob("*.tar")) if path.is_dir() else [path]
        if not paths:
            raise DataError(f"{where} holds no .tar shards")
    else:
        first, last = found.groups()
        numbers = range(int(first), int(last) + 1)
        paths = [Path(where[: found.start()] + f"{n:0{len(first)}d}" + where[found.end() :]) for n in numbers]
    for path in paths:
        if not path.is_file():
            raise DataError(f"{path}: no such shard")
    return paths


def _members(path: Path, mode: Any, passed: Counter[str]) -> Iterable[tuple[str, int, int, Any]]:
    """Name, offset, length and opened content of each image in a tar; the rest is counted in `passed`."""
    try:
        with tarfile.open(path, mode) as tar:
            for member in tar:
                if not member.isfile():
                    continue
                kind = image_or_kind(member.name)
                if kind is not None:
                    passed[kind] += 1
                    continue
                content = tar.extractfile(member) if mode != "r:" else None
                yield member.name.removeprefix("./"), member.offset_data, member.size, content
    except (tarfile.TarError, OSError, EOFError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path} is damaged or no tar ({' '.join(str(error).split())[:120]})") from error


def _image(where: str, data: Data) -> Images:
    path = Path(where)
    return Images(str(path.parent), [path.name], _FileReader(path.parent, [path.name]), data)


_OPENERS: dict[str, Callable[[str, Data], Images]] = {
    "image": _image,
    "image_folder": _folder,
    "tar": _tar,
    "npz": _npz,
    "webdataset": _shards,
    "cifar10": _cifar10,
}
