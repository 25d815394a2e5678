"""What is wrong with a command line, in one sentence as every other error, with the nearest right word."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

import typer

from profiles.wording import did_you_mean, quoted

MISUSE: Any = typer.BadParameter.__bases__
"""What the parser raises."""
_NAMED = 3  # commands
_BOUND = re.compile(r"Input should be ((?:greater|less) than(?: or equal to)? .*)")
_KINDS = {"integer": "a whole number", "number": "a number", "boolean": "true or false"}


def shows_help(error: Any) -> bool:
    """Whether it is no error: a group without a command shows its help."""
    return type(error).__name__ == "NoArgsIsHelpError"


def sentence(error: Any) -> str:
    """The sentence for what the parser raised, without a full stop.

    Args:
        error: One of ``MISUSE``.
    """
    name = type(error).__name__
    if name == "NoSuchOption":
        return _no_option(str(error.option_name), context=error.ctx)
    if name == "BadOptionUsage":
        return f"{error.option_name} {'takes no value' if 'does not take' in error.message else 'needs a value'}"
    if name == "MissingParameter":
        return _missing(error)
    if name == "BadParameter" and error.param is not None:
        return _bad_value(error)
    return _of_words(error)


def _no_option(option: str, *, context: Any) -> str:
    """No such option, the nearest one that is there, and where it is one."""
    command = context.command
    others = [path for path, other in _commands(context.find_root().command) if option in _options(other)]
    if others:
        hint = f"; it is an option of {', '.join(others[:_NAMED])}{' and others' if len(others) > _NAMED else ''}"
    else:
        hint = did_you_mean(option, _options(command)) or f"; `{context.command_path} -h` lists them"
    return f"{_path(context)} has no option {quoted(option)[1:-1]}{hint}"


def _missing(error: Any) -> str:
    word = error.param.name.upper() if error.param is not None else "a value"
    help_text = str(getattr(error.param, "help", None) or "").rstrip(".")
    meaning = f": {help_text[:1].lower()}{help_text[1:]}" if help_text else ""
    return f"{_path(error.ctx)} needs {word}{meaning}"


def _bad_value(error: Any) -> str:
    """A value that its option does not take."""
    option = error.param.opts[0] if error.param.param_type_name == "option" else error.param.name.upper()
    message = error.message.removeprefix("Value error, ").rstrip(".")
    start = f"{option} is {_came(error)}"
    if match := re.match(r"'(.*)' is not one of (.*)$", message, re.DOTALL):
        allowed = re.findall(r"'([^']*)'", match[2])
        return f"{option} is {quoted(match[1])}; allowed: {', '.join(allowed)}{did_you_mean(match[1], allowed)}"
    if match := _BOUND.match(message):
        return f"{start}; it must be {match[1]}"
    for word, kind in _KINDS.items():
        if f"valid {word}" in message:
            return f"{start}; allowed: {kind}"
    return f"{start}; {message[:1].lower()}{message[1:]}"


def _came(error: Any) -> str:
    """What was typed, by the error that the parser's own came from."""
    cause = error.__cause__
    inputs = [item["input"] for item in cause.errors(include_url=False)] if hasattr(cause, "errors") else []
    return (
        quoted(inputs[0]).strip("'")
        if inputs and str(inputs[0]).lstrip("-").isdecimal()
        else quoted(*inputs[:1] or "?")
    )


def _of_words(error: Any) -> str:
    """A word that is no command, or an argument too many."""
    message = str(error.format_message())
    if match := re.match(r"No such command '(.*?)'\.", message, re.DOTALL):
        known = error.ctx.command.commands
        hint = did_you_mean(match[1], known) or f" (commands: {', '.join(known)})"
        return f"there is no command {quoted(match[1])}{hint}"
    if match := re.match(r"Got unexpected extra arguments?(?:\(s\))? \((.*)\)", message, re.DOTALL):
        return f"{_path(error.ctx)} takes no argument {quoted(match[1])}"
    return message.rstrip(".")


def _commands(group: Any, *, above: str = "") -> Iterator[tuple[str, Any]]:
    """Every command below a group with its words."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from _commands(command, above=f"{above}{name} ")
        else:
            yield f"{above}{name}", command


def _options(command: Any) -> Iterable[str]:
    return [word for parameter in command.params for word in parameter.opts if word.startswith("--")]


def _path(context: Any) -> str:
    """The words of a command, without the program's name unless that is all."""
    return str(context.command_path.partition(" ")[2] or context.command_path)
