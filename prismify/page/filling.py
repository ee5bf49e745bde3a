"""A document in its page: one file that loads nothing, and runs nothing but the scripts it was written with."""

from __future__ import annotations

import base64
import hashlib
import html
import json
from collections.abc import Mapping
from importlib.resources import files
from string import Template
from typing import Any

from ..scanning import human, human_bytes, ratio_text
from ..validation import finite, plain_number
from ..version import __version__

HTML_NAME = "report.html"
#: How a page says who wrote it, so that a later one may take its place.
GENERATOR = "prismify"
#: In the order in which they stand in the page: each uses what is above it.
SCRIPTS = ("elements.js", "treemap.js", "picture.js", "layers.js", "findings.js", "page.js")
#: What would end a script's element, or begin a comment in it, and the two line ends that JavaScript's older readers
#: refuse in a string. JSON reads the escapes back as what they stand for.
_ESCAPED = {ord(sign): f"\\u{ord(sign):04x}" for sign in "<>&\u2028\u2029"}
#: Key in a report, name, and how its numbers are said.
_TOTALS = (
    ("parameters", "parameters", human),
    ("macs", "multiply-adds", human),
    ("size_bytes", "checkpoint", human_bytes),
)


def page_text(document: Mapping[str, Any]) -> str:
    """The page of a document, as `document_of` makes it.

    Nothing in the document is taken for markup: the browser is given it as JSON, and puts it into the page as text.

    Raises:
        KeyError: the report lacks its totals.
    """
    report: Mapping[str, Any] | None = document["report"]
    room = files("prismify.page")
    style = room.joinpath("page.css").read_text(encoding="utf-8")
    script = "\n".join(room.joinpath(name).read_text(encoding="utf-8") for name in SCRIPTS)
    name, source = _heading(document)
    text = Template(room.joinpath("page.html").read_text(encoding="utf-8")).substitute(
        generator=f"{GENERATOR} {__version__}",
        policy=_policy(style, script),
        title=html.escape(name),
        source=html.escape(source),
        known="" if report is not None else "hidden",
        totals="" if report is None else "\n".join(_totals_row(report, *row) for row in _TOTALS),
        style=style,
        data=embedded(document),
        script=script,
    )
    return text.encode("utf-8", "backslashreplace").decode("utf-8")  # lone surrogates, as paths may have them


def _heading(document: Mapping[str, Any]) -> tuple[str, str]:
    """What the page is about, and where that came from."""
    report = document["report"]
    if report is None:
        return ", ".join(str(run["name"]) for run in document["runs"]), "training of a model that was not converted"
    if "parts" in report:
        return str(report["source"]), f"a pipeline with {', '.join(report['parts'])}"
    return str(report["model"]), str(report["source"])


def embedded(document: Mapping[str, Any]) -> str:
    """A document as JSON that may stand in a script's element, whatever it says."""
    text = json.dumps(
        finite(document), ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=plain_number
    )
    return text.translate(_ESCAPED)


def _policy(style: str, script: str) -> str:
    """The Content-Security-Policy: this style, this script, pictures within the page, and nothing else."""
    return (
        f"default-src 'none'; style-src {_hashed(style)}; script-src {_hashed(script)}; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )


def _hashed(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _totals_row(report: Mapping[str, Any], key: str, name: str, text: Any) -> str:
    """One line of the table of totals; its bar is as long as what is left."""
    row = report[key]
    left = 100 * row["after"] / row["before"] if row["before"] else 100
    bar = (
        '<svg class="bar" viewBox="0 0 100 1" preserveAspectRatio="none" aria-hidden="true">'
        f'<rect class="was" width="100" height="1"/><rect class="left" width="{min(100, left):.4g}" height="1"/></svg>'
    )
    before, after = (f'<td role="cell" title="{row[when]:,}">{text(row[when])}</td>' for when in ("before", "after"))
    return (
        f'<tr role="row"><th scope="row" role="rowheader">{name}</th>{before}{after}'
        f'<td role="cell" class="ratio">{ratio_text(row["ratio"])}</td><td aria-hidden="true">{bar}</td></tr>'
    )
