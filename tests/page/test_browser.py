"""The page in a browser: sorted, filtered, its picture switched and walked through, without a complaint."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from prismify.page import document_of, page_text
from prismify.scanning import join_reports
from tests.page.browser import Browser, chromium
from tests.page.conftest import HOSTILE, layer, report_of

pytestmark = pytest.mark.slow

_NAMES = "[...document.querySelectorAll('.layers tbody tr:not([hidden]) th')].map((cell) => cell.textContent)"
_AFTER = """new Promise((done) => {
  const began = performance.now();
  %s;
  requestAnimationFrame(() => setTimeout(() => done(performance.now() - began)));
})"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if (path := chromium()) is None:
        pytest.skip("no Chromium is installed here")
    started = Browser(path)
    yield started
    started.close()


@pytest.fixture
def large_page(large: dict[str, Any], browser: Browser, tmp_path: Path) -> Browser:
    """2,000 layers, shown."""
    run = {
        "name": "run",
        "facts": [["seed", "0"]],
        "losses": {"reconstruction": [[step, 1 / step] for step in range(1, 50)]},
        "measured": {"psnr": [[1, 20.0], [2, None], [3, 24.0]]},
        "pictures": [],
    }
    measure = {"name": "error", "text": "error", "counts": False, "cells": [[0.1, None], [0.0, 2.0]]}
    search = {"told": ["Told."], "how": "tried", "of": "block", "rows": ["a", "b"], "columns": ["x", "y"],
              "measures": {"error": measure}}  # fmt: skip
    (tmp_path / "large.html").write_text(page_text(document_of(large, search=search, runs=[run])), encoding="utf-8")
    browser.errors.clear()
    browser.asked.clear()
    browser.open(tmp_path / "large.html")
    return browser


def timed(browser: Browser, script: str) -> float:
    """Milliseconds until the frame after a change is there."""
    return float(browser.run(_AFTER % script))


def search_for(text: str) -> str:
    box = "document.querySelector('input[type=search]')"
    return f"{box}.value = {json.dumps(text)}; {box}.dispatchEvent(new Event('input', {{bubbles: true}}))"


def choose(label: str, value: str) -> str:
    found = f"[...document.querySelectorAll('label')].find((each) => each.textContent.startsWith({json.dumps(label)}))"
    return (
        f"{{ const select = {found}.querySelector('select'); select.value = {json.dumps(value)}; "
        "select.dispatchEvent(new Event('change', {bubbles: true})); }"
    )


def test_it_sorts_filters_and_switches(large_page: Browser, large: dict[str, Any]) -> None:
    browser, rows = large_page, large["layers"]
    assert browser.run(_NAMES) == [row["name"] for row in rows]
    heads = "document.querySelectorAll('.layers thead button')"
    sorts = "[...document.querySelectorAll('.layers thead th')].map((head) => head.getAttribute('aria-sort'))"
    times = {"sort by parameters": timed(browser, f"{heads}[6].click()")}
    assert browser.run(_NAMES) == [r["name"] for r in sorted(rows, key=lambda r: -r["parameters_before"])]
    assert browser.run(sorts) == ["none"] * 6 + ["descending"] + ["none"] * 3
    times["sort by name"] = timed(browser, f"{heads}[0].click()")
    assert browser.run(sorts)[0] == "ascending"
    assert browser.run(_NAMES)[2].startswith("transformer.blocks.0.attention.layers.4")  # 2 before 10
    browser.run(f"{heads}[0].click(); {heads}[0].click()")
    assert browser.run(_NAMES) == [row["name"] for row in rows]

    times["filter"] = timed(browser, search_for("blocks.7. Attention"))
    assert browser.run(_NAMES) == [r["name"] for r in rows if "blocks.7.attention" in r["name"]]
    assert browser.run("document.querySelector('.found').textContent").startswith("10 of 2,000 layers")
    times["filter to none"] = timed(browser, search_for("nothing is called so"))
    assert browser.run(_NAMES) == []
    times["filter off"] = timed(browser, search_for(""))
    browser.run(choose("Decision", "input_output"))
    assert browser.run(_NAMES) == [r["name"] for r in rows if r["decision"] == "keep"]
    browser.run(choose("Role", "inner"))
    assert browser.run(_NAMES) == []
    browser.run(choose("Role", "") + choose("Decision", ""))

    title = "document.querySelector('.map title').textContent"
    for count, word in (("macs", "multiply-adds"), ("parameters", "parameters")):
        for state, words in (("before", "before"), ("after", "after"), ("scale", "after, to scale")):
            times[f"picture {count} {state}"] = timed(
                browser,
                f"document.querySelector('[value={count}]').click(); document.querySelector('[value={state}]').click()",
            )
            assert browser.run(title) == f"{word} of the whole model, {words}"
    print({name: round(ms, 1) for name, ms in times.items()})
    assert max(times.values()) < 1000, times
    assert browser.errors == []
    assert {address.partition(":")[0] for address in browser.asked} == {"file"}
    assert len(set(browser.asked)) == 1


def test_the_keyboard_leads_through_it(large_page: Browser) -> None:
    browser = large_page
    browser.key("Tab", 9)
    assert browser.run("document.activeElement.textContent") == "Skip to the layers"
    assert browser.run("getComputedStyle(document.activeElement).left") != "-9990px"
    browser.key("Enter", 13)
    assert browser.run("document.activeElement.id") == "layers"
    browser.run("document.querySelector('.modules button').focus()")
    browser.key("Enter", 13)
    assert browser.run("document.querySelector('.trail [aria-current]').textContent") != "whole model"
    assert "is shown" in browser.run("document.querySelector('#picture [role=status]').textContent")
    browser.run("document.querySelector('.trail button').focus()")
    browser.key("Enter", 13)
    assert browser.run("document.querySelector('.trail [aria-current]').textContent") == "whole model"
    browser.run("document.querySelector('.layers thead button').focus()")
    browser.key("Enter", 13)
    assert browser.run("document.querySelector('.layers thead th').getAttribute('aria-sort')") == "ascending"
    assert browser.errors == []


def test_a_screen_reader_finds_names_for_everything(large_page: Browser, large: dict[str, Any], tmp_path: Path) -> None:
    """Rows out of sight are among them, once somebody listens: that is what the flag says."""
    reader = Browser(str(chromium()), "--force-renderer-accessibility")
    try:
        reader.open(tmp_path / "large.html")
        nodes = reader.call("Accessibility.getFullAXTree")["nodes"]
    finally:
        reader.close()
    found: dict[str, list[str]] = {}
    for node in nodes:
        if not node.get("ignored"):
            found.setdefault(node.get("role", {}).get("value"), []).append(node.get("name", {}).get("value", ""))
    for role in ("button", "radio", "searchbox", "combobox", "columnheader", "rowheader", "table", "region"):
        assert found.get(role), role
        assert all(found[role]), role
    assert {row["name"] for row in large["layers"]} <= set(found["rowheader"])
    pictures = [name for role in ("image", "img", "graphics-document") for name in found.get(role, [])]
    assert any("parameters of the whole model" in name for name in pictures)
    assert {"parameters before", "parameters after", "multiply-adds before", "multiply-adds after"} <= set(
        found["button"]
    )


@pytest.mark.parametrize("width", [390, 800, 1280])
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_it_fits_every_width_in_light_and_dark(large_page: Browser, tmp_path: Path, width: int, dark: bool) -> None:
    large_page.open(tmp_path / "large.html", width=width, dark=dark)
    assert large_page.run("document.documentElement.scrollWidth") <= width
    paper, ink = large_page.run("['backgroundColor', 'color'].map((key) => getComputedStyle(document.body)[key])")
    assert (sum(map(int, paper[4:-1].split(","))) < 200) is dark
    assert (sum(map(int, ink[4:-1].split(","))) > 500) is dark
    assert large_page.errors == []


def test_a_pipeline_shows_its_parts(browser: Browser, tmp_path: Path) -> None:
    parts = {name: report_of([layer("conv", 1), layer("attention", 2), layer("attention.q", 3)]) for name in ("a", "b")}
    (tmp_path / "parts.html").write_text(page_text(document_of(join_reports(parts, "folder", []))), encoding="utf-8")
    browser.errors.clear()
    browser.open(tmp_path / "parts.html")
    assert browser.run(_NAMES) == [f"{part}.{name}" for part in "ab" for name in ("conv", "attention", "attention.q")]
    modules = "[...document.querySelectorAll('.modules tbody th')].map((cell) => cell.textContent)"
    assert browser.run(modules) == ["a", "b"]
    browser.run("document.querySelector('.modules button').click()")
    assert browser.run(modules) == ["attention", "conv", "(norms and others)"]
    browser.run("document.querySelector('.modules button').click()")
    assert browser.run(modules) == ["q", "(itself)"]
    browser.run("document.querySelector('#kept button').click()")
    assert browser.run(_NAMES) == ["a.conv", "a.attention", "b.conv", "b.attention"]
    assert browser.errors == []


def test_training_without_a_report_is_shown(browser: Browser, tmp_path: Path) -> None:
    run = {
        "name": "dense",
        "facts": [["seed", "0"]],
        "losses": {"output": [[1, None], [2, 3.0]]},
        "measured": {},
        "pictures": [],
    }
    (tmp_path / "run.html").write_text(page_text(document_of(None, runs=[run])), encoding="utf-8")
    browser.errors.clear()
    browser.open(tmp_path / "run.html")
    shown = "[...document.querySelectorAll('main > section:not([hidden]) > h2')].map((head) => head.textContent)"
    assert browser.run(shown) == ["Training"]
    assert browser.errors == []


def test_a_hostile_model_stays_text(hostile: dict[str, Any], browser: Browser, tmp_path: Path) -> None:
    (tmp_path / "hostile.html").write_text(page_text(document_of(hostile)), encoding="utf-8")
    browser.errors.clear()
    browser.open(tmp_path / "hostile.html")
    assert browser.run("document.querySelector('h1').textContent") == HOSTILE
    assert browser.run(_NAMES) == [f"{HOSTILE}.{n}" for n in range(4)]
    assert browser.run("document.querySelectorAll('script').length") == 2
    assert browser.run("document.querySelectorAll('img').length") == 0
    assert browser.errors == []


def test_what_is_not_in_the_policy_does_not_run(browser: Browser, large: dict[str, Any], tmp_path: Path) -> None:
    more = "<script>window.strange = true</script><img src='https://example.invalid/x.png'></body>"
    (tmp_path / "more.html").write_text(page_text(document_of(large)).replace("</body>", more), encoding="utf-8")
    browser.errors.clear()
    browser.open(tmp_path / "more.html")
    assert browser.run("window.strange === undefined")
    assert ["Content Security Policy" in text for text in browser.errors] == [True, True]
