"""What `--help` and lists show on a terminal of 80 columns."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator

import pytest
import typer
from typer.testing import CliRunner

from supervisor import cli
from supervisor.cli import show
from supervisor.cli.message import _lines, _Message
from supervisor.cli.text import flowing


def _commands(app: typer.Typer) -> Iterator[Callable[..., object]]:
    for group in app.registered_groups:
        assert group.typer_instance
        yield from _commands(group.typer_instance)
    yield from (command.callback for command in app.registered_commands if command.callback)


def test_explanations_fill_the_lines_of_a_narrow_terminal() -> None:
    ragged = []
    for command in _commands(cli.app):
        lines = (command.__doc__ or "").splitlines()
        # What was broken because the line was full would leave a line that is nearly empty.
        ragged += [
            (command.__name__, line)
            for before, line in itertools.pairwise(lines)
            if len(before) > 60
            and line.strip()
            and not line.startswith(("[cyan]smsengine", " "))
            and not re.match(r"\S+ {2,}\S", line)
        ]
    assert ragged == []


def test_help_on_a_terminal_of_80_columns() -> None:
    shown = CliRunner().invoke(cli.app, ["queue", "drain", "--help"], env={"TERMINAL_WIDTH": "80"}).output
    lines = [line.strip() for line in shown.splitlines()]
    assert "so. With --wait it says what is left until nothing is, scheduled messages" in lines


def test_the_lines_of_a_list_stay_lines() -> None:
    words = "Scopes:\n\nread     look\nall      everything\n\n" + "word " * 20 + "\nmore"
    assert flowing(words) == "Scopes:\n\nread     look\nall      everything\n\n" + "word " * 20 + " more"
    # An entry that fills its line does not draw the next one up, only what belongs to it.
    full = "operate  " + "word " * 20
    assert flowing(f"{full}\nmore\nmoney    credit") == f"{full} more\nmoney    credit"


@pytest.mark.parametrize(
    ("command", "wrong"),
    [
        (["message", "list"], "normal unless"),
        (["message", "estimate"], "lines of a file"),
        (["node"], "Nodes: show"),
        (["admin-key"], "list, change"),
    ],
)
def test_help_says_nothing_of_another_command(command: list[str], wrong: str) -> None:
    assert wrong not in " ".join(CliRunner().invoke(cli.app, [*command, "--help"]).output.split())


def test_a_list_without_anything_says_so() -> None:
    assert str(show.listing(("id", "name"), [], none="There are none.")) == "There are none."


def test_the_id_of_a_message_is_in_one_piece() -> None:
    message = _Message(id="01a22435-8edd-7903-950a-df7573dbf042", status="sent", charge="captured", units=1)
    assert str(_lines(message)).startswith("01a22435-8edd-7903-950a-df7573dbf042  sent, captured 1\n")


@pytest.mark.parametrize(
    ("command", "says"),
    [
        (
            ["provider", "test"],
            "Try a new provider with it before any route names the provider. The message is real: it goes to "
            "the telephone that --to names, and the provider may charge for it.",
        ),
        (["queue", "show"], "for what is put off, by the throughput of the provider. Unknown where neither"),
        (["queue", "scale"], "Set how many workers of a queue a node has, at once and until another number"),
        (
            ["admin-key", "revoke"],
            "Revoke an admin key, for good: within about a second every call with it is",
        ),
        (["org", "balance"], "Show the credit in units: paid in and not spent, held of that for messages"),
        (["inbound-route", "list"], "List which organisation gets the messages to each number."),
        (["report"], "Only groups of at least so many messages."),
        (["export"], "What a row is: a message, or an event of one."),
        (["changes"], "Only changes of this organisation."),
        (["message", "list"], "Accepted from then on: 2026-12-01T00:00:00Z."),
        (["send"], "How long it may wait; without it, as the queue's setting says."),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_help_says_what_a_command_does_and_what_a_value_is(command: list[str], says: str) -> None:
    shown = CliRunner().invoke(cli.app, [*command, "--help"], env={"TERMINAL_WIDTH": "250"}).output
    assert says in " ".join(word for word in shown.split() if word != "│")
