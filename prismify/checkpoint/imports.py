"""Import a person's own Python: a file with its neighbours, or a package in the current folder."""

from __future__ import annotations

import ast
import importlib.util
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

from ..errors import SourceError, one_line

#: Top-level name of a neighbour -> the folder it was last imported from.
_FOLDER_OF: dict[str, Path] = {}


@contextmanager
def current_folder() -> Iterator[None]:
    """Let packages of the current folder be imported, after every installed one."""
    here = os.getcwd()
    sys.path.append(here)
    try:
        yield
    finally:
        sys.path.remove(here)


def import_own(place: str) -> ModuleType:
    """The module that a person names, `file.py` or `package.module`, under the name that their own code imports it by.

    Raises:
        SourceError: there is none, it cannot be imported, or another module of that name is there already.
    """
    path = Path(place)
    if path.suffix != ".py":
        with current_folder():
            return _imported_module(place, place)
    if not path.is_file():
        raise SourceError(f"{path}: no such file")
    if (folder := str(path.absolute().parent)) not in sys.path:
        sys.path.append(folder)  # for what it imports later on, too
    module = _imported_module(path.stem, place)
    if Path(getattr(module, "__file__", None) or "").resolve() != path.resolve():
        raise SourceError(
            f"{path} cannot be imported: {path.stem!r} is another module here; give the file another name"
        )
    return module


def _imported_module(name: str, place: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except (Exception, SystemExit) as error:
        raise SourceError(f"{place} cannot be imported: {one_line(error)}") from error


@contextmanager
def python_file(path: Path) -> Iterator[ModuleType]:
    """The module in a Python file; inside, and while it is imported, its neighbours can be imported too.

    Raises:
        SourceError: there is no such file, or it cannot be imported.
    """
    if not path.is_file():
        raise SourceError(f"{path}: no such file")
    folder = path.absolute().parent
    spec = importlib.util.spec_from_file_location(f"prismify_source_{path.stem}", path.absolute())
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    _forget_namesakes(folder)
    _FOLDER_OF.update({neighbour.stem: folder for neighbour in neighbours(path)})
    bytecode, sys.dont_write_bytecode = sys.dont_write_bytecode, True  # a checkpoint's folder stays as it was
    sys.modules[spec.name] = module  # dataclasses and pickling look their module up
    sys.path.insert(0, str(folder))
    try:
        try:
            spec.loader.exec_module(module)
        except (Exception, SystemExit) as error:
            del sys.modules[spec.name]
            text = " ".join(str(error).split())[:300]
            raise SourceError(f"{path} cannot be imported: {type(error).__name__}: {text}") from error
        yield module
    finally:
        sys.path.remove(str(folder))
        sys.dont_write_bytecode = bytecode


def copy_with_neighbours(path: Path, folder: Path) -> None:
    """Copy a Python file, and the files and packages beside it that it imports, into another folder.

    Raises:
        SourceError: the file is missing or is not Python.
    """
    if not path.is_file():
        raise SourceError(f"{path}: no such file")
    for found in [path, *neighbours(path)]:
        if found.is_dir():
            shutil.copytree(found, folder / found.name, ignore=shutil.ignore_patterns("__pycache__", "*.pyc"))
        else:
            shutil.copyfile(found, folder / found.name)


def neighbours(path: Path) -> list[Path]:
    """The files and packages in a Python file's folder that it imports, directly or through each other.

    Raises:
        SourceError: one of them is not Python.
    """
    found: dict[Path, None] = {}
    unread = [path]
    while unread:
        for name in sorted(_imported(unread.pop())):
            file, package = path.parent / f"{name}.py", path.parent / name
            if (package / "__init__.py").is_file() and package not in found:
                found[package] = None
                unread += package.rglob("*.py")
            elif file.is_file() and file not in found and file != path:
                found[file] = None
                unread.append(file)
    return list(found)


def _imported(path: Path) -> set[str]:
    """The top-level names of everything a file imports absolutely."""
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError) as error:
        raise SourceError(f"{path} is not Python: {error}") from error
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names.update(alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.add(node.module.partition(".")[0])
    return names


def _forget_namesakes(folder: Path) -> None:
    """Drop what an earlier file's folder gave, so that this folder's modules of those names are imported."""
    for name, module in list(sys.modules.items()):
        if _FOLDER_OF.get(name.partition(".")[0], folder) != folder:
            file = getattr(module, "__file__", None)
            if file is None or Path(file).is_relative_to(_FOLDER_OF[name.partition(".")[0]]):
                del sys.modules[name]
