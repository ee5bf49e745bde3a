"""What is told of a run: its facts, its curves and its pictures, as plain data for a page."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...checkpoint.manifest import read_json
from ...page import embedded_picture
from .journal import read_records

#: The losses that are drawn, in this order, where a run has them.
LOSSES = (
    "reconstruction",
    "perceptual",
    "kl",
    "adversarial",
    "discriminator",
    "output",
    "latent",
    "features",
    "blocks",
    "error",
)
#: The file that says what a run is.
FACTS_NAME = "run.json"
_MOST_POINTS, _MOST_MEASURED = 240, 60
_PICTURE = re.compile(r"step-(\d{1,15})\.png")


def is_run(folder: Path) -> bool:
    """Whether a folder is a run's."""
    return (folder / FACTS_NAME).is_file()


def run_section(folder: Path, *, pictures: int = 3) -> dict[str, Any]:
    """A run as a page shows it.

    Args:
        pictures: how many of its pictures, from the first to the last.

    Returns:
        name, facts (pairs of words), losses and measured (name -> pairs of a step and a number or None), pictures.

    Raises:
        SourceError: `run.json` is missing or damaged.
        KeyError: it lacks what runs write there.
    """
    facts, records = read_json(folder / FACTS_NAME), read_records(folder)
    train = thinned([r for r in records if r.get("kind") == "train"], _MOST_POINTS)
    measured = thinned([r for r in records if r.get("kind") == "validation"], _MOST_MEASURED)
    names = [key for key in (measured[-1] if measured else {}) if key not in ("step", "kind")]
    return {
        "name": folder.name,
        "facts": [list(pair) for pair in facts_of(facts, records)],
        "losses": {name: _points(train, name) for name in LOSSES if any(name in row for row in train)},
        "measured": {name: _points(measured, name) for name in names},
        "pictures": _pictures(
            folder / "images", pictures, str(facts.get("pictures", "Originals above reconstructions"))
        ),
    }


def facts_of(
    facts: Mapping[str, Any], records: Sequence[Mapping[str, Any]], *, quote: str = ""
) -> list[tuple[str, str]]:
    """What a run was, as pairs of words.

    Args:
        facts: `run.json`.
        records: of the run.
        quote: goes around paths and commands.
    """
    train = [r for r in records if r.get("kind") == "train"]
    return [
        ("model", f"{facts['model']['class']}, {facts['model']['parameters']:,} parameters"),
        ("images", f"{facts['data']['images']:,} from {quote}{facts['data']['path']}{quote}"),
        ("steps", f"{train[-1]['step']:,} of {facts['steps']:,}" if train else "none"),
        ("training time", f"{train[-1]['seconds'] / 60:.1f} min" if train else "none"),
        ("hardware", f"{facts['hardware']}, {facts['processes']} process(es)"),
        ("learning rate", f"{facts['learning_rate']:.4g}"),
        ("seed", str(facts["seed"])),
        ("perceptual loss", str(facts.get("perceptual", "none"))),
        ("versions", ", ".join(f"{k} {v}" for k, v in facts["versions"].items())),
        ("command", f"{quote}{' '.join(map(str, facts['command']))}{quote}"),
    ]


def thinned(rows: Sequence[Any], most: int) -> list[Any]:
    """At most about `most` of the rows, the last among them."""
    stride = max(1, len(rows) // most)
    return [row for i, row in enumerate(rows) if i % stride == 0 or i == len(rows) - 1]


def _points(rows: Sequence[Mapping[str, Any]], name: str) -> list[list[float | None]]:
    """Pairs of a step and a value to six figures, which is more than a picture shows."""
    pairs = [(row["step"], row[name]) for row in rows if name in row]
    return [[step, float(f"{value:.6g}") if isinstance(value, (int, float)) else None] for step, value in pairs]


def _pictures(folder: Path, most: int, what: str) -> list[dict[str, Any]]:
    files = folder.iterdir() if folder.is_dir() else ()
    found = sorted((int(name[1]), path) for path in files if (name := _PICTURE.fullmatch(path.name)))
    last = len(found) - 1
    places = sorted({last - round(i * last / max(1, most - 1)) for i in range(most)}) if found else []
    shown = [(found[place][0], embedded_picture(found[place][1])) for place in places]
    return [{"what": what, "step": step, **picture} for step, picture in shown if picture is not None]
