"""`smsengine dead`: messages that were set aside, over the admin API."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated
from urllib.parse import quote

import msgspec
import typer
from rich.console import Console

from engine.errors import ConfigError, Refusal
from engine.records import Queue
from supervisor.cli import options, show
from supervisor.cli.client import Client
from supervisor.output import visible_in_line

app = typer.Typer(
    help="Dead letters: list, show, replay, drop.",
    no_args_is_help=True,
    rich_markup_mode="rich",
)
_PATH = "/v1/admin/dead-letters"
_PAGE = 500


class _Letter(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    queue: str
    readable: bool = True
    dead_at: str = ""
    message_id: str = ""
    organisation_id: int = 0
    to: str = ""
    sender: str = msgspec.field(name="from", default="")
    reference: str = ""
    segments: int = 0
    units: int = 0
    attempts: int = 0
    accepted_at: str = ""
    expires_at: str = ""
    expired: bool = False


class _Event(msgspec.Struct, frozen=True, kw_only=True):
    at: str = ""
    event: str = ""
    attempt: int = 0
    provider: str = ""
    code: str = ""
    latency_ms: float = 0.0


class _Shown(_Letter, frozen=True, kw_only=True):
    # None: not known, and why.
    events: list[_Event] | None = None
    events_missing: str = ""


class _Letters(msgspec.Struct, frozen=True, kw_only=True):
    dead_letters: list[_Letter]
    next: str | None = None


class _Left(msgspec.Struct, frozen=True, kw_only=True):
    """A dead letter that stays where it is, and why."""

    id: str
    code: str
    detail: str


class _Done(msgspec.Struct, frozen=True, kw_only=True):
    done: list[_Letter]
    left: list[_Left]


_Ids = Annotated[
    list[str] | None, typer.Argument(metavar="ID...", help="Ids of dead letters: see `smsengine dead list`.")
]
_All = Annotated[bool, typer.Option("--all", help="All of them.")]
_InQueue = Annotated[
    Queue | None, typer.Option("--queue", help="With --all: of this queue only.", show_default=False)
]
_Organisation = Annotated[
    int | None, typer.Option("--organisation", metavar="ID", min=1, help="Only those of one organisation.")
]


@app.command("list")
@options.admin_options
def list_letters(
    queue: Annotated[
        Queue | None, typer.Argument(help="[cyan]express[/cyan] or [cyan]normal[/cyan]; both without it.")
    ] = None,
    organisation: _Organisation = None,
    *,
    engine: options.EngineOptions,
) -> None:
    """List the dead letters; with --json one object a line.

    A dead letter is a message that several workers in a row died with: it may be what kills
    them, so nobody sends it, and its units stay held, until you replay or drop it.

    [bold]Examples[/bold]

    [cyan]smsengine dead list[/cyan]
    [cyan]smsengine dead list normal --organisation 7[/cyan]
    """
    found = []
    for letter in _letters(engine.admin(), queue, organisation):
        found.append(letter)
        engine.print_json(letter)
    if engine.as_json:
        return
    console = Console(highlight=False, markup=False)
    if not found:
        console.print("There are no dead letters.")
        return
    # As wide as a page of 80 characters; where all can be replayed there is no more to say of them.
    rows = [_row(letter) for letter in found]
    columns = ("id", "dead since", "organisation", "to", "units", *[""][: any(row[-1] for row in rows)])
    console.print(show.table(columns, (row[: len(columns)] for row in rows), frozenset({2, 4})))


@app.command("show")
@options.admin_options
def show_letter(
    letter_id: Annotated[str, typer.Argument(metavar="ID", help="Its id: see `smsengine dead list`.")],
    *,
    engine: options.EngineOptions,
) -> None:
    """Show one dead letter and what has happened to its message, without its text and all but the
    beginning of its number.

    [bold]Example[/bold]

    [cyan]smsengine dead show normal.3.1764327397123-0[/cyan]
    """
    found = engine.admin().get(_at(letter_id), _Shown)
    if engine.print_json(found):
        return
    print(f"dead letter   {found.id}")
    print(f"dead since    {_moment(found.dead_at)}")
    if not found.readable:
        print("state         another version of the engine wrote it, and this one cannot read it")
        return
    print(f"message       {found.message_id}")
    print(f"organisation  {found.organisation_id}")
    print(f"to            {found.to}")
    print(f"from          {visible_in_line(found.sender) or 'as the provider does'}")
    print(f"reference     {visible_in_line(found.reference) or 'none'}")
    print(f"segments      {found.segments}")
    print(f"units held    {show.number(found.units)}")
    print(f"attempts      {found.attempts}")
    print(f"accepted      {_moment(found.accepted_at)}")
    print(f"valid until   {_moment(found.expires_at)}{', which is over' if found.expired else ''}")
    if found.events is None:
        print(f"history       not known: {found.events_missing}")
    else:
        print()
        columns = ("at", "event", "attempt", "provider", "code", "took")
        rows = show.table(columns, map(_event_row, found.events), frozenset({2, 5}))
        Console(highlight=False, markup=False).print(rows)


@app.command()
@options.admin_options
def replay(
    letter_ids: _Ids = None,
    every: _All = False,
    queue: _InQueue = None,
    organisation: _Organisation = None,
    *,
    engine: options.EngineOptions,
) -> None:
    """Put dead letters into their queue again, as if nobody had tried them.

    The recipient may get such a message twice: nobody knows whether a worker sent it before it
    died. It is charged once. One whose validity is over stays, and can only be dropped.

    Exit code 1 when one of them stays where it is.

    [bold]Examples[/bold]

    [cyan]smsengine dead replay normal.3.1764327397123-0[/cyan]
    [cyan]smsengine dead replay --all --organisation 7[/cyan]
    """
    _end("replay", "replayed", _chosen(letter_ids, every, queue, organisation, engine), engine)


@app.command()
@options.admin_options
def drop(
    letter_ids: _Ids = None,
    every: _All = False,
    queue: _InQueue = None,
    organisation: _Organisation = None,
    *,
    engine: options.EngineOptions,
) -> None:
    """Give dead letters up: they have failed, and their units are released.

    Exit code 1 when one of them stays where it is.

    [bold]Examples[/bold]

    [cyan]smsengine dead drop normal.3.1764327397123-0[/cyan]
    [cyan]smsengine dead drop --all --queue express[/cyan]
    """
    _end("drop", "dropped", _chosen(letter_ids, every, queue, organisation, engine), engine)


def _chosen(
    letter_ids: list[str] | None,
    every: bool,
    queue: Queue | None,
    organisation: int | None,
    engine: options.EngineOptions,
) -> list[str]:
    """The ids of the letters that the command is about. Raises ConfigError."""
    if every == bool(letter_ids):
        raise ConfigError("Name the ids of dead letters, or give --all.")
    if letter_ids and (queue or organisation):
        raise ConfigError("--queue and --organisation go with --all.")
    # All are listed before the first is ended: one that becomes a dead letter meanwhile is not among them.
    return letter_ids or [letter.id for letter in _letters(engine.admin(), queue, organisation)]


def _end(verb: str, done: str, letter_ids: list[str], engine: options.EngineOptions) -> None:
    client = engine.admin()
    ended: list[_Letter] = []
    left: list[_Left] = []
    for letter_id in letter_ids:
        try:
            ended.append(client.post(f"{_at(letter_id)}/{verb}", {}, _Letter))
        except Refusal as e:
            if e.status not in (404, 409):
                raise
            left.append(_Left(id=letter_id, code=e.code, detail=e.detail))
    if not engine.print_json(_Done(done=ended, left=left)):
        units = sum(letter.units for letter in ended)
        what = "held" if verb == "replay" else "released"
        print(f"{done} {show.number(len(ended))} ({show.counted(units, 'unit')} {what})")
        for one in left:
            print(f"{one.id} stays: {one.detail}" if one.code != "not_found" else f"{one.id}: {one.detail}")
    raise typer.Exit(1 if left else 0)


def _letters(client: Client, queue: Queue | None, organisation: int | None) -> Iterator[_Letter]:
    """All of them, page by page."""
    of = (f"&queue={queue}" if queue else "") + (f"&organisation={organisation}" if organisation else "")
    cursor: str | None = ""
    while cursor is not None:
        page = client.get(f"{_PATH}?limit={_PAGE}{of}&cursor={cursor}", _Letters)
        yield from page.dead_letters
        cursor = page.next


def _at(letter_id: str) -> str:
    return f"{_PATH}/{quote(letter_id, safe='')}"


def _row(letter: _Letter) -> tuple[str, ...]:
    state = "expired" if letter.expired else "" if letter.readable else "unreadable"
    return (
        letter.id,
        _moment(letter.dead_at),
        str(letter.organisation_id or ""),
        letter.to,
        show.number(letter.units),
        state,
    )


def _event_row(event: _Event) -> tuple[str, ...]:
    return (
        _moment(event.at),
        event.event,
        str(event.attempt or ""),
        event.provider,
        event.code,
        show.span(round(event.latency_ms)) if event.latency_ms else "",
    )


def _moment(at: str) -> str:
    """A time of the API to the second: 2026-11-22 08:26:00."""
    return at[:19].replace("T", " ")
