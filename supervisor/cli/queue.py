"""`smsengine queue`: whose messages wait in a queue, over the admin API."""

from __future__ import annotations

from typing import Annotated

import msgspec
import typer
from rich.console import Console

from engine.records import Queue
from supervisor.cli import options, show

app = typer.Typer(
    help="Whose messages wait.",
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


@app.callback()
def queues() -> None:
    """Whose messages wait."""


@app.command("show")
@options.admin_options
def show_queue(
    queue: Annotated[Queue, typer.Argument(help="[cyan]express[/cyan] or [cyan]normal[/cyan].")],
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
