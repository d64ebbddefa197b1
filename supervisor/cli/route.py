"""`smsengine route`: which providers take which messages, over the admin API."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.console import Console

from engine.errors import ConfigError
from engine.records import Queue
from engine.routing.records import Route
from supervisor.cli import options, show, toml_file
from supervisor.cli.client import Client, decode, json_bytes

app = typer.Typer(
    help="Which providers carry what: list, set, remove, import. In force within a second.",
    no_args_is_help=True,
    rich_markup_mode="rich",
)
_PATH = "/v1/admin/routes"
# How the empty prefix is written on a command line.
_ALL = "all"

_Key = tuple[str, str, str]


class _File(msgspec.Struct, frozen=True):
    """A configuration, or any other TOML file with sections [[routes]]."""

    routes: list[Route]


class _Routes(msgspec.Struct, frozen=True, kw_only=True):
    """What the engine answers, and what is sent to it: a change names the version that it is based on."""

    routes: list[Route]
    version: int


Prefix = Annotated[
    str,
    typer.Argument(
        metavar="PREFIX", help="How the number begins, such as +98; [cyan]all[/cyan] for all destinations."
    ),
]
Sender = Annotated[str, typer.Option("--sender", metavar="ID", help="Only for messages with this sender id.")]
OfQueue = Annotated[
    Queue | None, typer.Option("--queue", help="Only for messages of this queue.", show_choices=True)
]


@app.command("list")
@options.admin_options
def list_routes(
    *,
    engine: options.EngineOptions,
) -> None:
    """List the routes.

    The longest prefix that matches counts; of those with the same prefix one that
    names the sender, then one that names the queue. As long as there is no route at
    all, every provider carries everything, in the order of the configuration; as
    soon as there is one, what no route matches fails.

    [bold]Example[/bold]

    [cyan]smsengine route list[/cyan]
    """
    _print(engine.admin().get(_PATH, _Routes), engine)


@app.command("set")
@options.admin_options
def set_route(
    prefix: Prefix,
    providers: Annotated[
        list[str],
        typer.Argument(
            metavar="PROVIDER[=SHARE]",
            help="In order of preference; or each with its share of the traffic. A share of 0 is for when "
            "no other can.",
        ),
    ],
    sender: Sender = "",
    queue: OfQueue = None,
    reroute: Annotated[
        bool,
        typer.Option("--reroute", help="Send again, by another, what a receipt says was not delivered."),
    ] = False,
    *,
    engine: options.EngineOptions,
) -> None:
    """Set the route of a prefix, in place of the one there was; the others stay.

    [bold]Examples[/bold]

    First one provider, another when it fails:

    [cyan]smsengine route set all provider-a provider-b[/cyan]

    Seven of ten messages through one of them:

    [cyan]smsengine route set +98 provider-a=7 provider-b=3[/cyan]

    One-time codes of one sender go another way:

    [cyan]smsengine route set +98 provider-c --sender Acme --queue express[/cyan]
    """
    names, weights = _shares(providers)
    route = Route(
        prefix=_prefix(prefix),
        sender=sender,
        queue=queue or "",
        providers=names,
        weights=weights,
        reroute=reroute,
    )
    client = engine.admin()
    now = client.get(_PATH, _Routes)
    others = [other for other in now.routes if _key(other) != _key(route)]
    _print(_replaced(client, [*others, route], now.version), engine)


@app.command()
@options.admin_options
def remove(
    prefix: Prefix,
    sender: Sender = "",
    queue: OfQueue = None,
    *,
    engine: options.EngineOptions,
) -> None:
    """Remove the route of a prefix; the others stay.

    A route that names a sender or a queue is removed by naming them too.

    [bold]Examples[/bold]

    [cyan]smsengine route remove +98[/cyan]
    [cyan]smsengine route remove +98 --sender Acme --queue express[/cyan]
    """
    wanted = (_prefix(prefix), sender, queue or "")
    client = engine.admin()
    now = client.get(_PATH, _Routes)
    left = [route for route in now.routes if _key(route) != wanted]
    if len(left) == len(now.routes):
        of = f" for sender {sender}" if sender else ""
        of += f" for queue {queue}" if queue else ""
        raise ConfigError(f"There is no route of prefix {prefix}{of}; see `smsengine route list`.")
    _print(_replaced(client, left, now.version), engine)


@app.command("import")
@options.admin_options
def import_routes(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE", help="A TOML file with [\\[routes]] sections, such as a configuration."
        ),
    ],
    *,
    engine: options.EngineOptions,
) -> None:
    """Replace all routes by those of a file, in one step.

    Nothing is changed when any of them is wrong. [cyan]routes = \\[][/cyan] removes all.

    [bold]Example[/bold]

    [cyan]smsengine route import routes.toml[/cyan]

    with a file such as

    [cyan][\\[routes]][/cyan]
    [cyan]prefix = "+98"[/cyan]
    [cyan]providers = \\["provider-a", "provider-b"][/cyan]
    [cyan]weights = \\[7, 3][/cyan]
    """
    must = "sections [[routes]], each with providers"
    wanted = toml_file.read(file, _File, "routes", must).routes
    client = engine.admin()
    _print(_replaced(client, wanted, client.get(_PATH, _Routes).version), engine)


def _replaced(client: Client, routes: list[Route], version: int) -> _Routes:
    # Refused when somebody else has changed them in the meantime, so that no change is lost unseen.
    body = json_bytes(_Routes(routes=routes, version=version))
    return decode(client.call("PUT", _PATH, body).body, _Routes)


def _shares(arguments: list[str]) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """The providers and their weights, () when none has a share. Raises ConfigError."""
    parts = [one.partition("=") for one in arguments]
    with_share = [share for _, equals, share in parts if equals]
    for one, (name, equals, share) in zip(arguments, parts, strict=True):
        if not name or (equals and not (share.isascii() and share.isdecimal() and len(share) <= 7)):
            raise ConfigError(
                f"{one!r} must be PROVIDER or PROVIDER=SHARE with a whole number, as in acme=7."
            )
    if with_share and len(with_share) < len(arguments):
        raise ConfigError("Either each provider has a share, as in acme=7, or none has.")
    return tuple(name for name, _, _ in parts), tuple(map(int, with_share))


def _prefix(argument: str) -> str:
    return "" if argument == _ALL else argument


def _key(route: Route) -> _Key:
    return route.prefix, route.sender, route.queue


def _print(found: _Routes, engine: options.EngineOptions) -> None:
    if engine.print_json(found):
        return
    if not found.routes:
        print("There are no routes: every provider carries everything, in the order of the configuration.")
        return
    rows = (
        (r.prefix or "all others", r.sender or "any", r.queue or "any", _way(r), "yes" if r.reroute else "")
        for r in found.routes
    )
    Console(highlight=False, markup=False).print(
        show.table(("prefix", "sender", "queue", "providers", "reroute"), rows)
    )


def _way(route: Route) -> str:
    """The providers of a route as text: `a, then b` or `a 70 %, b 30 %`."""
    if not route.weights:
        return ", then ".join(route.providers)
    whole = sum(route.weights)
    shares = zip(route.providers, route.weights, strict=True)
    return ", ".join(f"{name} {100 * weight / whole:.3g} %" for name, weight in shares)
