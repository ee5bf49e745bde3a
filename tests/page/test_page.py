"""A report as a page: whole in itself, safe whatever a model is called, and small."""

from __future__ import annotations

import base64
import hashlib
import json
import random
import re
import tomllib
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import prismify
from prismify.page import HTML_NAME, document_of, embedded_picture, page_text, unpacked
from prismify.page.pictures import MOST_BYTES
from prismify.scanning import join_reports
from tests.page.conftest import HOSTILE, layer, report_of

ROOT = Path(__file__).parents[2]
#: Attributes by which a page would load or lead somewhere.
LEADING = {"src", "href", "srcset", "data", "action", "poster", "background", "xlink:href"}


class Page(HTMLParser):
    """What a browser finds: tags with their attributes, and the text in each kind of element."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self._open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        while self._open and self._open.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        if self._open:
            self.texts.append((self._open[-1], data))

    def inside(self, tag: str) -> list[str]:
        return [text for kind, text in self.texts if kind == tag]

    @property
    def document(self) -> Any:
        return json.loads(self.inside("script")[0])


def test_the_data_come_back_as_they_were(hostile: dict[str, Any], large: dict[str, Any]) -> None:
    for report in (hostile, large):
        found = Page(page_text(document_of(report))).document["report"]
        rows = unpacked(found["layers"])
        assert [{k: v for k, v in row.items() if k != "becomes"} for row in rows] == json.loads(
            json.dumps(report["layers"])
        )
        assert {row["becomes"] for row in rows if row["decision"] == "keep"} == {""}
        assert all("DeepPrism 3" in row["becomes"] for row in rows if row["decision"] == "replace")
        for key in ("parameters", "macs", "kept", "notes", "capture", "model", "source", "other_parameters"):
            assert found[key] == json.loads(json.dumps(report[key]))


def test_nothing_that_a_model_says_is_markup(hostile: dict[str, Any]) -> None:
    run = {"name": HOSTILE, "facts": [[HOSTILE, HOSTILE]], "losses": {HOSTILE: []}, "measured": {}, "pictures": []}
    page = Page(page_text(document_of(hostile, runs=[run])))
    assert [attributes for tag, attributes in page.tags if tag == "script"] == [
        {"type": "application/json", "id": "document"},
        {},
    ]
    assert not [tag for tag, _ in page.tags if tag in ("img", "iframe", "object", "embed", "link", "base", "form")]
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]
    assert page.inside("h1") == [HOSTILE]
    assert page.document["runs"] == [run]


def test_it_loads_nothing_and_leads_nowhere(large: dict[str, Any]) -> None:
    page = Page(page_text(document_of(large)))
    leading = {value for _, attributes in page.tags for name, value in attributes.items() if name in LEADING}
    assert leading == {"#layers"}
    style, (_, script) = page.inside("style")[0], page.inside("script")
    assert not re.search(r"url\(|@import|image-set|src\(", style)
    assert set(re.findall(r"\w+://[^\s\"'`]+", style + script)) == {
        "http://www.w3.org/2000/svg"
    }  # a name, never asked for
    assert not re.search(
        r"\b(fetch|XMLHttpRequest|WebSocket|EventSource|sendBeacon|import|innerHTML|eval)\b\s*[(=]", script
    )


def test_the_policy_allows_the_style_and_the_script_in_it_and_nothing_else(hostile: dict[str, Any]) -> None:
    page = Page(page_text(document_of(hostile)))
    (policy,) = [a["content"] for tag, a in page.tags if tag == "meta" and a.get("http-equiv")]
    style, (_, script) = page.inside("style")[0], page.inside("script")
    style_hash, script_hash = (
        f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'" for text in (style, script)
    )
    assert policy == (
        f"default-src 'none'; style-src {style_hash}; script-src {script_hash}; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    assert not [attributes for _, attributes in page.tags if "style" in attributes]  # which the policy would not take


def test_two_thousand_layers_with_pictures_stay_below_a_megabyte(large: dict[str, Any], tmp_path: Path) -> None:
    noise = random.Random(0).randbytes(3 * 600 * 300)
    Image.frombytes("RGB", (600, 300), noise).save(tmp_path / "noise.png")
    picture = embedded_picture(tmp_path / "noise.png")
    assert picture is not None
    assert picture["source"].startswith("data:image/jpeg;base64,")
    assert len(base64.b64decode(picture["source"].partition(",")[2])) <= MOST_BYTES
    points = [[step, 1 / (1 + step)] for step in range(240)]
    shown = [{"what": "Originals above reconstructions", "step": step, **picture} for step in (1, 2, 3)]
    run = {
        "name": "run",
        "facts": [],
        "losses": {f"loss {n}": points for n in range(8)},
        "measured": {},
        "pictures": shown,
    }
    assert len(page_text(document_of(large)).encode()) < 400_000
    assert len(page_text(document_of(large, runs=[run])).encode()) <= 1_000_000


def test_a_small_picture_stays_as_it_is_and_damaged_ones_are_left_out(tmp_path: Path) -> None:
    Image.new("RGB", (8, 4)).save(tmp_path / "small.png")
    found = embedded_picture(tmp_path / "small.png")
    assert found is not None
    assert (found["width"], found["height"]) == (8, 4)
    assert (
        base64.b64decode(found["source"].removeprefix("data:image/png;base64,"))
        == (tmp_path / "small.png").read_bytes()
    )
    Image.frombytes("RGB", (60, 60), random.Random(0).randbytes(60 * 60 * 3)).save(tmp_path / "whole.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "whole.png").read_bytes()[:5000])
    (tmp_path / "page.png").write_text("<svg onload=alert(1)>")
    assert embedded_picture(tmp_path / "cut.png") is None
    assert embedded_picture(tmp_path / "page.png") is None
    assert embedded_picture(tmp_path / "none.png") is None


def test_what_is_not_a_number_and_names_that_are_not_utf_8_are_written(tmp_path: Path) -> None:
    report = report_of([layer("conv\udce9", 1)], source="caf\udce9.py")
    report["parameters"]["ratio"] = float("nan")
    text = page_text(document_of(report))
    (tmp_path / "page.html").write_text(text, encoding="utf-8")
    found = Page(text).document["report"]
    assert found["parameters"]["ratio"] is None
    assert found["source"] == "caf\udce9.py"


def test_a_pipeline_is_one_page() -> None:
    parts = {name: report_of([layer("conv", 1), layer("out", 3)], name=name) for name in ("unet", "vae")}
    page = Page(page_text(document_of(join_reports(parts, "folder", ["scheduler"]))))
    assert page.inside("h1") == ["folder"]
    assert {name: len(unpacked(part["layers"])) for name, part in page.document["report"]["parts"].items()} == {
        "unet": 2,
        "vae": 2,
    }


def test_runs_of_a_model_that_was_not_converted_have_a_page() -> None:
    run = {"name": "dense", "facts": [], "losses": {}, "measured": {}, "pictures": []}
    page = Page(page_text(document_of(None, runs=[run])))
    assert page.inside("h1") == ["dense"]
    assert page.document == {"report": None, "search": None, "runs": [run]}


def test_the_page_without_scripts_says_the_totals(large: dict[str, Any]) -> None:
    page = Page(page_text(document_of(large)))
    assert [t for t in page.inside("th") if t.strip()][-3:] == ["parameters", "multiply-adds", "checkpoint"]
    assert any("does not run" in text for text in page.inside("p"))


def test_what_the_page_is_made_of_comes_with_the_package() -> None:
    stanza = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    room = ROOT / "prismify" / "page"
    packed = {path for pattern in stanza["prismify.page"] for path in room.glob(pattern)}
    assert packed == {path for path in room.iterdir() if path.is_file() and path.suffix != ".py"}


def test_save_writes_it_beside_the_other_reports(tmp_path: Path) -> None:
    from torch import nn

    net = nn.Sequential(nn.Conv2d(3, 16, 3), nn.Conv2d(16, 16, 3), nn.Conv2d(16, 3, 3))
    small = prismify.convert(net, prismify.scan(net))
    prismify.save(small, tmp_path / "out")
    page = Page((tmp_path / "out" / HTML_NAME).read_text(encoding="utf-8"))
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    rows = unpacked(page.document["report"]["layers"])
    assert [row["reason"] for row in rows] == [row["reason"] for row in report["layers"]]
    assert all(row["reason"] for row in rows)
    assert HTML_NAME in json.loads((tmp_path / "out" / "prismify.json").read_text())["files"]


@pytest.mark.parametrize("key", ["parameters", "layers"])
def test_a_report_that_lacks_something_is_an_error(large: dict[str, Any], key: str) -> None:
    with pytest.raises(KeyError):
        page_text(document_of({name: value for name, value in large.items() if name != key}))
