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


class _Backlog(msgspec.Struct, frozen=True, kw_only=True):
    queue: str
    messages: int
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

    They take turns. What lies ready to be sent, whoever it belongs to, is not among it: [cyan]smsengine
    status[/cyan] counts everything that waits.

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
    rows = (
        (str(o.organisation_id), show.number(o.messages), show.number(o.segments), show.span(o.oldest_ms))
        for o in found.organisations
    )
    columns = ("organisation", "messages", "segments", "oldest waits")
    console.print(show.table(columns, rows, frozenset({0, 1, 2, 3})))
