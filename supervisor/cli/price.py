"""`smsengine price`: units for a segment by destination, over the admin API."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.console import Console

from engine.errors import ConfigError
from engine.records import PriceSheet
from supervisor.cli import options, show, toml_file
from supervisor.cli.client import decode, json_bytes

app = typer.Typer(
    help="Prices by destination: list, set. In force within a second, without a restart.",
    no_args_is_help=True,
    rich_markup_mode="rich",
)
_PATH = "/v1/admin/prices"


class _File(msgspec.Struct, frozen=True):
    """A configuration, or any other TOML file with a table [prices]."""

    prices: dict[str, int]


class _NewPrices(msgspec.Struct, frozen=True, kw_only=True):
    prices: dict[str, int]
    version: int


@app.command("list")
@options.admin_options
def list_prices(
    *,
    engine: options.EngineOptions,
) -> None:
    """List the units a segment costs, by prefix; the longest prefix that matches counts.

    [bold]Example[/bold]

    [cyan]smsengine price list[/cyan]
    """
    _print(engine.admin().get(_PATH, PriceSheet), engine)


@app.command("set")
@options.admin_options
def set_prices(
    changes: Annotated[
        list[str],
        typer.Argument(
            metavar="FILE|PREFIX=UNITS...",
            help="A TOML file with a table \\[prices] that replaces all prices, or single prices to change.",
        ),
    ],
    *,
    engine: options.EngineOptions,
) -> None:
    """Change prices, all in one step.

    An empty prefix stands for all other destinations.

    [bold]Examples[/bold]

    [cyan]smsengine price set +98=2 +4477=5[/cyan]
    [cyan]smsengine price set =1[/cyan]
    [cyan]smsengine price set prices.toml[/cyan]
    """
    # A file whose name looks like a prefix is given as ./+98.
    is_file = len(changes) == 1 and "=" not in changes[0] and not changes[0].startswith("+")
    file = Path(changes[0]) if is_file else None
    wanted = _in_file(file) if file else _in_arguments(changes)
    client = engine.admin()
    now = client.get(_PATH, PriceSheet)
    prices = wanted if file else now.prices | wanted
    # Refused when somebody else has changed them in the meantime, so that no change is lost unseen.
    body = json_bytes(_NewPrices(prices=prices, version=now.version))
    _print(decode(client.call("PUT", _PATH, body).body, PriceSheet), engine)


def _in_file(path: Path) -> dict[str, int]:
    must = 'a table [prices] of units by prefix, as in "+98" = 2'
    return toml_file.read(path, _File, "prices", must).prices


def _in_arguments(changes: list[str]) -> dict[str, int]:
    prices = {}
    for change in changes:
        prefix, equals, units = change.partition("=")
        if prefix in prices:
            raise ConfigError(f"The prefix {prefix!r} must be given only once.")
        if not equals or not units.isascii() or not units.isdecimal() or len(units) > 9:
            raise ConfigError(f"{change!r} must be PREFIX=UNITS with a whole number, such as +98=2.")
        prices[prefix] = int(units)
    return prices


def _print(sheet: PriceSheet, engine: options.EngineOptions) -> None:
    if engine.print_json(sheet):
        return
    rows = ((prefix or "all others", show.number(units)) for prefix, units in sorted(sheet.prices.items()))
    Console(highlight=False, markup=False).print(
        show.table(("prefix", "units a segment"), rows, frozenset({1}))
    )
