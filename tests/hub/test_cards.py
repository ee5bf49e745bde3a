"""The card of a saved folder: true numbers, a licence that was stated, and nobody's words as markup."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

import prismify
from prismify.checkpoint import load, open_source
from prismify.checkpoint.cards import (
    Licence,
    card_text,
    edited_card,
    evaluation_figures,
    front_matter,
    is_as_written,
    original_licence,
)
from prismify.checkpoint.cards.escaping import plain, words
from prismify.training.engine.ending import run_figures
from tests.hub.conftest import small_autoencoder

MIT = "MIT License\n\nCopyright (c) somebody\n"


def card_of(original: Path, output: Path) -> str:
    """The card of a conversion of a diffusers folder."""
    source = open_source(str(original))
    prismify.save(prismify.convert(source.build()), output, source=source)
    return (output / "README.md").read_text()


@pytest.fixture
def original(tmp_path: Path) -> Path:
    small_autoencoder().save_pretrained(tmp_path / "vae")
    return tmp_path / "vae"


def test_the_numbers_are_the_reports(converted: Path) -> None:
    card = (converted / "README.md").read_text()
    report = json.loads((converted / "report.json").read_text())
    before, after = report["parameters"]["before"], report["parameters"]["after"]
    assert f"| parameters | {before:,} | {after:,} |" in card
    counted = [row["operator"]["type"] for row in report["layers"] if row["operator"]]
    for kind in set(counted):
        assert f"| {kind} | {counted.count(kind)} |" in card
    assert "**It is untrained**" in card
    assert "The original states none." in card
    assert "## Measured" not in card
    assert str(converted.parent) not in card
    assert front_matter(converted / "README.md") == {
        "library_name": "prismify",
        "tags": ["prismify", "deepprism", "model-compression"],
    }
    assert "README.md" in json.loads((converted / "prismify.json").read_text())["files"]


STATED = {
    "card": ({"README.md": "---\nlicense: openrail++\nbase_model: some/one\n---\n"}, {"license": "openrail++"}),
    "config": ({}, {"license": "apache-2.0"}),
    "text": ({"LICENSE": MIT}, {"license": "mit"}),
    "unknown text": (
        {"LICENSE.md": "Ask me"},
        {"license": "other", "license_name": "original", "license_link": "LICENSE.md"},
    ),
}


@pytest.mark.parametrize("case", STATED)
def test_a_stated_licence_is_taken_over(original: Path, tmp_path: Path, case: str) -> None:
    files, expected = STATED[case]
    for name, text in files.items():
        (original / name).write_text(text)
    if case == "config":
        config = json.loads((original / "config.json").read_text())
        (original / "config.json").write_text(json.dumps({**config, "license": "apache-2.0"}))
    card = card_of(original, tmp_path / "out")
    front = front_matter(tmp_path / "out" / "README.md")
    assert {key: value for key, value in front.items() if key.startswith("license")} == expected
    assert front.get("base_model") == ("some/one" if case == "card" else None)
    assert "The original states none" not in card
    for name, text in files.items():
        if name != "README.md":
            assert (tmp_path / "out" / name).read_text() == text
    again = original_licence({"kind": "prismify folder", "path": str(tmp_path / "out")})  # as of a model trained on
    assert again.front == expected


def test_an_edited_card_stays(original: Path, tmp_path: Path) -> None:
    card = card_of(original, tmp_path / "out")
    assert is_as_written(card)
    assert is_as_written(card.replace("\n", "\r\n"))
    assert edited_card(tmp_path / "out") is None
    mine = card.replace("# AutoencoderKL", "# Mine")
    (tmp_path / "out" / "README.md").write_text(mine)
    prismify.save(load(tmp_path / "out"), tmp_path / "out", force=True)
    assert (tmp_path / "out" / "README.md").read_text() == mine
    (tmp_path / "out" / "README.md").write_text(card)
    prismify.save(load(tmp_path / "out"), tmp_path / "out", force=True)
    assert edited_card(tmp_path / "out") is None


EVIL = "</script>\n---\nlicense: [x](javascript:1) | `y` <b>![z](http://w)\u202e\x1b[31m"


def test_words_of_others_stay_words(converted: Path) -> None:
    report = json.loads((converted / "report.json").read_text())
    report |= {"model": EVIL, "notes": [f"Trained with {EVIL}"]}
    report["macs"]["inputs"] = EVIL
    next(row for row in report["layers"] if row["operator"])["operator"]["type"] = EVIL
    licence = Licence({"license": EVIL, "license_link": EVIL}, EVIL)
    card = card_text(report, licence, recipe={"teacher": {"source": EVIL}})
    front = yaml.safe_load(card.split("---\n")[1])
    assert front["license"] == plain(EVIL)
    body = card.split("-->\n", 1)[1]
    for markup in ("<b>", "</script>", "[x](", "![z]", "\u202e", "\x1b", " `y`"):
        assert markup not in body, markup
    assert body.count("\n---\n") == 0
    assert words("a|b") == "a\\|b"


@pytest.mark.parametrize(
    "content",
    [
        "{", "[]", '{"models": {"a": 1}, "data": {"images": 3}}', '{"models": {}, "data": {"images": 3}}',
        '{"models": {"a": {}}, "data": {"images": "many"}}', '{"models": {"a": {"PSNR": 3}}}',
    ],
)  # fmt: skip
def test_damaged_figures_are_none(tmp_path: Path, content: str) -> None:
    (tmp_path / "evaluation.json").write_text(content)
    assert evaluation_figures(tmp_path) is None


def test_a_runs_figures_are_those_of_the_step(tmp_path: Path) -> None:
    rows = [
        {"step": 3, "kind": "validation", "psnr": 20.0},
        {"step": 6, "kind": "validation", "psnr": 21.5, "ssim": None},
        {"step": 6, "kind": "train", "kl": 1.0},
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "recipe.yaml").write_text(
        "recipe: autoencoder\nmodel: vae\noutput: out\ndata: {path: /a/b/flowers, validation: 16}\n"
        "train: {steps: 6, batch_size: 8, learning_rate: 0.1}\n"
    )
    (figures,) = run_figures(tmp_path, 6)
    assert figures.rows == [("psnr", ["21.5"])]
    assert figures.on == "16 images held out of flowers, by its run"
    assert run_figures(tmp_path, 5) == ()
