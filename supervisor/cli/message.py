"""`smsengine message`: what became of messages, over the API of their organisation."""

from __future__ import annotations

from typing import Annotated, Any
from urllib.parse import quote

import msgspec
import typer
from rich.console import Console
from rich.text import Text

from engine.errors import Refusal
from supervisor.cli import options, show
from supervisor.cli.client import Client

app = typer.Typer(
    help="Messages of an organisation: show, cancel.",
    no_args_is_help=True,
    rich_markup_mode="rich",
)
_PATH = "/v1/messages"
_Id = Annotated[str, typer.Argument(metavar="ID", help="Id of the message, as [cyan]send[/cyan] printed it.")]


class _Event(msgspec.Struct, frozen=True, kw_only=True):
    at: str
    event: str
    provider: str = ""
    code: str = ""
    attempt: int = 0
    latency_ms: float = 0.0


class _Message(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    status: str
    charge: str
    queue: str = ""
    to: str = ""
    sender: str = msgspec.field(name="from", default="")
    reference: str = ""
    segments: int = 0
    units: int = 0
    encoding: str = ""
    accepted_at: str = ""
    events: list[_Event] = []
    history_complete: bool = True


@app.command("show")
@options.customer_options
def show_message(message_id: _Id, *, engine: options.EngineOptions) -> None:
    """Show a message: its status, its charge, and each event of it with attempts and the provider's codes.

    [bold]Example[/bold]

    [cyan]smsengine message show 01a202a3-c111-7fd3-92d4-9ad3082ddfbb[/cyan]
    """
    client = engine.whereabouts.customer()
    try:
        found = client.get(f"{_PATH}/{quote(message_id, safe='')}", dict[str, Any])
    finally:
        client.close()
    if engine.print_json(found):
        return
    message = msgspec.convert(found, _Message)
    console = Console(highlight=False)
    sender = f" from {message.sender}" if message.sender else ""
    console.print(Text(f"{message.status} ({message.charge}) to {message.to}{sender}, {message.queue}"))
    console.print(Text(f"{message.segments} segments {message.encoding}, {message.units} units"))
    columns = ("at", "event", "attempt", "provider", "code", "took")
    rows = (
        (
            e.at,
            e.event,
            str(e.attempt or ""),
            e.provider,
            e.code,
            f"{e.latency_ms:g} ms" if e.latency_ms else "",
        )
        for e in message.events
    )
    console.print(show.table(columns, rows, frozenset({2, 5})))
    if not message.history_complete:
        console.print("The latest events could not be looked up.")


@app.command("cancel")
@options.customer_options
def cancel(
    message_ids: Annotated[list[str], typer.Argument(metavar="ID...", help="Ids of messages.")],
    *,
    engine: options.EngineOptions,
) -> None:
    """Cancel messages that no provider has been given: they are not sent, and their units are released.

    Exit code 1 if any could not be canceled.

    [bold]Example[/bold]

    [cyan]smsengine message cancel 01a202a3-c111-7fd3-92d4-9ad3082ddfbb[/cyan]
    """
    client, failed = engine.whereabouts.customer(), False
    try:
        for message_id in message_ids:
            failed = not _cancel(client, message_id, engine) or failed
    finally:
        client.close()
    if failed:
        raise typer.Exit(1)


def _cancel(client: Client, message_id: str, engine: options.EngineOptions) -> bool:
    """Whether it is canceled; prints what became of it. Raises Unavailable, and Refusal for a bad key."""
    try:
        canceled = client.post(f"{_PATH}/{quote(message_id, safe='')}/cancel", {}, dict[str, Any])
    except Refusal as e:
        if e.status in (401, 403):
            raise
        if not engine.print_json({"id": message_id, "code": e.code, "detail": e.detail}):
            print(f"not canceled {message_id}: {e.detail}")
        return False
    if not engine.print_json(canceled):
        print(f"canceled {message_id}, {canceled['units']} units released")
    return True
