"""Each option and argument of each command is given what it cannot take: one plain sentence, exit code 2."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.core import TyperArgument

from supervisor import cli
from supervisor.cli.command_line import ONLY_WITH

BAD = {
    "empty": "",
    "blank": " ",
    "control": "\t\x07\n",
    "escape": "\x1b[31mred",
    "unicode digit": "٣",
    "nan": "nan",
    "infinity": "inf",
    "negative": "-1",
    "zero": "0",
    "beyond floats": "1e400",
    "beyond 64 bits": str(2**63),
    "many digits": "9" * 5000,
    "many days": "9" * 30 + "d",
    "long": "x" * 100_000,
    "not utf-8": "\udce9",
    "backslash": "\\",
    "percent": "%s%n{0}",
    "equals": "=",
    "last time": "9999-12-31T23:59:59Z",
    "first time": "0001-01-01T00:00:00+14:00",
}
# What the other parameters are given, by how a page of help calls them.
GOOD = {
    "ACTION": "stop",
    "CHANGES": "+98=2",
    "ENDPOINT": "1",
    "FILE": "messages.csv",
    "FILE|PREFIX=UNITS...": "+98=2",
    "ID": "1",
    "ID...": "1",
    "KEY": "1",
    "LEVEL": "info",
    "N": "1",
    "NUMBER": "+989121234567",
    "NUMBER...": "+989121234567",
    "ORGANISATION": "1",
    "PREFIX": "+98",
    "PREFIX=KINDS...": "+98=alphanumeric",
    "RATE": "100/s",
    "SCOPE": "read",
    "TARGET": "express p99 <= 2s",
    "UNITS": "1",
    "URL": "https://example.com/",
}
# Parameters without which a command would do something else, or ask.
ALSO = {
    "plan": ["--from-activity", "30d"],
    "erase": ["--yes"],
    "dead drop": ["--all"],
    "dead replay": ["--all"],
}
SHARED = {"data_dir", "url", "admin_url", "api_key", "admin_key"}
# Longest sentence about a value, whatever its length.
SENTENCE_MAX = 500


def commands(command: Any = None, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """All commands that do something, with their names. The simulator reads its options itself."""
    command = command or cli.command()
    below = getattr(command, "commands", None)
    if not below:
        yield path, command
        return
    for name, one in below.items():
        if name != "simulator":
            yield from commands(one, (*path, name))


COMMANDS = dict(commands())


@pytest.fixture(autouse=True)
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("SMSENGINE_")]:
        monkeypatch.delenv(name)
    (tmp_path / "messages.csv").write_text("to,text\n+989121234567,Hello\n")


def good(parameter: Any) -> str:
    metavar = (parameter.metavar or "").strip("[]")
    return GOOD.get(metavar, "express" if parameter.name == "queue" else "x")


def line(path: tuple[str, ...], command: Any, swept: Any, value: str) -> list[str]:
    """A command line that has all that it must, and this value of one parameter."""
    given = [*path]
    positions = []
    names = {name for parameter in command.params for name in parameter.opts}
    for option, fits in (("--url", "http://127.0.0.1:9"), ("--admin-key", "k"), ("--api-key", "k")):
        if option in names and option not in swept.opts:
            given += [option, fits]
    if other := ONLY_WITH.get(" ".join(path), {}).get(swept.name):
        given += {"rotate": ["--rotate=1"], "file": ["--file=messages.csv"]}.get(other, [f"--{other}"])
    given += [one for one in ALSO.get(" ".join(path), []) if one.partition("=")[0] not in swept.opts]
    for parameter in command.params:
        mine = value if parameter is swept else good(parameter) if parameter.required else None
        if mine is None:
            continue
        if isinstance(parameter, TyperArgument):
            positions.append(mine)
        else:
            given.append(f"{max(parameter.opts, key=len)}={mine}")
    return [*given, "--", *positions] if positions else given


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_no_value_of_any_parameter_ends_in_more_than_a_sentence(
    path: tuple[str, ...], capfd: pytest.CaptureFixture[str]
) -> None:
    command = COMMANDS[path]
    wrong = []
    for parameter in command.params:
        if parameter.type_descriptor.annotation is bool or (parameter.name in SHARED and path != ("status",)):
            continue
        for what, value in BAD.items():
            arguments = line(path, command, parameter, value)
            try:
                code = cli.run(arguments)
            # Whatever it is: it would be a stack trace.
            except Exception as e:
                wrong.append((parameter.name, what, repr(e)[:300]))
                continue
            printed = capfd.readouterr()
            sentence = printed.err
            if (
                code != 2
                or printed.out
                or not sentence.startswith("smsengine: ")
                or len(sentence.splitlines()) != 1
                or len(sentence) > SENTENCE_MAX
                or not sentence.rstrip("\n").isprintable()
            ):
                wrong.append((parameter.name, what, code, printed.out[:200], sentence[:300]))
    assert wrong == []
