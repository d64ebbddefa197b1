"""`smsengine destination`: which kinds of senders a destination takes, over the admin API."""

from __future__ import annotations

from typing import Annotated

import msgspec
import typer
from rich.console import Console

from engine.errors import ConfigError
from engine.intake.records import SENDER_KINDS, DestinationSheet, SenderKind
from supervisor.cli import options, show
from supervisor.cli.client import decode, json_bytes

app = typer.Typer(
    help="Rules by destination, for all organisations: which senders it takes. In force within a second.",
    no_args_is_help=True,
    rich_markup_mode="rich",
)
_PATH = "/v1/admin/destinations"
_ANY, _NONE = "any", "none"


class _NewRules(msgspec.Struct, frozen=True, kw_only=True):
    rules: dict[str, tuple[SenderKind, ...]]
    version: int


@app.command("list")
@options.admin_options
def list_rules(*, engine: options.EngineOptions) -> None:
    """List which senders destinations take. The longest prefix that matches counts; all others take any.

    [bold]Example[/bold]

    [cyan]smsengine destination list[/cyan]
    """
    _print(engine.admin().get(_PATH, DestinationSheet), engine)


@app.command("set")
@options.admin_options
def set_rules(
    changes: Annotated[
        list[str],
        typer.Argument(
            metavar="PREFIX=KINDS...", help="Kinds: name, short, long, with commas between; or none, or any."
        ),
    ],
    *,
    engine: options.EngineOptions,
) -> None:
    """Set which senders destinations take, all in one step; other rules stay.

    [bold]name[/bold] is a sender of characters, [bold]short[/bold] one of up to 8 digits, [bold]long[/bold] a
    phone number. With [cyan]none[/cyan] nothing is sent there, [cyan]any[/cyan] takes a rule back. An empty
    prefix stands for all other destinations.

    [bold]Examples[/bold]

    [cyan]smsengine destination set +1=short,long +882=none[/cyan]
    [cyan]smsengine destination set +1=any[/cyan]
    """
    wanted = dict(map(_rule, changes))
    client = engine.admin()
    now = client.get(_PATH, DestinationSheet)
    merged = {**now.rules, **wanted}
    rules = {prefix: kinds for prefix, kinds in merged.items() if kinds is not None}
    # Refused when somebody else has changed them in the meantime, so that no change is lost unseen.
    body = json_bytes(_NewRules(rules=rules, version=now.version))
    _print(decode(client.call("PUT", _PATH, body).body, DestinationSheet), engine)


def _rule(change: str) -> tuple[str, tuple[SenderKind, ...] | None]:
    prefix, equals, text = change.partition("=")
    if equals and text == _ANY:
        return prefix, None
    given = [] if text == _NONE else text.split(",")
    kinds = tuple(kind for kind in SENDER_KINDS if kind in given)
    if not equals or set(given) - set(SENDER_KINDS):
        raise ConfigError(
            f"{change!r} must be PREFIX=KINDS with name, short, long, or none, or any, such as +1=short,long."
        )
    return prefix, kinds


def _print(sheet: DestinationSheet, engine: options.EngineOptions) -> None:
    if engine.print_json(sheet):
        return
    rows = (
        (prefix or "all others", ", ".join(k) or "nothing is sent there") for prefix, k in sheet.rules.items()
    )
    Console(highlight=False, markup=False).print(
        show.listing(
            ("prefix", "senders"), rows, none="There are no rules: every destination takes any sender."
        )
    )
