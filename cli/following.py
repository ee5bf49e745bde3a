"""What comes next: every command that ends well names the one that follows, on stderr."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

_FLAGS = re.compile(r"^#\s+prismify train recipe\.yaml((?: --trust-code| --allow [\w.]+)*) --set", re.MULTILINE)


def next_step(*words: object) -> None:
    """Name the command that follows; its words are quoted where a shell asks for that."""
    print(f"next: prismify {' '.join(shlex.quote(str(word)) for word in words)}", file=sys.stderr)


def after_conversion(folder: Path, parts: Collection[str] | None, *, ours: bool = False) -> list[object]:
    """What follows a conversion: the recipe that retrains it, or how fast it has become where there is none.

    Args:
        parts: of a pipeline, those that were converted.
        ours: this process wrote the folder, so that what its recipe asks to be allowed is true. What a stranger's
            recipe asks for is nobody's advice.
    """
    folders = [folder / part for part in parts] if parts else [folder]
    for one in folders:
        if (recipe := one / "recipe.yaml").is_file():
            found = _FLAGS.search(recipe.read_text(encoding="utf-8")) if ours else None
            flags = [*(found[1].split() if found else ()), *(registering(one) if ours else ())]
            return ["train", recipe, *flags, "--set", "data.path=IMAGES"]
    return ["bench", folders[0]]


def registering(folder: Path) -> list[str]:
    """`--import FILE` for every file that registers an operator of the folder that this process has written."""
    from ..checkpoint.folder import OPERATORS_KEY
    from ..checkpoint.manifest import MANIFEST_NAME, read_manifest

    kinds = read_manifest(folder).get(OPERATORS_KEY, {}) if (folder / MANIFEST_NAME).is_file() else {}
    modules = (sys.modules.get(str(kind).rpartition(".")[0]) for kind in kinds.values())
    files = dict.fromkeys(file for module in modules if (file := getattr(module, "__file__", None)) is not None)
    return [word for file in files for word in ("--import", _from_here(file))]


def _from_here(file: str) -> str:
    """A file's path from the working directory where it lies below that."""
    path = Path(file)
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else file


def after_report(folder: Path, name: str, report: Mapping[str, Any], *, is_denoiser: bool) -> list[object]:
    """What follows the report of a folder: using a model that was trained, training one that was not.

    Args:
        name: what the person called the folder.
        report: as it was shown; of a damaged one as much as there is.
    """
    notes, parts = report.get("notes"), read_parts(folder)
    if not any(str(note).startswith("Trained with the recipe") for note in (notes if isinstance(notes, list) else ())):
        if str(folder) != name:  # in a hub's cache, which is no place for a run
            return ["scan" if parts else "bench", name]
        return after_conversion(folder, parts)
    return ["sample", name, "-o", "samples"] if is_denoiser else ["evaluate", name, "--data", "IMAGES"]


def read_parts(folder: Path) -> Collection[str] | None:
    """Of a pipeline's folder, the parts that were converted."""
    from ..checkpoint.manifest import MANIFEST_NAME, read_manifest

    parts: Collection[str] | None = read_manifest(folder).get("parts") if (folder / MANIFEST_NAME).is_file() else None
    return parts


def typed(call: Any, without: Collection[str] = ()) -> list[str]:
    """The words that the person gave the running command, argument first, without some of its options.

    Args:
        call: the command's typer.Context.
        without: names of the function's parameters.
    """
    arguments: list[str] = []
    options: list[str] = []
    for one in call.command.params:
        value = call.params.get(one.name)
        source = call.get_parameter_source(one.name)
        if one.name in without or source is None or source.name != "COMMANDLINE" or value is None:
            continue
        values = value if isinstance(value, (list, tuple)) else [value]
        if one.param_type_name == "argument":
            arguments += map(str, values)
        elif one.is_flag:
            options += [min(one.opts, key=len)] * bool(value)
        else:
            options += [word for each in values for word in (min(one.opts, key=len), str(each))]
    return [*arguments, *options]
