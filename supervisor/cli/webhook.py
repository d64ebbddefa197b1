"""`smsengine webhook`: endpoints of organisations and what could not be delivered to them, over the admin
API."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated
from urllib.parse import quote

import msgspec
import typer
from rich.console import Console

from engine.errors import ConfigError, Refusal
from supervisor.cli import options, show
from supervisor.cli.client import Client, decode, json_bytes

app = typer.Typer(
    help="Webhooks: endpoints, failed deliveries, replay.", no_args_is_help=True, rich_markup_mode="rich"
)
_PAGE = 500

_Organisation = Annotated[
    int, typer.Argument(metavar="ORGANISATION", min=1, help="Its id: see `smsengine org list`.")
]
_EndpointId = Annotated[
    int, typer.Argument(metavar="ENDPOINT", min=1, help="Its id: see `smsengine webhook list`.")
]

_Events = Annotated[
    list[str] | None,
    typer.Option("--event", metavar="TYPE", help="Only events of this type; may be given several times."),
]


class _Endpoint(msgspec.Struct, frozen=True, kw_only=True):
    id: int
    url: str | None
    created_at: str
    previous_secret_until: str | None = None
    # None: all.
    events: list[str] | None = None


class _Made(_Endpoint, frozen=True, kw_only=True):
    secret: str


class _Endpoints(msgspec.Struct, frozen=True, kw_only=True):
    webhook_endpoints: list[_Endpoint]


class _Delivery(msgspec.Struct, frozen=True, kw_only=True):
    id: int
    state: str
    event_id: str
    type: str
    url: str
    event_at: str
    attempts: int
    next_attempt_at: str | None = None
    failed_at: str | None = None
    last_status: int | None = None
    last_reason: str = ""


class _Deliveries(msgspec.Struct, frozen=True, kw_only=True):
    webhook_deliveries: list[_Delivery]
    next: int | None = None


class _Delivered(msgspec.Struct, frozen=True, kw_only=True):
    event_id: str
    type: str
    url: str
    event_at: str
    delivered_at: str
    status: int
    duration_ms: float
    attempts: int


class _AllDelivered(msgspec.Struct, frozen=True, kw_only=True):
    webhook_deliveries: list[_Delivered]


class _Test(msgspec.Struct, frozen=True, kw_only=True):
    event_id: str


class _Replayed(msgspec.Struct, frozen=True, kw_only=True):
    replayed: int


@app.command("list")
@options.admin_options
def list_endpoints(organisation: _Organisation, *, engine: options.EngineOptions) -> None:
    """List the endpoints of an organisation; with --json one object a line.

    [bold]Example[/bold]

    [cyan]smsengine webhook list 7[/cyan]
    """
    found = engine.admin().get(f"{_of(organisation)}/webhook-endpoints", _Endpoints).webhook_endpoints
    for endpoint in found:
        engine.print_json(endpoint)
    if engine.as_json:
        return
    console = Console(highlight=False, markup=False)
    if not found:
        console.print("The organisation has no endpoints.")
        return
    rows = [
        (
            str(e.id),
            e.url or "callback URLs of messages",
            _moment(e.created_at),
            _moment(e.previous_secret_until),
            ", ".join(e.events) if e.events else "all",
        )
        for e in found
    ]
    columns = ("id", "url", "since", "two secrets until", "events")
    console.print(show.table(columns, rows, frozenset({0})))


@app.command()
@options.admin_options
def add(
    organisation: _Organisation,
    url: Annotated[str, typer.Argument(metavar="URL", help="https:// or http://.")],
    events: _Events = None,
    *,
    engine: options.EngineOptions,
) -> None:
    """Tell a URL what becomes of an organisation's messages; prints the secret, once.

    [bold]Examples[/bold]

    [cyan]smsengine webhook add 7 https://example.com/hook[/cyan]
    [cyan]smsengine webhook add 7 https://example.com/in --event message.received[/cyan]
    """
    wanted = {"url": url, "events": events or None}
    made = engine.admin().post(f"{_of(organisation)}/webhook-endpoints", wanted, _Made)
    if not engine.print_json(made):
        print(f"endpoint  {made.id}")
        print(f"secret    {made.secret}")


@app.command("events")
@options.admin_options
def set_events(
    organisation: _Organisation,
    endpoint: _EndpointId,
    events: _Events = None,
    every: Annotated[bool, typer.Option("--all", help="All types.")] = False,
    *,
    engine: options.EngineOptions,
) -> None:
    """Set the types of the events that an endpoint is told of.

    [bold]Examples[/bold]

    [cyan]smsengine webhook events 7 12 --event message.delivered --event message.failed[/cyan]
    [cyan]smsengine webhook events 7 12 --all[/cyan]
    """
    if bool(events) == every:
        raise ConfigError("Name types of events with --event, or give --all.")
    path, body = f"{_of(organisation)}/webhook-endpoints/{endpoint}", {"events": events or None}
    changed = decode(engine.admin().call("PATCH", path, json_bytes(body)).body, _Endpoint)
    if not engine.print_json(changed):
        print(f"endpoint {endpoint} is told of {', '.join(changed.events or ['all events'])}")


@app.command()
@options.admin_options
def remove(organisation: _Organisation, endpoint: _EndpointId, *, engine: options.EngineOptions) -> None:
    """Remove an endpoint: it is told nothing more, and the deliveries that wait for it have failed.

    [bold]Example[/bold]

    [cyan]smsengine webhook remove 7 12[/cyan]
    """
    engine.admin().call("DELETE", f"{_of(organisation)}/webhook-endpoints/{endpoint}")
    if not engine.print_json({"removed": endpoint}):
        print(f"endpoint {endpoint} is removed")


@app.command()
@options.admin_options
def test(organisation: _Organisation, endpoint: _EndpointId, *, engine: options.EngineOptions) -> None:
    """Send an endpoint a test event.

    [bold]Example[/bold]

    [cyan]smsengine webhook test 7 12[/cyan]
    """
    sent = engine.admin().post(f"{_of(organisation)}/webhook-endpoints/{endpoint}/test", {}, _Test)
    if not engine.print_json(sent):
        print(
            f"{sent.event_id} is on its way; if it fails, `smsengine webhook failed {organisation}` says why"
        )


@app.command()
@options.admin_options
def failed(
    organisation: _Organisation,
    waiting: Annotated[
        bool, typer.Option("--waiting", help="Those that wait for their next attempt.")
    ] = False,
    *,
    engine: options.EngineOptions,
) -> None:
    """List the deliveries of an organisation that have failed, newest first; with --json one object a line.

    [bold]Examples[/bold]

    [cyan]smsengine webhook failed 7[/cyan]
    [cyan]smsengine webhook failed 7 --waiting[/cyan]
    """
    state, found = "waiting" if waiting else "failed", []
    for delivery in _deliveries(engine.admin(), organisation, state):
        found.append(delivery)
        engine.print_json(delivery)
    if engine.as_json:
        return
    console = Console(highlight=False, markup=False)
    if not found:
        console.print(f"No delivery {'waits' if waiting else 'has failed'}.")
        return
    columns = ("id", "type", "url", "event at", "attempts", "last answer", "next" if waiting else "failed at")
    console.print(show.table(columns, map(_row, found), frozenset({0, 4})))


@app.command()
@options.admin_options
def delivered(
    organisation: _Organisation,
    endpoint: Annotated[
        str, typer.Argument(metavar="ENDPOINT", help="Its id, or `callbacks` for what went to callback URLs.")
    ],
    *,
    engine: options.EngineOptions,
) -> None:
    """List the last 100 deliveries that an endpoint took, newest first; with --json one object a line.

    [bold]Example[/bold]

    [cyan]smsengine webhook delivered 7 12[/cyan]
    """
    path = f"{_of(organisation)}/webhook-endpoints/{quote(endpoint, safe='')}/deliveries"
    found = engine.admin().get(path, _AllDelivered).webhook_deliveries
    for delivery in found:
        engine.print_json(delivery)
    if engine.as_json:
        return
    console = Console(highlight=False, markup=False)
    if not found:
        console.print("The endpoint has taken no delivery lately.")
        return
    rows = [
        (
            _moment(d.delivered_at),
            d.event_id,
            d.type,
            str(d.status),
            f"{d.duration_ms:.1f} ms",
            str(d.attempts),
        )
        for d in found
    ]
    columns = ("delivered at", "event", "type", "answer", "after", "attempts")
    console.print(show.table(columns, rows, frozenset({4, 5})))


@app.command()
@options.admin_options
def replay(
    organisation: _Organisation,
    ids: Annotated[
        list[int] | None,
        typer.Argument(metavar="ID...", help="Ids of deliveries: see `smsengine webhook failed`."),
    ] = None,
    since: Annotated[
        str,
        typer.Option(metavar="TIME", help="All that have failed since this time (RFC 3339, with an offset)."),
    ] = "",
    *,
    engine: options.EngineOptions,
) -> None:
    """Try failed deliveries again, now.

    Exit code 1 when one of them is not there any more.

    [bold]Examples[/bold]

    [cyan]smsengine webhook replay 7 4711 4712[/cyan]
    [cyan]smsengine webhook replay 7 --since 2026-11-28T09:00:00Z[/cyan]
    """
    if bool(ids) == bool(since):
        raise ConfigError("Name the ids of deliveries, or give --since.")
    client, path, done, gone = engine.admin(), f"{_of(organisation)}/webhook-deliveries", 0, []
    if since:
        done = client.post(f"{path}/replay", {"since": since}, _Replayed).replayed
    for delivery_id in ids or []:
        try:
            client.post(f"{path}/{delivery_id}/replay", {}, _Delivery)
            done += 1
        except Refusal as e:
            if e.status != 404:
                raise
            gone.append(delivery_id)
    if not engine.print_json({"replayed": done, "not_found": gone}):
        print(f"{show.number(done)} to be delivered again")
        for delivery_id in gone:
            print(f"{delivery_id}: there is no such delivery")
    raise typer.Exit(1 if gone else 0)


def _deliveries(client: Client, organisation: int, state: str) -> Iterator[_Delivery]:
    """All of them, page by page."""
    cursor: int | str | None = ""
    while cursor is not None:
        query = f"?state={state}&limit={_PAGE}&cursor={cursor}"
        page = client.get(f"{_of(organisation)}/webhook-deliveries{query}", _Deliveries)
        yield from page.webhook_deliveries
        cursor = page.next


def _of(organisation: int) -> str:
    return f"/v1/admin/organisations/{organisation}"


def _row(d: _Delivery) -> tuple[str, ...]:
    answer = str(d.last_status) if d.last_status else d.last_reason
    return (
        str(d.id), d.type, d.url, _moment(d.event_at), str(d.attempts), answer,
        _moment(d.failed_at or d.next_attempt_at),
    )  # fmt: skip


def _moment(at: str | None) -> str:
    """A time of the API to the second: 2026-11-22 08:26:00."""
    return (at or "")[:19].replace("T", " ")
