"""The card as text: front matter for a hub, and what a reader asks first."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from ...scanning.report import ratio_text
from .escaping import plain, table, words
from .figures import Figures
from .licences import Licence, original_licence, repository_of
from .marks import CARD_NAME, marked

#: What hubs call the tasks of diffusers' pipelines, where the class says it.
_TASKS = {
    "StableDiffusionPipeline": "text-to-image",
    "StableDiffusionXLPipeline": "text-to-image",
    "FluxPipeline": "text-to-image",
    "PixArtAlphaPipeline": "text-to-image",
    "DDPMPipeline": "unconditional-image-generation",
    "DDIMPipeline": "unconditional-image-generation",
}
_TOTALS = (("parameters", "parameters"), ("multiply-adds", "macs"), ("checkpoint bytes", "size_bytes"))


def card_text(
    report: dict[str, Any],
    licence: Licence,
    *,
    name: str | None = None,
    figures: Sequence[Figures] = (),
    recipe: dict[str, Any] | None = None,
    class_name: str | None = None,
) -> str:
    """A folder's card.

    Args:
        report: of the model, or of a pipeline.
        name: on a hub, as `owner/name`, where it has one.
        recipe: what trained it, as plain data; None where nothing did.
        class_name: of a pipeline.
    """
    model = str(report.get("model") or class_name or "pipeline")
    front: dict[str, Any] = {"library_name": "prismify", "tags": ["prismify", "deepprism", "model-compression"]}
    front |= {key: _plain(value) for key, value in licence.front.items()}
    if licence.base_model is not None:
        front["base_model"] = licence.base_model
    if (task := _TASKS.get(model)) is not None:
        front["pipeline_tag"] = task
    head = yaml.safe_dump(front, sort_keys=False, allow_unicode=True, width=1000)
    lines = [f"# {words(name.partition('/')[2] if name else model)}", "", *_opening(report, model, licence), ""]
    lines += table(["", "before", "after", "ratio"], [_total(report, *row) for row in _TOTALS])
    lines += ["", f"Multiply-adds are those of one pass ({words(report['macs'].get('inputs', ''))}).", ""]
    for part, one in report["parts"].items() if "parts" in report else (("", report),):
        lines += _replaced(part, one)
    lines += _measured(figures) + _training(report, recipe) + _licence(licence) + _use(name)
    return marked(f"---\n{head}---\n", "\n".join(lines) + "\n")


def write_card(
    draft: Path,
    report: dict[str, Any],
    origin: dict[str, Any],
    *,
    kept: str | None = None,
    figures: Sequence[Figures] = (),
    recipe: str | None = None,
    class_name: str | None = None,
) -> None:
    """Write a folder's card, and beside it the text of the original's licence.

    Args:
        origin: where the model came from.
        kept: the card that a person edited in the folder that is replaced; it stays.
        recipe: what trained the model, as YAML.
    """
    licence = original_licence(origin)
    if licence.file is not None and not (draft / licence.file.name).exists():
        shutil.copyfile(licence.file, draft / licence.file.name)
    content = yaml.safe_load(recipe) if recipe is not None else None
    text = kept or card_text(report, licence, figures=figures, recipe=content, class_name=class_name)
    (draft / CARD_NAME).write_text(text, encoding="utf-8", errors="backslashreplace")


def _opening(report: dict[str, Any], model: str, licence: Licence) -> list[str]:
    """What it is, in a paragraph."""
    parts = report.get("parts", {"": report})
    layers = sum(part["replaced"]["layers"] for part in parts.values())
    of = f", made from {words(licence.base_model)}," if licence.base_model else ","
    text = (
        f"This is {words(model)}{of} in which prismify replaced {layers:,} layers by smaller operators "
        f"({ratio_text(report['parameters']['ratio'])} fewer parameters)."
    )
    return (
        [text]
        if _is_trained(report)
        else [text, "", "**It is untrained**: a conversion gives the small model, training its pictures."]
    )


def _is_trained(report: dict[str, Any]) -> bool:
    parts = report.get("parts", {"": report})
    return any(str(note).startswith("Trained with") for part in parts.values() for note in part.get("notes", ()))


def _total(report: dict[str, Any], label: str, key: str) -> list[str]:
    row = report[key]
    return [label, f"{row['before']:,}", f"{row['after']:,}", ratio_text(row["ratio"])]


def _replaced(part: str, report: dict[str, Any]) -> list[str]:
    """What took the layers' place, by operator."""
    counts: dict[str, list[int]] = {}
    for row in report["layers"]:
        if row["operator"] is not None:
            count = counts.setdefault(str(row["operator"]["type"]), [0, 0, 0])
            for place, number in enumerate((1, row["parameters_before"], row["parameters_after"])):
                count[place] += number
    title = f"## Replaced: {words(part)}" if part else "## Replaced"
    rows = [[name, *(f"{number:,}" for number in count)] for name, count in sorted(counts.items())]
    kept = sum(group["layers"] for group in report["kept"])
    lines = [title, "", *table(["operator", "layers", "parameters before", "after"], rows), ""]
    return [*lines, f"{kept:,} layers are as they were; `report.md` says why, layer by layer.", ""]


def _measured(figures: Sequence[Figures]) -> list[str]:
    if not figures:
        return []
    lines = ["## Measured", ""]
    for one in figures:
        lines += [*table(["", *one.models], [[metric, *cells] for metric, cells in one.rows]), ""]
        lines += [f"On {words(one.on)}.", ""]
    return lines


def _training(report: dict[str, Any], recipe: dict[str, Any] | None) -> list[str]:
    """How it was trained, by whom it was taught."""
    notes = [str(n) for part in report.get("parts", {"": report}).values() for n in part.get("notes", ())]
    lines = [words(note) for note in notes if note.startswith("Trained with")]
    if recipe is not None and isinstance(teacher := recipe.get("teacher"), dict) and teacher.get("source"):
        lines.append(f"Its teacher was {words(_last(str(teacher['source'])))}.")
    if recipe is not None:
        lines.append("`recipe.yaml` has every setting, and goes on from these weights.")
    return ["## Training", "", *lines, ""] if lines else []


def _licence(licence: Licence) -> list[str]:
    if not licence.front:
        return ["## Licence", "", "The original states none.", ""]
    stated = licence.front.get("license_name") or licence.front["license"]
    stated = ", ".join(stated) if isinstance(stated, list) else stated
    return ["## Licence", "", f"{words(stated)}, as {words(licence.where)} states.", ""]


def _use(name: str | None) -> list[str]:
    place = name or "owner/name"
    else_ = "" if name else "  # once it is on a hub; before, the path of this folder"
    return [
        "## Use",
        "",
        "```python",
        "import prismify",
        "",
        f'model = prismify.load("{place}"){else_}',
        "```",
    ]


def _last(source: str) -> str:
    """A reference or a repository as it is, of a path the last word: a card tells nobody's folders."""
    path = Path(source)
    return (repository_of(path) or path.name) if path.is_absolute() else source


def _plain(value: Any) -> Any:
    return [plain(v) for v in value] if isinstance(value, list) else plain(value)
