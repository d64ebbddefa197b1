"""`smsengine message`: what became of messages, over the API of their organisation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Annotated, Any
from urllib.parse import quote, urlencode

import msgspec
import typer
from rich.console import Console
from rich.text import Text

from engine.errors import Refusal
from engine.records import MessageDraft, Queue
from supervisor.cli import options, show
from supervisor.cli.client import Client, Problem
from supervisor.output import visible_in_line

app = typer.Typer(
    help="Messages of an organisation: estimate, list, show, cancel; batches.",
    no_args_is_help=True,
    rich_markup_mode="rich",
)
_PATH = "/v1/messages"
_PAGE = 500
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


class _Forcing(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    at: int


class _Smart(msgspec.Struct, frozen=True, kw_only=True):
    encoding: str
    segments: int


def _sized(of: _Message | _Estimate | _Smart) -> str:
    """Its segments and their encoding."""
    return f"{show.counted(of.segments, 'segment')} {of.encoding}"


class _Estimate(msgspec.Struct, frozen=True, kw_only=True):
    encoding: str
    segments: int
    available: int
    units: int | None = None
    forced_by: _Forcing | None = None
    replaced: int = 0
    smart_encoding: _Smart | None = None
    problem: Problem | None = None


class _Page(msgspec.Struct, frozen=True, kw_only=True):
    messages: list[dict[str, Any]]
    next: str | None
    as_of: str


class _CanceledBatch(msgspec.Struct, frozen=True, kw_only=True):
    canceled: int
    units: int
    not_canceled: dict[str, int]


class _CanceledCampaign(_CanceledBatch, frozen=True, kw_only=True):
    next: str | None


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
    console = Console(highlight=False, markup=False)
    sender = f" from {visible_in_line(message.sender)}" if message.sender else ""
    console.print(Text(f"{message.status} ({message.charge}) to {message.to}{sender}, {message.queue}"))
    console.print(Text(f"{_sized(message)}, {show.counted(message.units, 'unit')}"))
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


@app.command("estimate")
@options.customer_options
def estimate(
    to: Annotated[str, typer.Option(metavar="NUMBER", help="Recipient in E.164, e.g. +989121234567.")],
    text: Annotated[str, typer.Option(metavar="TEXT", help="Text of the message.")],
    sender: Annotated[
        str, typer.Option("--from", metavar="SENDER", help="Sender shown to the recipient.")
    ] = "",
    queue: Annotated[Queue | None, typer.Option(help="Queue; normal without it.")] = None,
    smart_encoding: Annotated[
        bool,
        typer.Option("--smart-encoding", help="Typographic quotes, dashes, spaces become those of GSM-7."),
    ] = False,
    *,
    engine: options.EngineOptions,
) -> None:
    """Say what a message would cost: encoding, segments, units, and whether it would be accepted.

    Nothing is sent. Exit code 1 if it would not be accepted.

    [bold]Example[/bold]

    [cyan]smsengine message estimate --to +989121234567 --text "It’s here"[/cyan]
    """
    draft = MessageDraft(to=to, text=text, sender=sender or None, queue=queue, smart_encoding=smart_encoding)
    client = engine.whereabouts.customer()
    try:
        found = client.post(f"{_PATH}/estimate", draft, dict[str, Any])
    finally:
        client.close()
    if not engine.print_json(found):
        _print_estimate(msgspec.convert(found, _Estimate))
    if not found["accepted"]:
        raise typer.Exit(1)


def _print_estimate(found: _Estimate) -> None:
    units = "" if found.units is None else f", {show.counted(found.units, 'unit')}"
    print(f"{_sized(found)}{units}; {show.counted(found.available, 'unit')} available")
    if found.forced_by is not None:
        before = show.counted(found.forced_by.at, "character")
        print(f"UCS-2 because of {found.forced_by.name}, after {before}")
    if found.smart_encoding is not None:
        print(f"with --smart-encoding: {_sized(found.smart_encoding)}")
    if found.replaced:
        print(f"{show.counted(found.replaced, 'character')} replaced")
    print("it would be accepted" if found.problem is None else f"not accepted: {found.problem.detail}")


@app.command("list")
@options.customer_options
def list_messages(
    status: Annotated[
        str, typer.Option(metavar="STATUS", help="Only those of this status, e.g. failed.")
    ] = "",
    to: Annotated[str, typer.Option(metavar="NUMBER", help="Only those to this recipient.")] = "",
    reference: Annotated[str, typer.Option(metavar="TEXT", help="Only those with this reference.")] = "",
    queue: Annotated[Queue | None, typer.Option(help="Only those of this queue.")] = None,
    batch: Annotated[str, typer.Option(metavar="ID", help="Only those of this batch.")] = "",
    since: Annotated[
        str, typer.Option(metavar="TIME", help="Accepted from then on: 2026-12-01T00:00:00Z.")
    ] = "",
    until: Annotated[str, typer.Option(metavar="TIME", help="Accepted before then; now if absent.")] = "",
    limit: Annotated[int, typer.Option(min=1, help="How many, the newest first.")] = 100,
    *,
    engine: options.EngineOptions,
) -> None:
    """List messages, the newest first, as far as they are archived: a second or so behind.

    With --json one object a line.

    [bold]Examples[/bold]

    [cyan]smsengine message list --status failed --since 2026-12-01T00:00:00Z[/cyan]
    [cyan]smsengine message list --batch 01a202a3c1117fd392d49ad3082ddfbb-1000[/cyan]
    """
    filters = {
        "status": status, "to": to, "reference": reference, "queue": queue or "", "batch": batch,
        "since": since, "until": until,
    }  # fmt: skip
    client, found, as_of = engine.whereabouts.customer(), 0, ""
    console = Console(highlight=False, markup=False, soft_wrap=True)
    try:
        given = {name: value for name, value in filters.items() if value}
        for message, of_page in _listed(client, given, limit):
            found, as_of = found + 1, of_page
            if not engine.print_json(message):
                console.print(_lines(msgspec.convert(message, _Message)))
    finally:
        client.close()
    if engine.as_json:
        return
    console.print(f"as of {as_of[:19]}" if found else "There are no such messages.")


def _lines(message: _Message) -> Text:
    """Two lines; the first begins with the id, which a table would break on a narrow terminal."""
    reference = f"  {visible_in_line(message.reference)}" if message.reference else ""
    return Text(
        f"{message.id}  {message.status}, {message.charge} {message.units}\n"
        f"    {message.accepted_at[:19]}  to {message.to}{reference}"
    )


def _listed(client: Client, filters: dict[str, str], limit: int) -> Iterator[tuple[dict[str, Any], str]]:
    """(a message, up to when its page knew everything) of all pages, up to `limit`. Raises Refusal,
    Unavailable."""
    cursor: str | None = ""
    while cursor is not None and limit > 0:
        query = urlencode({**filters, "limit": min(limit, _PAGE), **({"cursor": cursor} if cursor else {})})
        page = client.get(f"{_PATH}?{query}", _Page)
        yield from ((message, page.as_of) for message in page.messages)
        limit -= len(page.messages)
        cursor = page.next


@app.command("batch")
@options.customer_options
def batch(
    batch_id: Annotated[str, typer.Argument(metavar="ID", help="Id of the batch, as the API answered it.")],
    cancel_all: Annotated[
        bool, typer.Option("--cancel", help="Cancel those of its messages that no provider has been given.")
    ] = False,
    *,
    engine: options.EngineOptions,
) -> None:
    """Show what has become of the messages of a batch; with --cancel take back what can be.

    [bold]Examples[/bold]

    [cyan]smsengine message batch 01a202a3c1117fd392d49ad3082ddfbb-1000[/cyan]
    [cyan]smsengine message batch 01a202a3c1117fd392d49ad3082ddfbb-1000 --cancel[/cyan]
    """
    client, path = engine.whereabouts.customer(), f"/v1/batches/{quote(batch_id, safe='')}"
    try:
        if cancel_all:
            found = client.post(f"{path}/cancel", {}, dict[str, Any])
        else:
            found = client.get(path, dict[str, Any])
    finally:
        client.close()
    if engine.print_json(found):
        return
    if cancel_all:
        _print_canceled(msgspec.convert(found, _CanceledBatch))
        return
    print(
        show.counted(found["messages"], "message")
        + (", none is going to be sent any more" if found["over"] else "")
    )
    for status, count in found["statuses"].items():
        print(f"{count} {status}")


@app.command("cancel")
@options.customer_options
def cancel(
    message_ids: Annotated[
        list[str] | None, typer.Argument(metavar="[ID...]", help="Ids of messages.")
    ] = None,
    campaign: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="All messages whose reference is this, or begins with it and one of - _ / : . or a blank.",
        ),
    ] = "",
    *,
    engine: options.EngineOptions,
) -> None:
    """Cancel messages that no provider has been given: they are not sent, and their units are released.

    Exit code 1 if any could not be canceled.

    [bold]Examples[/bold]

    [cyan]smsengine message cancel 01a202a3-c111-7fd3-92d4-9ad3082ddfbb[/cyan]
    [cyan]smsengine message cancel --campaign spring[/cyan]
    """
    if bool(message_ids) == bool(campaign):
        raise typer.BadParameter("Give ids of messages, or a --campaign.")
    client, failed = engine.whereabouts.customer(), False
    try:
        if campaign:
            failed = not _cancel_campaign(client, campaign, engine)
        for message_id in message_ids or ():
            failed = not _cancel(client, message_id, engine) or failed
    finally:
        client.close()
    if failed:
        raise typer.Exit(1)


def _cancel_campaign(client: Client, campaign: str, engine: options.EngineOptions) -> bool:
    """Cancel all messages of a campaign; whether no worker had any of them. Raises Unavailable, Refusal."""
    total, cursor = _CanceledBatch(canceled=0, units=0, not_canceled={}), None
    while True:
        found = client.post(f"{_PATH}/cancel", {"campaign": campaign, "cursor": cursor}, _CanceledCampaign)
        counts = Counter(total.not_canceled) + Counter(found.not_canceled)
        total = _CanceledBatch(
            canceled=total.canceled + found.canceled,
            units=total.units + found.units,
            not_canceled=dict(counts),
        )
        cursor = found.next
        if cursor is None:
            break
    if not engine.print_json({"campaign": campaign, **msgspec.to_builtins(total)}):
        _print_canceled(total)
    return not total.not_canceled


def _print_canceled(of: _CanceledBatch) -> None:
    print(f"{of.canceled} canceled, {show.counted(of.units, 'unit')} released")
    for code, count in of.not_canceled.items():
        print(f"{count} not canceled: {code}")


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
        print(f"canceled {message_id}, {show.counted(canceled['units'], 'unit')} released")
    return True
