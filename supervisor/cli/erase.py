"""`smsengine erase`: erase a number from what is recorded of messages, over the admin API."""

from __future__ import annotations

import sys
import time
from typing import Annotated

import msgspec
import typer

from engine.errors import ConfigError
from supervisor.cli import options
from supervisor.cli.client import Client
from supervisor.cli.waiting import waiting

_PATH = "/v1/admin/erasures"
_LOOK_S = 0.5


class _Erasure(msgspec.Struct, frozen=True, kw_only=True):
    number: str


class _UnderWay(msgspec.Struct, frozen=True, kw_only=True):
    under_way: int


@options.admin_options
def erase(
    number: Annotated[str, typer.Argument(metavar="NUMBER", help="In E.164: +4915112345678.")],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask first.")] = False,
    *,
    engine: options.EngineOptions,
) -> None:
    """Erase a recipient's number from everything that is recorded of messages, and wait until it is done.

    It cannot be undone. Messages that are not archived or have not ended yet are
    left out: erase again a day after their validity. A command that is
    interrupted stops waiting; the erasure goes on.

    [bold]Example[/bold]

    [cyan]smsengine erase +4915112345678 --yes[/cyan]
    """
    if not yes:
        if not sys.stdin.isatty():
            raise ConfigError("--yes must be given where there is no terminal to ask at.")
        typer.confirm(f"Erase {number} from everything that is recorded?", abort=True, err=True)
    client = engine.admin()
    left = client.post(_PATH, _Erasure(number=number), _UnderWay)
    with waiting("erasing", shown=not engine.as_json):
        _wait(client, left.under_way)
    if not engine.print_json({"under_way": 0}):
        print("erased")


def _wait(client: Client, under_way: int) -> None:
    """Return when nothing is under way. Raises Refusal, Unavailable."""
    while under_way:
        time.sleep(_LOOK_S)
        under_way = client.get(_PATH, _UnderWay).under_way
