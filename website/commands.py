"""The page about the command line, read off the commands themselves."""

from __future__ import annotations

import enum
from collections.abc import Iterator
from typing import Any


def commands(group: Any, above: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command below a group, in its order, by the words that call it."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, (*above, name))
        else:
            yield (*above, name), command


def page() -> str:
    """What `--help` says of every command, as Markdown."""
    import typer
    from prismify.cli.main import app

    found = list(commands(typer.main.get_command(app)))
    lines = ["# The command line", "", "Made from the commands themselves: what `--help` says.", ""]
    lines += ["| command | |", "|---|---|"]
    for words, command in found:
        lines.append(f"| [`{' '.join(words)}`](#{anchor(words)}) | {_first(command)} |")
    lines += [
        "",
        "Results go to stdout; progress, errors and the command that comes next go to stderr. Exit code 1 is an",
    ]
    lines += ["error, told in one line, and 2 is wrong usage."]
    for words, command in found:
        lines += ["", f"## prismify {' '.join(words)} {{ #{anchor(words)} }}", "", *_described(words, command)]
    return "\n".join(lines) + "\n"


def anchor(words: tuple[str, ...]) -> str:
    return "-".join(("prismify", *words))


def _described(words: tuple[str, ...], command: Any) -> Iterator[str]:
    arguments = [one for one in command.params if one.param_type_name == "argument"]
    options = [one for one in command.params if one.param_type_name == "option" and not getattr(one, "hidden", False)]
    usage = " ".join(["prismify", *words, *(_argument(one) for one in arguments), *(["[OPTIONS]"] if options else [])])
    yield from (_plain(command.help or ""), "", "```text", usage, "```", "")
    rows = {"Arguments": [(f"`{one.metavar or one.name.upper()}`", one) for one in arguments]}
    for one in options:
        rows.setdefault(getattr(one, "rich_help_panel", None) or "Options", []).append((_option(one), one))
    for panel, found in rows.items():
        if found:
            yield from (f"| {panel} | |", "|---|---|")
            yield from (f"| {name} | {_said(one)} |" for name, one in found)
            yield ""


def _argument(one: Any) -> str:
    name = one.metavar or one.name.upper()
    more = f"{name} ..." if one.nargs != 1 else name
    return more if one.required else f"[{more}]"


def _option(one: Any) -> str:
    value = "" if one.is_flag else f" {one.metavar or _kind(one)}"
    return ", ".join(
        f"`{name}{value if name == max(one.opts, key=len) else ''}`" for name in [*one.opts, *one.secondary_opts]
    )


def _kind(one: Any) -> str:
    """What stands for a value that has no name of its own."""
    kind = getattr(one, "type", None)
    return "|".join(map(str, getattr(kind, "choices", ()))) or str(getattr(kind, "name", "value")).upper()


def _said(one: Any) -> str:
    default = one.default.value if isinstance(one.default, enum.Enum) else one.default
    text = _plain(getattr(one, "help", None) or "")
    shown = getattr(one, "show_default", True) and not isinstance(default, bool) and default not in (None, (), [], "")
    return f"{text} Default: `{default}`." if shown and not callable(default) else text


def _first(command: Any) -> str:
    return _plain(command.help or "").split("\n\n")[0]


def _plain(text: str) -> str:
    """Help in one cell of a table: a bar would end it, and angles would be taken for HTML."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")
