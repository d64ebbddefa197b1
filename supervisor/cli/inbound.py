"""`smsengine inbound` and `smsengine inbound-route`: what recipients write, over the admin API."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import urlencode

import msgspec
import typer
from rich.console import Console

from engine.inbound.records import InboundMessage, InboundRoute
from supervisor.cli import options, show
from supervisor.cli.client import decode, json_bytes
from supervisor.cli.org_limits import Id

app = typer.Typer(
    help="Messages that recipients write: list them, write one as if a recipient had.",
    no_args_is_help=True,
    rich_markup_mode="rich",
)
routes = typer.Typer(
    help="Who gets the messages to a number: list, add, remove. In force for the next message.",
    no_args_is_help=True,
    rich_markup_mode="rich",
)
_MESSAGES, _ROUTES = "/v1/admin/inbound-messages", "/v1/admin/inbound-routes"

Number = Annotated[str, typer.Argument(metavar="NUMBER", help="The number or short code, digits.")]
Keyword = Annotated[
    str,
    typer.Option(
        metavar="WORD", help="Only messages that begin with it; without it, all that no other keyword has."
    ),
]


class _Page(msgspec.Struct, frozen=True, kw_only=True):
    inbound_messages: list[InboundMessage]
    next: str | None


class _Routes(msgspec.Struct, frozen=True, kw_only=True):
    inbound_routes: list[InboundRoute]


class _Written(msgspec.Struct, frozen=True, kw_only=True):
    sender: str = msgspec.field(name="from")
    recipient: str = msgspec.field(name="to")
    text: str


class _Kept(msgspec.Struct, frozen=True, kw_only=True):
    status: str


class _OldRoute(msgspec.Struct, frozen=True, kw_only=True):
    number: str
    keyword: str


@app.command("list")
@options.admin_options
def list_messages(
    organisation: Annotated[
        int,
        typer.Argument(metavar="ID", min=0, help="Id of the organisation; 0: to numbers without a route."),
    ],
    limit: Annotated[
        int, typer.Option(min=1, max=1000, metavar="N", help="How many, the newest first.")
    ] = 100,
    *,
    engine: options.EngineOptions,
) -> None:
    """List what was written to the numbers of an organisation, the newest first.

    [bold]Examples[/bold]

    [cyan]smsengine inbound list 7[/cyan]
    [cyan]smsengine inbound list 0[/cyan]
    """
    query = urlencode({"organisation": organisation, "limit": limit})
    found = engine.admin().get(f"{_MESSAGES}?{query}", _Page).inbound_messages
    for message in found if engine.as_json else ():
        engine.print_json(message)
    if not engine.as_json:
        rows = (
            (f"{m.at:%Y-%m-%d %H:%M:%S}", m.sender, m.recipient, m.keyword, m.action, m.text) for m in found
        )
        Console(highlight=False, markup=False).print(
            show.listing(("at", "from", "to", "keyword", "action", "text"), rows, none="Nothing was written.")
        )


@app.command()
@options.admin_options
def write(
    sender: Annotated[str, typer.Option("--from", metavar="NUMBER", help="Who writes, in E.164.")],
    recipient: Annotated[str, typer.Option("--to", metavar="NUMBER", help="The number or short code.")],
    text: Annotated[str, typer.Option(metavar="TEXT", help="What is written.")],
    *,
    engine: options.EngineOptions,
) -> None:
    """Write a message as if a recipient had, to see what becomes of it.

    [bold]Example[/bold]

    [cyan]smsengine inbound write --from +4915112345678 --to 12345 --text STOP[/cyan]
    """
    body = _Written(sender=sender, recipient=recipient, text=text)
    kept = engine.admin().post(_MESSAGES, body, _Kept)
    if not engine.print_json(kept):
        print("The message is kept; it is stored within about a second.")


@routes.command("list")
@options.admin_options
def list_routes(*, engine: options.EngineOptions) -> None:
    """List which organisation gets the messages to each number.

    [bold]Example[/bold]

    [cyan]smsengine inbound-route list[/cyan]
    """
    found = engine.admin().get(_ROUTES, _Routes)
    if engine.print_json(found):
        return
    rows = ((r.number, r.keyword or "all others", str(r.organisation_id)) for r in found.inbound_routes)
    Console(highlight=False, markup=False).print(
        show.listing(
            ("number", "keyword", "organisation"),
            rows,
            none="There are no routes: what recipients write is nobody's.",
        )
    )


@routes.command("add")
@options.admin_options
def add_route(
    number: Number, organisation: Id, keyword: Keyword = "", *, engine: options.EngineOptions
) -> None:
    """Give an organisation the messages to a number, or those that begin with a keyword.

    [bold]Examples[/bold]

    [cyan]smsengine inbound-route add 12345 7[/cyan]
    [cyan]smsengine inbound-route add 12345 8 --keyword PIZZA[/cyan]
    """
    body = json_bytes(InboundRoute(number=number, keyword=keyword, organisation_id=organisation))
    made = decode(engine.admin().call("PUT", _ROUTES, body).body, InboundRoute)
    if not engine.print_json(made):
        print(f"{made.number} {made.keyword or 'all others'}: organisation {made.organisation_id}")


@routes.command("remove")
@options.admin_options
def remove_route(number: Number, keyword: Keyword = "", *, engine: options.EngineOptions) -> None:
    """Give the messages to a number, or those with a keyword, to no organisation any more.

    [bold]Example[/bold]

    [cyan]smsengine inbound-route remove 12345 --keyword PIZZA[/cyan]
    """
    engine.admin().call("POST", f"{_ROUTES}/remove", json_bytes(_OldRoute(number=number, keyword=keyword)))
    if not engine.print_json({"removed": True}):
        print("The route is removed.")
