"""`smsengine queue`: whose messages wait in a queue, and its pause, over the admin API."""

from __future__ import annotations

import uuid
from typing import Annotated

import msgspec
import typer
from rich.console import Console

from engine.organisations import Pause
from engine.records import Queue
from supervisor.cli import options, show

app = typer.Typer(
    help="Queues: whose messages wait, pause, resume.",
    no_args_is_help=True,
    rich_markup_mode="rich",
)


class _Organisation(msgspec.Struct, frozen=True, kw_only=True):
    organisation_id: int
    messages: int
    segments: int
    oldest_ms: int
    weight: float = 1.0
    paused: bool = False
    share: float | None = None
    ends_in_ms: int | None = None


class _Backlog(msgspec.Struct, frozen=True, kw_only=True):
    queue: str
    messages: int
    paused: int = 0
    segments_in_10_s: int = 0
    organisations: list[_Organisation]
    pause: Pause | None = None
    missing: dict[str, str] = {}


class _Pause(msgspec.Struct, frozen=True, kw_only=True):
    reason: str


class _Queue(msgspec.Struct, frozen=True, kw_only=True):
    queue: str
    pause: Pause | None = None


_Name = Annotated[Queue, typer.Argument(help="[cyan]express[/cyan] or [cyan]normal[/cyan].")]


@app.command("show")
@options.admin_options
def show_queue(
    queue: _Name,
    *,
    engine: options.EngineOptions,
) -> None:
    """Show the organisations with a backlog in a queue, the longest first.

    They take turns, by their weights. [bold]share[/bold]: of all segments that left
    backlogs in the last ten seconds. [bold]ends in[/bold]: when the last message of this
    one will have left, at that pace. [bold]oldest[/bold]: how long it has waited.

    What lies ready to be sent, whoever it belongs to, is not among it:
    [cyan]smsengine status[/cyan] counts everything that waits.

    [bold]Examples[/bold]

    [cyan]smsengine queue show normal[/cyan]
    """
    found = engine.admin().get(f"/v1/admin/queues/{queue}", _Backlog)
    if engine.print_json(found):
        return
    console = Console(highlight=False)
    if found.pause:
        console.print(show.paused_queue(queue, found.pause))
    for what, why in found.missing.items():
        console.print(f"{what} is not known: {why}")
    if not found.organisations:
        console.print(f"No organisation has a backlog in {queue}.")
        return
    columns = ("organisation", "messages", "segments", "oldest", "weight", "share", "ends in")
    console.print(show.table(columns, map(_row, found.organisations), frozenset(range(7))))
    paused = f", {show.number(found.paused)} of them paused" if found.paused else ""
    rate = f"{found.segments_in_10_s / 10:,.1f}"
    console.print(
        f"{show.number(found.messages)} messages{paused}; {rate} segments a second left in the last 10 s"
    )


@app.command()
@options.admin_options
def pause(
    queue: _Name,
    reason: Annotated[str, typer.Option(metavar="TEXT", help="Why, for whoever asks later.")] = "",
    *,
    engine: options.EngineOptions,
) -> None:
    """Send nothing of a queue until it is resumed, on no node.

    Messages are accepted and wait. Their validity goes on: what expires is not sent, and is
    not charged. What a provider has already is not taken back. In force within a second or so.

    [bold]Example[/bold]

    [cyan]smsengine queue pause normal --reason "campaign with a wrong text"[/cyan]
    """
    _set_paused(queue, "pause", _Pause(reason=reason), engine)


@app.command()
@options.admin_options
def resume(
    queue: _Name,
    *,
    engine: options.EngineOptions,
) -> None:
    """Let a paused queue go on.

    [bold]Example[/bold]

    [cyan]smsengine queue resume normal[/cyan]
    """
    _set_paused(queue, "resume", {}, engine)


def _set_paused(queue: Queue, verb: str, body: object, engine: options.EngineOptions) -> None:
    path = f"/v1/admin/queues/{queue}/{verb}"
    found = engine.admin().post(path, body, _Queue, idempotency_key=str(uuid.uuid4()))
    if not engine.print_json(found):
        print(show.paused_queue(queue, found.pause))


def _row(o: _Organisation) -> tuple[str, ...]:
    ends = "unknown" if o.ends_in_ms is None else show.span(o.ends_in_ms)
    return (
        str(o.organisation_id),
        show.number(o.messages),
        show.number(o.segments),
        show.span(o.oldest_ms),
        f"{o.weight:g}",
        "" if o.share is None else f"{100 * o.share:.1f} %",
        "paused" if o.paused else ends,
    )
