"""`smsengine queue`: whose messages wait in a queue, pause, drain and workers, over the admin API."""

from __future__ import annotations

import time
import uuid
from typing import Annotated

import msgspec
import typer
from rich.console import Console

from engine.errors import ConfigError, EngineError, Unavailable
from engine.organisations import Drain, Pause
from engine.records import Queue
from supervisor.cli import options, show
from supervisor.cli.answers import Status
from supervisor.cli.client import Client

app = typer.Typer(
    help="Queues: whose messages wait, pause, drain, resume, scale.",
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
    put_off: int = 0


class _Backlog(msgspec.Struct, frozen=True, kw_only=True):
    queue: str
    messages: int
    paused: int = 0
    segments_in_10_s: int = 0
    organisations: list[_Organisation]
    due: int = 0
    put_off: int = 0
    pause: Pause | None = None
    drain: Drain | None = None
    missing: dict[str, str] = {}


class _Pause(msgspec.Struct, frozen=True, kw_only=True):
    reason: str


class _Queue(msgspec.Struct, frozen=True, kw_only=True):
    queue: str
    pause: Pause | None = None
    drain: Drain | None = None


class Scaled(msgspec.Struct, frozen=True, kw_only=True):
    """The workers of a queue that a node is to have; None: as configured."""

    queue: str
    node: str
    processes: int | None = None
    concurrency: int | None = None


class NotDrained(EngineError):
    """A queue has messages still; the text says how many."""


_LOOK_S = 1.0
# By then every API process has looked whether the queue is drained, seconds.
_KNOWN_S = 3.0
_AS_CONFIGURED = "as-configured"
_Name = Annotated[Queue, typer.Argument(help="[cyan]express[/cyan] or [cyan]normal[/cyan].")]


@app.command("show")
@options.admin_options
def show_queue(
    queue: _Name,
    *,
    engine: options.EngineOptions,
) -> None:
    """Show the organisations with a backlog in a queue, the longest first.

    They take turns, by their weights. Messages that are put off, because their provider takes no
    more now, are counted too. Not counted are those that lie ready to be sent, and those that are
    not due yet: scheduled, or to be tried again. [cyan]smsengine status[/cyan] counts everything that waits.

    [bold]oldest[/bold]   how long the oldest message has waited
    [bold]share[/bold]    its part of all segments that left backlogs in the last ten seconds
    [bold]ends in[/bold]  in how long its last message leaves: by its share of what was sent in the last ten
    seconds, or since sending began or went on; and, for what is put off, by the throughput of the
    provider. Unknown where neither is known, as of a provider that is paused or takes nothing, and in
    the first second

    [bold]Examples[/bold]

    [cyan]smsengine queue show normal[/cyan]
    """
    found = engine.admin().get(f"/v1/admin/queues/{queue}", _Backlog)
    if engine.print_json(found):
        return
    console = Console(highlight=False, markup=False)
    if found.pause:
        console.print(show.paused_queue(queue, found.pause))
    if found.drain:
        console.print(show.drained_queue(queue, found.drain, None))
    for what, why in found.missing.items():
        console.print(f"{what} is not known: {why}")
    if found.due:
        console.print(f"{show.counted(found.due, 'message')} in no backlog, not due yet.")
    if not found.organisations:
        console.print(f"No organisation has a backlog in {queue}.")
        return
    columns = ("organisation", "messages", "put off", "segments", "oldest", "weight", "share", "ends in")
    console.print(show.table(columns, map(_row, found.organisations), frozenset(range(8))))
    paused = f", {show.number(found.paused)} of them paused" if found.paused else ""
    rate = f"{found.segments_in_10_s / 10:,.1f}"
    console.print(
        f"{show.counted(found.messages, 'message')}{paused}; {rate} segments a second left in the last 10 s"
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
    """Let a paused queue go on, or end its drain: messages are accepted and sent again.

    [bold]Example[/bold]

    [cyan]smsengine queue resume normal[/cyan]
    """
    _set_paused(queue, "resume", {}, engine)


@app.command()
@options.admin_options
def drain(
    queue: _Name,
    reason: Annotated[str, typer.Option(metavar="TEXT", help="Why, for whoever asks later.")] = "",
    wait: Annotated[bool, typer.Option("--wait", help="Return when the queue is empty.")] = False,
    timeout: Annotated[
        int, typer.Option(min=1, max=86_400, metavar="SECONDS", help="How long to wait at most.")
    ] = 3600,
    *,
    engine: options.EngineOptions,
) -> None:
    """Take no new messages for a queue until it is resumed, on no node, and deliver those that wait.

    Requests with a message for it get 503 with Retry-After, within a second or so. With
    [cyan]--wait[/cyan] it says what is left until nothing is, scheduled messages included.

    [bold]Example[/bold]

    [cyan]smsengine queue drain normal --wait --reason "provider changes its address"[/cyan]
    """
    client = engine.admin()
    path = f"/v1/admin/queues/{queue}/drain"
    found = client.post(path, _Pause(reason=reason), _Queue, idempotency_key=str(uuid.uuid4()))
    if wait:
        _wait_until_empty(client, queue, timeout, quiet=engine.as_json)
    if not engine.print_json(found) and found.drain:
        print(f"The queue {queue} is empty." if wait else show.drained_queue(queue, found.drain, None))


@app.command()
@options.admin_options
def scale(
    queue: _Name,
    processes: Annotated[str, typer.Argument(metavar="N", help=f"Workers: 0 to 256, or {_AS_CONFIGURED}.")],
    node: Annotated[
        str, typer.Option(metavar="NAME", help="Which node; without it, the one of the data directory.")
    ] = "",
    concurrency: Annotated[
        str,
        typer.Option(
            metavar="C", help=f"Sends in flight in each: 1 to 10000, or {_AS_CONFIGURED}; without it, as now."
        ),
    ] = "",
    force: Annotated[
        bool, typer.Option("--force", help="Also 0 when no other node has workers of the queue.")
    ] = False,
    *,
    engine: options.EngineOptions,
) -> None:
    """Set how many workers of a queue a node has, at once and until another number is set.

    It counts in place of the number in the configuration, also after a reload or a restart of
    the node; [cyan]smsengine status[/cyan] shows both. N [cyan]as-configured[/cyan] ends that, for the
    concurrency too.

    [bold]Examples[/bold]

    [cyan]smsengine queue scale express 4[/cyan]
    [cyan]smsengine queue scale express 4 --concurrency 800[/cyan]
    [cyan]smsengine queue scale express as-configured --node sms-2[/cyan]
    """
    body = {"processes": _number("N", processes, 0, 256), "node": node or engine.node(), "force": force}
    if concurrency:
        body["concurrency"] = _number("--concurrency", concurrency, 1, 10_000)
    elif processes == _AS_CONFIGURED:
        body["concurrency"] = None
    path = f"/v1/admin/queues/{queue}/scale"
    found = engine.admin().post(path, body, Scaled, idempotency_key=str(uuid.uuid4()))
    if not engine.print_json(found):
        workers = "workers" if found.processes is None else show.counted(found.processes, "worker")
        many = "" if found.concurrency is None else show.counted(found.concurrency, "send")
        sends = f", each with {many} in flight" if many else ""
        configured = ", as many as configured" if found.processes is None else ""
        print(f"The node {found.node} has {workers} of {queue}{configured}{sends}.")


def _number(name: str, text: str, low: int, high: int) -> int | None:
    """None for as configured. Raises ConfigError for what is neither that nor a number in its bounds."""
    if text == _AS_CONFIGURED:
        return None
    if not (text.isascii() and text.isdecimal() and len(text) < 20 and low <= int(text) <= high):
        raise ConfigError(
            f"{name} must be a whole number from {low} to {high}, or {_AS_CONFIGURED}, not {text!r}."
        )
    return int(text)


def _wait_until_empty(client: Client, queue: Queue, timeout_s: float, *, quiet: bool) -> None:
    """Raises NotDrained when the queue is not empty after `timeout_s` seconds."""
    began = time.monotonic()
    left, printed = "how many are left is not known", ""
    while True:
        try:
            seen = client.get("/v1/admin/status", Status)
            state = (seen.queues or {}).get(queue)
            left = left if state is None else show.left_in(state)
            empty = state is not None and not state.waiting + state.in_hand + state.due
            if empty and time.monotonic() > began + _KNOWN_S:
                return
            if seen.drained_queues is not None and queue not in seen.drained_queues:
                raise NotDrained(f"Somebody has ended the drain of {queue}: {left}.")
        except Unavailable as e:
            # A look that fails says nothing about the queue.
            left = e.detail
        if time.monotonic() > began + timeout_s:
            raise NotDrained(f"The queue {queue} is not empty after {timeout_s:g} s: {left}.")
        if left != printed and not quiet:
            print(left, flush=True)
            printed = left
        time.sleep(_LOOK_S)


def _set_paused(queue: Queue, verb: str, body: object, engine: options.EngineOptions) -> None:
    path = f"/v1/admin/queues/{queue}/{verb}"
    found = engine.admin().post(path, body, _Queue, idempotency_key=str(uuid.uuid4()))
    if not engine.print_json(found):
        print(show.paused_queue(queue, found.pause))
        if found.drain:
            print(show.drained_queue(queue, found.drain, None))


def _row(o: _Organisation) -> tuple[str, ...]:
    ends = "unknown" if o.ends_in_ms is None else show.span(o.ends_in_ms)
    return (
        str(o.organisation_id),
        show.number(o.messages),
        show.number(o.put_off),
        show.number(o.segments),
        show.span(o.oldest_ms),
        f"{o.weight:g}",
        "" if o.share is None else f"{100 * o.share:.1f} %",
        "paused" if o.paused else ends,
    )
