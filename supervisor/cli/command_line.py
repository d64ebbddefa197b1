"""What no command line may have, whatever the command: an option given twice, a text that is empty, as from a
script whose variable is not set, one that is not UTF-8, or an option that says how another is done, without
that one.

The library that reads command lines takes the last of two, and to a command an empty text would look as if it
had not been given.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from typer.core import TyperArgument, TyperOption

from engine.activity.reports import Group
from engine.errors import ConfigError
from engine.records import QUEUES

# What a command may be given empty: what is answered, for nothing. The engine says it of other texts.
_MAY_BE_EMPTY = "text"
# By command, the options that mean nothing without another.
ONLY_WITH = {
    "node drain": {"timeout": "wait"},
    "org key": {"overlap": "rotate", "anywhere": "change"},
    "plan": {"yes": "apply"},
    "queue drain": {"timeout": "wait"},
    "send": dict.fromkeys(
        ("file_format", "encoding", "batch", "in_flight", "run_key", "refused", "accepted", "limit"), "file"
    ),
    "status": {"interval": "watch"},
}

# What an argument too many was probably meant for: by option, how its value looks.
_GROUP = "|".join(get_args(Group))
_MEANT = {
    "organisation": r"[0-9]{1,19}",
    "queue": "|".join(QUEUES),
    "by": rf"(?:{_GROUP})(?:,(?:{_GROUP}))*",
}


def strict(command: Any) -> Any:
    """The command, which refuses such a command line with a ConfigError from now on, as those below it do."""
    for below in getattr(command, "commands", {}).values():
        strict(below)
    parse = command.parse_args

    def parse_strictly(context: Any, arguments: list[str]) -> list[str]:
        given, _, order = command.make_parser(context).parse_args(args=[*arguments])
        _check(given, order, context.command_path)
        rest: list[str] = parse(context, arguments)
        return rest

    command.parse_args = parse_strictly
    return command


def names(command: Any, arguments: Sequence[str]) -> dict[str, str]:
    """How the help of the command that these arguments name calls its parameters, by their names in it."""
    return {parameter.name: _shown(parameter) for parameter in _named(command, arguments)[0].params}


def advice(command: Any, arguments: Sequence[str], stray: str) -> str:
    """What to do about `stray`, an argument that the command which `arguments` name does not take: the option
    that was probably meant; else, of a command that takes options alone, where they are listed; else ""."""
    leaf, path = _named(command, arguments)
    given = {argument.partition("=")[0] for argument in arguments}
    for parameter in leaf.params:
        option = _shown(parameter)
        looks = _MEANT.get(parameter.name) if isinstance(parameter, TyperOption) else None
        if looks and option not in given and re.fullmatch(looks, stray, re.ASCII):
            return f"did you mean {option} {stray}?"
    if any(isinstance(parameter, TyperArgument) for parameter in leaf.params):
        return ""
    return f"`{path}` takes options alone, and `{path} --help` lists them."


def _named(command: Any, arguments: Sequence[str]) -> tuple[Any, str]:
    """The command that these arguments name, and its path."""
    path = "smsengine"
    for word in arguments:
        if word not in getattr(command, "commands", {}):
            break
        command, path = command.commands[word], f"{path} {word}"
    return command, path


def _check(given: Mapping[str, Any], order: list[Any], path: str) -> None:
    """Raise ConfigError for the first that is wrong.

    `given`: the values by the parameter's name; `order`: the parameters as they came; `path`: the command.
    """
    names: dict[str, str] = {}
    for parameter in order:
        shown = _shown(parameter)
        if parameter.name in names and not _may_be_repeated(parameter):
            raise ConfigError(f"{shown} must be given only once.")
        names[parameter.name] = shown
        value = given.get(parameter.name)
        values = value if isinstance(value, list | tuple) else [value]
        if parameter.type_descriptor.annotation is not Path and not all(map(_is_unicode, values)):
            raise ConfigError(f"{shown} must be UTF-8.")
        if "" in values and not _says_itself(parameter):
            raise ConfigError(f"{shown} must not be empty; `{path} --help` says what it takes.")
    for name, other in ONLY_WITH.get(path.partition(" ")[2], {}).items():
        if name in names and other not in names:
            raise ConfigError(f"{names[name]} must be left out without --{other}.")


def _shown(parameter: TyperOption | TyperArgument) -> str:
    if isinstance(parameter, TyperArgument):
        return (parameter.metavar or parameter.name).strip("[]").replace("...", "")
    return str(max(parameter.opts, key=len))


def _is_unicode(value: Any) -> bool:
    """Python hands on octets that are not UTF-8 as halves of surrogate pairs."""
    return not any("\ud800" <= character <= "\udfff" for character in str(value))


def _may_be_repeated(parameter: TyperOption | TyperArgument) -> bool:
    """One that takes several values, or none and means the same twice."""
    return isinstance(parameter, TyperArgument) or parameter.multiple or parameter.is_flag


def _says_itself(parameter: TyperOption | TyperArgument) -> bool:
    """Whether an empty value is told elsewhere what is allowed: by the library for numbers and choices, and
    by a command that tells it from none."""
    kind = parameter.type_descriptor.annotation
    if kind not in (str, list[str], Path) or parameter.name == _MAY_BE_EMPTY:
        return True
    if parameter.metavar == "TIME":
        return parameter.default != ""
    return kind is str and parameter.default is None and not parameter.required
