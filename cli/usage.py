"""Wrong usage in one line: which option, what it expects, and where the help is."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import typer
from typer.core import TyperGroup

#: Older releases of typer depend on click, newer ones bring it along: the class is taken from where both show it.
_UsageError: type[Exception] = typer.BadParameter.__mro__[1]
_PLAINER = {
    "a valid integer": "a whole number",
    "a valid number": "a number",
    "greater than or equal to": "at least",
    "less than or equal to": "at most",
}


class OneLineUsage(TyperGroup):
    """A group of commands whose wrong usage is one line on stderr and exit code 2."""

    def make_context(self, *args: Any, **kwargs: Any) -> Any:
        with _in_one_line(None, self):
            return super().make_context(*args, **kwargs)

    def invoke(self, ctx: Any) -> Any:
        with _in_one_line(ctx, self):
            return super().invoke(ctx)


def misused(message: str) -> NoReturn:
    """End a command that was not given what it needs, for a reason that its options do not show by themselves."""
    raise typer.BadParameter(message)


@contextmanager
def _in_one_line(ctx: Any, group: TyperGroup) -> Iterator[None]:
    try:
        yield
    except _UsageError as error:
        if type(error).__name__ == "NoArgsIsHelpError":  # its text is the help
            raise
        where, command = _place(error, ctx, group)
        text = " ".join(_said(error, where, command).split()).rstrip(".")
        print(f"prismify: {text}{' See' if text.endswith('?') else '; see'} {where} --help", file=sys.stderr)
        raise typer.Exit(2) from None


def _place(error: Any, ctx: Any, group: TyperGroup) -> tuple[str, Any]:
    """How the command that was misused is called, and the command."""
    words: list[str] = []
    command: Any = group
    found = error.ctx
    if found is None and ctx is not None:  # an option at the end without its value: not yet anybody's
        command = group.commands.get(ctx.invoked_subcommand or "", group)
        words, found = [command.name] if command is not group else [], ctx
    elif found is not None:
        command = found.command
    while found is not None and found.parent is not None:
        words.insert(0, found.info_name)
        found = found.parent
    return " ".join(["prismify", *words]), command


def _said(error: Any, where: str, command: Any) -> str:
    """What is wrong, in words that name the option and what it expects."""
    kind, message = type(error).__name__, error.message or ""
    parameter = _parameter(error, command)
    name = _named(parameter) if parameter is not None else ""
    if kind == "MissingParameter" and name:
        return f"{where.removeprefix('prismify ')} needs {name}{_expected(parameter)}"
    if kind == "BadOptionUsage" and getattr(parameter, "is_flag", False):
        return f"{name} takes no value"
    if kind == "BadOptionUsage" and name:
        return f"{name} needs a value{_expected(parameter)}"
    if kind == "NoSuchOption":
        close = ", ".join(sorted(error.possibilities or ()))
        return f"no option {error.option_name}" + (f"; did you mean {close}?" if close else "")
    if kind == "BadParameter" and name:
        # Newer releases of typer ask pydantic, whose words speak of nobody's option.
        message = message.removeprefix("Value error, ").partition(", unable to parse")[0]
        must = message.removeprefix("Input should be ")
        for theirs, ours in _PLAINER.items():
            must = must.replace(theirs, ours)
        return f"{name}: {message}" if "Input should" not in message else f"{name} must be {must}"
    if kind == "BadParameter" and parameter is None and not getattr(error, "param_hint", None):
        return message
    return _small(error.format_message())


def _parameter(error: Any, command: Any) -> Any:
    """The option or argument that an error is about; None where it names none."""
    found = getattr(error, "param", None)
    hint = getattr(error, "param_hint", None) or getattr(error, "option_name", None)
    if found is None and isinstance(hint, str):
        found = next((one for one in command.params if hint in one.opts), None)
    return found


def _named(parameter: Any) -> str:
    """An option with what stands for its value, or an argument, as --help writes them."""
    if parameter.param_type_name == "argument":
        return str(parameter.metavar or parameter.name.upper())
    return " ".join([max(parameter.opts, key=len), *([parameter.metavar] if parameter.metavar else [])])


def _expected(parameter: Any) -> str:
    text = (getattr(parameter, "help", None) or "").partition(". ")[0]
    return f": {_small(text)}" if text else ""


def _small(text: str) -> str:
    """A sentence that goes on after a colon; abbreviations stay as they are."""
    return text if text[1:2].isupper() else text[:1].lower() + text[1:]
