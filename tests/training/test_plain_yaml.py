"""YAML is read within bounds, once a key, and a word is what its setting asks for."""

from __future__ import annotations

import codecs
from pathlib import Path
from typing import Any

import pytest

from prismify.errors import RecipeError
from prismify.training.plain_yaml import MOST_YAML, meant, read_yaml, yaml_text
from prismify.training.recipe import changed_data, read_recipe, recipe_yaml
from prismify.training.schema import Data
from tests.training.test_schema import MINIMAL

LINES = MINIMAL.strip().splitlines()


def read(tmp_path: Path, text: str | bytes, *sets: str) -> Any:
    file = tmp_path / "recipe.yaml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_recipe(file, sets)


def refusal(tmp_path: Path, text: str | bytes, *sets: str) -> str:
    with pytest.raises(RecipeError) as caught:
        read(tmp_path, text, *sets)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def with_train(more: str) -> str:
    return MINIMAL.replace("steps: 10", f"steps: 10, {more}")


def bomb(levels: int, use: str) -> str:
    """Aliases that stand for 10 ** levels values."""
    rows = "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, levels))
    return f"a0: &a0 [{', '.join(['x'] * 10)}]\n{rows}{use}: *a{levels - 1}\n"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (bomb(9, "arguments"), "it holds more than 50,000 values, with those that aliases stand for"),
        ("a: &a [*a]", "line 1: *a stands for what holds it"),
        ("a: &a {b: {c: *a}}", "*a stands for what holds it"),
        ("a: *b", "*b is an alias of nothing; put words that begin with * in quotes"),
        ("a: " + "[" * 200_000, "it is nested more than 100 deep"),
        ("- " * 300 + "x", "it is nested more than 100 deep"),
        (f"a: &a {'[' * 60}{']' * 60}\nb: {'[' * 60}*a{']' * 60}", "line 2: it is nested more than 100 deep"),
        ("a: [" + "x," * 60_000 + "]", "it holds more than 50,000 values"),
        ("#" + "x" * MOST_YAML, "is no recipe: it is larger than 1 MiB"),
        ("a: 1\na: 2", "line 2: 'a' is given twice, first in line 1"),
        ("a:\n  b: 1\n  c: 2\n  b: 3", "line 4: 'b' is given twice, first in line 2"),
        ("? [1, 2]\n: 3", "line 1: a key must be a word"),
        ("a: !!python/object/apply:os.system [ls]", "!!python/object/apply:os.system is no plain data"),
        ("a: !!binary aGVsbG8=", "!!binary 'aGVsbG8=' is no plain data"),
        ("a: !!int x", "!!int 'x' is no plain data"),
        ("a: 1\n---\nb: 2", "line 2: a second document begins, and only one is read"),
        ('a: "\\UFFFFFFFF"', "not YAML"),
        ('a: "\\0"', "line 1: a text holds a zero byte"),
        ("a: \x01", "not YAML: special characters are not allowed"),
        ("a: [1\n", "not YAML in line 2"),
        ("<<: 1\na: 2", "<< takes in tables, and this is none"),
        ("", "a recipe is a table of keys, this is empty"),
        ("autoencoder", "a recipe is a table of keys, this is 'autoencoder'"),
    ],
)  # fmt: skip
def test_what_is_no_plain_small_yaml_is_one_line(tmp_path: Path, text: str, why: str) -> None:
    said = refusal(tmp_path, text)
    assert said.startswith(str(tmp_path / "recipe.yaml"))
    assert why in said
    assert len(said) < 300


def test_values_of_the_command_line_are_bounded_as_well(tmp_path: Path) -> None:
    said = refusal(tmp_path, MINIMAL, f"train={'[' * 1000}{']' * 1000}")
    assert said.startswith("--set 'train=[[[[")
    assert "nested more than 100 deep" in said
    assert "'steps' is given twice" in refusal(tmp_path, MINIMAL, "train={steps: 1, steps: 2}")


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (MINIMAL.encode("utf-16"), "it is UTF-16; save it as UTF-8"),
        (codecs.BOM_UTF16_BE + MINIMAL.encode("utf-16-be"), "it is UTF-16; save it as UTF-8"),
        (MINIMAL.encode("utf-16-le"), "not YAML: special characters are not allowed"),
        (MINIMAL.encode("utf-32"), "it is UTF-32; save it as UTF-8"),
        (f"# caf\u00e9\n{MINIMAL}".encode("latin-1"), "its byte 5 is not UTF-8; save it as UTF-8"),
        (f"# \u20ac\n{MINIMAL}".encode("cp1252"), "its byte 2 is not UTF-8; save it as UTF-8"),
        (bytes(range(256)), "is not UTF-8; save it as UTF-8"),
    ],
)
def test_another_encoding_is_one_line(tmp_path: Path, content: bytes, why: str) -> None:
    assert why in refusal(tmp_path, content)


@pytest.mark.parametrize("content", [codecs.BOM_UTF8 + MINIMAL.encode(), MINIMAL.replace("\n", "\r\n").encode()])
def test_a_mark_and_line_ends_of_other_systems_are_read_over(tmp_path: Path, content: bytes) -> None:
    assert read(tmp_path, content) == read(tmp_path, MINIMAL)


def test_a_folder_is_no_recipe(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"is a folder: name the recipe in it, such as .*recipe\.yaml"):
        read_recipe(tmp_path)


@pytest.mark.parametrize("word", ["no", "off", "on", "yes", "1e-4", "2024", "2024-01-01", "1:30", "0x10", "010", "1_0"])
def test_a_word_stays_one_where_a_word_is_wanted(tmp_path: Path, word: str) -> None:
    recipe = read(tmp_path, with_train("mixed_precision: no").replace("path: images", f"path: images, select: {word}"))
    assert (recipe.train.mixed_precision, recipe.data.select) == ("no", word)
    sets = [f"data.select={word}", "train.mixed_precision=no", f"model.zero=[{word}]", f"output={word}"]
    recipe = read(tmp_path, MINIMAL, *sets)
    assert (recipe.train.mixed_precision, recipe.data.select, recipe.model.zero) == ("no", word, (word,))
    assert Path(recipe.output).name == word
    assert changed_data(Data(), [f"data.select={word}"]).select == word
    source = read(tmp_path, MINIMAL.replace("converted", word)).model.source
    assert source == (word if ":" in word else str(tmp_path / word))
    assert f"recipe '{word}' is not one of" in refusal(tmp_path, MINIMAL.replace("autoencoder", word))
    (tmp_path / "again.yaml").write_text(recipe_yaml(recipe))
    assert read_recipe(tmp_path / "again.yaml") == recipe


@pytest.mark.parametrize(
    ("text", "number"),
    [("1e-4", 1e-4), ("1E4", 1e4), ("1.e-3", 1e-3), (".5e-2", 5e-3), ("+1e-4", 1e-4), ("1_000", 1000.0), ("010", 10.0)],
)
def test_a_number_is_one_however_it_is_written(tmp_path: Path, text: str, number: float) -> None:
    recipe = read(tmp_path, MINIMAL.replace("1e-3", text).replace("path: images", "path: images, range: [-.5, +.5]"))
    assert recipe.train.learning_rate == number
    assert recipe.data.range == (-0.5, 0.5)
    if number.is_integer():
        steps = read(tmp_path, MINIMAL.replace("steps: 10", f"steps: {text}")).train.steps
        assert (steps, type(steps)) == (int(number), int)


def test_booleans_and_nulls_are_what_they_were(tmp_path: Path) -> None:
    for text, flips in (("yes", True), ("Off", False), ("true", True)):
        assert read(tmp_path, MINIMAL, f"data.flip={text}").data.flip is flips
    for text in ("null", "~", ""):
        assert read(tmp_path, MINIMAL, f"train.clip={text}", f"data.select={text}").data.select is None
    arguments = read(
        tmp_path, MINIMAL, "model.arguments={a: no, b: 1e-3, c: 'no', d: [2, null], on: !!str 3}"
    ).model.arguments
    assert arguments == {"a": False, "b": 1e-3, "c": "no", "d": [2, None], "on": "3"}


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ("clip: yes", "train: clip True is not of type float"),
        ("clip: '1'", "train: clip '1' is not of type float"),
        ("batch_size: 1.5", "train: batch_size 1.5 is not of type int"),
        ("batch_size: true", "train: batch_size True is not of type int"),
        ("warmup_steps: 1:30", "train: warmup_steps '1:30' is not of type int"),
        ("seed: 2024-01-01", "train: seed '2024-01-01' is not of type int"),
        ("seed: " + "9" * 5000, "train: seed '9999"),
        ("schedule: null", "train: schedule None is not one of constant, cosine, linear"),
        ("device: [" + "x, " * 5000 + "x]", "train: device ['x', 'x'"),
    ],
)
def test_another_type_is_one_short_line(tmp_path: Path, more: str, why: str) -> None:
    said = refusal(tmp_path, with_train(more))
    assert why in said
    assert len(said) < 300


def test_aliases_and_merges_stand_for_what_they_name(tmp_path: Path) -> None:
    text = "\n".join(LINES[:2]) + (
        "\nmodel: &m {source: here.py:make}\nteacher: {<<: *m, arguments: &a {width: 8}}\ndata: {path: images}\n"
        "train: {learning_rate: 1e-3, steps: 10}\noutput: run\n"
    )
    text = text.replace("autoencoder", "distillation").replace("model: converted\n", "")
    recipe = read(tmp_path, text)
    assert recipe.model.source == recipe.teacher.source == f"{tmp_path / 'here.py'}:make"
    assert recipe.teacher.arguments == {"width": 8}
    merged = meant(read_yaml("a: &a {x: 1, y: 1}\nb: &b {y: 2, z: 2}\nc: {z: 3, <<: [*a, *b]}\n", "text"))
    assert merged["c"] == {"x": 1, "y": 1, "z": 3}


def test_patterns_colours_and_other_bytes_need_no_quotes_at_the_command_line(tmp_path: Path) -> None:
    sets = ["data.select=*.png", "data.background=#808080", "output=r\udce9sultat"]
    recipe = read(tmp_path, MINIMAL, *sets)
    assert (recipe.data.select, recipe.data.background) == ("*.png", "#808080")
    assert Path(recipe.output).name == "r\udce9sultat"


def test_any_text_is_written_so_that_it_is_read_as_it_was() -> None:
    texts = [
        "no", "1e-3", "1E5", ".5", "-.5", "1:30", "2024-01-01", "010", "0o10", "0b1", "null", "", "~", "=", "<<", "# x",
        "a: b", "*.png", "caf\u00e9", "\u2028", "-", "1_000", ".inf", ".NaN", f"{'a' * 300} b", "\ufeff", "'", "{",
        "0x1F",
    ]  # fmt: skip
    data = {"texts": texts, "same": texts, "numbers": [1e-5, 1e300, -0.5, 3, 1e16], "rest": [True, False, None]}
    text = yaml_text(data)
    assert "&" not in text
    assert meant(read_yaml(text, "text")) == data
