"""`smsengine provider`: pause, resume and slow down SMS providers, over the admin API; try one out."""

from __future__ import annotations

import math
import uuid
from typing import Annotated
from urllib.parse import quote

import msgspec
import typer
from rich.console import Console

from engine.errors import ConfigError
from engine.organisations import Pause
from engine.written_numbers import real
from supervisor.cli import options, problems, show, try_provider
from supervisor.cli.client import decode, json_bytes

app = typer.Typer(
    help="SMS providers: list, pause, resume, throughput; try one out, see what it sends.",
    no_args_is_help=True,
    rich_markup_mode="rich",
)
app.command("test")(try_provider.trial)
app.command("problems")(problems.problems)
_PATH = "/v1/admin/providers"
# The word, instead of a number, for the throughput in the configuration.
_CONFIGURED = "configured"


class _Throughput(msgspec.Struct, frozen=True, kw_only=True):
    configured: float | None
    in_force: float | None


class _Provider(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    type: str
    paused: bool
    # None: it is not paused, or an engine of an older version answers.
    pause: Pause | None = None
    throughput: _Throughput


class _Providers(msgspec.Struct, frozen=True, kw_only=True):
    version: int
    providers: list[_Provider]


class _Pause(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    reason: str = ""


class _Change(msgspec.Struct, frozen=True, kw_only=True):
    throughput: float | None


Name = Annotated[
    str, typer.Argument(metavar="NAME", help="Name of the provider: see `smsengine provider list`.")
]


@app.command("list")
@options.admin_options
def list_providers(
    *,
    engine: options.EngineOptions,
) -> None:
    """List the configured providers: whether each is paused, since when and why, and its throughput.

    [bold]Example[/bold]

    [cyan]smsengine provider list[/cyan]
    """
    found = engine.admin().get(_PATH, _Providers)
    if not engine.print_json(found):
        _print_table(found.providers)


@app.command()
@options.admin_options
def pause(
    name: Name,
    reason: Annotated[str, typer.Option(metavar="TEXT", help="Why, for whoever asks later.")] = "",
    *,
    engine: options.EngineOptions,
) -> None:
    """Send nothing through a provider until it is resumed.

    Messages go through the other providers of their route; those that have no other
    wait, until they expire. What is under way is given time to end.

    [bold]Example[/bold]

    [cyan]smsengine provider pause provider-a --reason "its receipts do not come"[/cyan]
    """
    _set_paused("pause", name, _Pause(reason=reason), engine)


@app.command()
@options.admin_options
def resume(
    name: Name,
    *,
    engine: options.EngineOptions,
) -> None:
    """Send through a paused provider again.

    [bold]Example[/bold]

    [cyan]smsengine provider resume provider-a[/cyan]
    """
    _set_paused("resume", name, {}, engine)


@app.command()
@options.admin_options
def throughput(
    name: Name,
    rate: Annotated[
        str,
        typer.Argument(
            metavar="RATE",
            help="Segments a second, all processes of all machines together; [cyan]configured[/cyan] for "
            "what the configuration says.",
        ),
    ],
    *,
    engine: options.EngineOptions,
) -> None:
    """Set how much is sent through a provider at most.

    [bold]Examples[/bold]

    [cyan]smsengine provider throughput provider-a 50[/cyan]
    [cyan]smsengine provider throughput provider-a configured[/cyan]
    """
    body = json_bytes(_Change(throughput=_rate(rate)))
    client = engine.admin()
    _print(decode(client.call("PUT", _at(name), body).body, _Provider), engine)


def _set_paused(verb: str, name: str, body: object, engine: options.EngineOptions) -> None:
    client = engine.admin()
    path = f"{_at(name)}/{verb}"
    _print(client.post(path, body, _Provider, idempotency_key=str(uuid.uuid4())), engine)


def _at(name: str) -> str:
    return f"{_PATH}/{quote(name, safe='')}"


def _rate(text: str) -> float | None:
    """Segments a second; None: as configured. Raises ConfigError."""
    if text == _CONFIGURED:
        return None
    try:
        rate = real(text)
    except ValueError:
        rate = math.nan
    # The comparison is false for NaN, too.
    if not 0.01 <= rate <= 1_000_000:
        raise ConfigError(f"RATE must be a number from 0.01 to 1,000,000, or {_CONFIGURED}, not {text!r}.")
    return rate


def _print(provider: _Provider, engine: options.EngineOptions) -> None:
    if not engine.print_json(provider):
        _print_table([provider])


def _print_table(providers: list[_Provider]) -> None:
    rows = (
        (
            p.name,
            p.type,
            "paused" if p.paused else "",
            _per_second(p.throughput.in_force),
            _per_second(p.throughput.configured),
        )
        for p in providers
    )
    columns = ("provider", "type", "", "segments/s", "configured")
    Console(highlight=False, markup=False).print(show.table(columns, rows, frozenset({3, 4})))
    for p in providers:
        if p.pause is not None:
            print(show.paused(p.name, p.pause))


def _per_second(rate: float | None) -> str:
    return "unlimited" if rate is None else f"{rate:,g}"
