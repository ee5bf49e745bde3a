"""Wrong usage of any command: one line that names the option and what it expects, and exit code 2."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import typer
from prismify.cli.main import app

Run = Callable[..., Any]


def commands(group: Any = None, above: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command that there is, by the words that call it."""
    group = group or typer.main.get_command(app)
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, (*above, name))
        else:
            yield (*above, name), command


COMMANDS = dict(commands())


def arguments(command: Any) -> list[str]:
    """One word for each argument that must be there."""
    return [one.name for one in command.params if one.param_type_name == "argument" and one.required]


@pytest.mark.parametrize("words", list(COMMANDS), ids=" ".join)
def test_an_option_that_is_not_there(run: Run, words: tuple[str, ...]) -> None:
    ran = run(*words, *arguments(COMMANDS[words]), "--zzz")
    assert (ran.code, ran.out) == (2, "")
    assert ran.line == f"no option --zzz; see prismify {' '.join(words)} --help"


@pytest.mark.parametrize("words", [w for w in COMMANDS if arguments(COMMANDS[w])], ids=" ".join)
def test_an_argument_that_is_missing_is_named_with_what_it_is(run: Run, words: tuple[str, ...]) -> None:
    ran = run(*words)
    assert (ran.code, ran.out) == (2, "")
    first = next(one for one in COMMANDS[words].params if one.param_type_name == "argument")
    name = first.metavar or first.name.upper()
    assert ran.line.startswith(f"{' '.join(words)} needs {name}: ")
    assert ran.line.endswith(f"; see prismify {' '.join(words)} --help")


def values() -> Iterator[Any]:
    """Every option of every command that takes a value."""
    for words, command in COMMANDS.items():
        for one in command.params:
            if one.param_type_name == "option" and not one.is_flag:
                yield pytest.param(words, one, id=f"{' '.join(words)} {max(one.opts, key=len)}")


@pytest.mark.parametrize(("words", "option"), list(values()))
def test_an_option_without_its_value_is_named(run: Run, words: tuple[str, ...], option: Any) -> None:
    flag = max(option.opts, key=len)
    ran = run(*words, *arguments(COMMANDS[words]), flag)
    assert (ran.code, ran.out) == (2, "")
    assert ran.line.startswith(f"{flag} {option.metavar}".removesuffix(" None") + " needs a value: ")
    assert ran.line.endswith(f"; see prismify {' '.join(words)} --help")


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["scn"], "no such command 'scn'. Did you mean 'scan'? See prismify --help"),
        (["recipes", "zzz"], "no such command 'zzz'; see prismify recipes --help"),
        (["--verson"], "no option --verson; did you mean --version? See prismify --help"),
        (["scan", "a", "--feed-forwards"], "no option --feed-forwards; did you mean --feed-forward? See"),
        (["scan", "a", "--depth", "many"], "--depth N must be a whole number; see prismify scan --help"),
        (["bench", "a", "--seconds", "long"], "--seconds S must be a number; see prismify bench --help"),
        (["train", "a", "--processes", "0"], "--processes N must be at least 1; see prismify train --help"),
        (["new", "a", "--width", "65537"], "--width C must be at most 65536; see prismify new --help"),
        (["scan", "a", "--json=yes"], "--json takes no value; see prismify scan --help"),
        (["scan", "a", "b"], "got unexpected extra argument(s) (b); see prismify scan --help"),
        (["convert", "a"], "convert needs --output DIR: the folder to write; see prismify convert --help"),
        (["convert", "a", "-o", "b", "--arg", "c"], "--arg KEY=VALUE: 'c' is not KEY=VALUE; see prismify convert"),
        (["sample", "a", "-o", "b", "--size", "3x"], "--size WxH: '3x' is not WIDTHxHEIGHT such as 256x128; see"),
        (["reproduce", "table5"], "WHAT: 'table5' is not one of 'table2', 'table3', 'table4', 'sinddm', 'ldm',"),
    ],
    ids=" ".join,
)
def test_what_is_wrong_and_what_is_expected(run: Run, words: list[str], line: str) -> None:
    ran = run(*words)
    assert (ran.code, ran.out) == (2, "")
    assert ran.line.startswith(line)


def test_nothing_said_is_answered_by_help(run: Run) -> None:
    for words in ([], ["recipes"]):
        ran = run(*words)
        assert "Usage: " in ran.out + ran.err
        assert "prismify: " not in ran.err
