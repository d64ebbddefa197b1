"""`smsengine org limits`, `pause` and `resume`, over the admin API."""

from __future__ import annotations

import re
from typing import Annotated

import msgspec
import typer

from engine.errors import ConfigError
from engine.limits.records import (
    BACKLOG_MAX_MAX,
    BACKLOG_MAX_MIN,
    RATE_MAX_MAX,
    RATE_MAX_MIN,
    WEIGHT_MAX,
    WEIGHT_MIN,
)
from engine.organisations import Limits, Organisation
from engine.written_numbers import real
from supervisor.cli import options, show

Id = Annotated[
    int, typer.Argument(metavar="ID", min=1, help="Id of the organisation: see `smsengine org list`.")
]
# How a limit is taken back on a command line.
_BACK = ("none", "default")
_RATE = re.compile(r"([0-9]+(?:\.[0-9]+)?)(?:/(s|sec|min|m|h))?")
_SECONDS = {"": 1, "s": 1, "sec": 1, "min": 60, "m": 60, "h": 3600}


class _Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What was set, and what holds where nothing was."""

    weight: float | None
    backlog_max: int | None
    rate_max: float | None
    default: Limits


class _Pause(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    reason: str = ""


@options.admin_options
def limits(
    organisation: Id,
    weight: Annotated[
        str | None, typer.Option(metavar="NUMBER", help="Its share of a queue: 0.1 to 100; of others 1.")
    ] = None,
    backlog_max: Annotated[
        str | None,
        typer.Option(metavar="MESSAGES", help="Most messages of it that wait; more are answered 429."),
    ] = None,
    rate_max: Annotated[
        str | None,
        typer.Option(metavar="RATE", help="Most messages accepted: 200/s, 6000/min; more are answered 429."),
    ] = None,
    *,
    engine: options.EngineOptions,
) -> None:
    """Show what limits an organisation, or set it.

    Organisations that have a backlog share a queue by their weights: one of
    weight 2 is sent twice as much as one of weight 1, as long as both wait.
    What one does not use goes to the others.

    What is not named stays; [cyan]none[/cyan] takes a limit back. A change is in
    force within a second.

    [bold]Examples[/bold]

    [cyan]smsengine org limits 7[/cyan]
    [cyan]smsengine org limits 7 --weight 2 --backlog-max 500000 --rate-max 200/s[/cyan]
    [cyan]smsengine org limits 7 --rate-max none[/cyan]
    """
    path = f"/v1/admin/organisations/{organisation}/limits"
    change: dict[str, float | int | None] = {}
    if weight is not None:
        change["weight"] = _weight(weight)
    if backlog_max is not None:
        change["backlog_max"] = _count(backlog_max)
    if rate_max is not None:
        change["rate_max"] = _rate(rate_max)
    client = engine.admin()
    if change:
        body = client.call("PATCH", path, msgspec.json.encode(change)).body
        found = msgspec.json.decode(body, type=_Limits)
    else:
        found = client.get(path, _Limits)
    if engine.print_json(found):
        return
    print(f"weight       {_shown(found.weight, found.default.weight)}")
    print(f"backlog max  {_shown(found.backlog_max, found.default.backlog_max, ' messages')}")
    print(f"rate max     {_shown(found.rate_max, found.default.rate_max, ' messages a second')}")


@options.admin_options
def pause(
    organisation: Id,
    reason: Annotated[str, typer.Option(metavar="TEXT", help="Why, for whoever asks later.")] = "",
    *,
    engine: options.EngineOptions,
) -> None:
    """Send nothing of an organisation until it is resumed.

    Its backlog stays and costs the others nothing. New messages are accepted
    and wait, up to its backlog max. Their validity goes on: what expires is not
    sent, and is not charged. What a provider has already is not taken back.

    [bold]Example[/bold]

    [cyan]smsengine org pause 7 --reason "asked by phone"[/cyan]
    """
    _set_paused(organisation, "pause", _Pause(reason=reason), engine)


@options.admin_options
def resume(
    organisation: Id,
    *,
    engine: options.EngineOptions,
) -> None:
    """Let a paused organisation go on, in the order of acceptance.

    [bold]Example[/bold]

    [cyan]smsengine org resume 7[/cyan]
    """
    _set_paused(organisation, "resume", {}, engine)


@options.admin_options
def show_organisation(
    organisation: Id,
    *,
    engine: options.EngineOptions,
) -> None:
    """Show one organisation: whether it is paused or suspended, and what was set for it.

    [bold]Example[/bold]

    [cyan]smsengine org show 7[/cyan]
    """
    found = engine.admin().get(f"/v1/admin/organisations/{organisation}", Organisation)
    if engine.print_json(found):
        return
    print(f"organisation  {found.id}  {found.name}")
    print(f"created       {found.created_at:%Y-%m-%d %H:%M}")
    print(f"state         {state(found)}")
    if found.paused and found.paused.reason:
        print(f"reason        {found.paused.reason}")
    limits = msgspec.structs.asdict(found.limits)
    print(f"low balance   {show.number(found.low_balance) if found.low_balance else 'never told'}")
    print(f"limits        {_list(limits) or 'those of all'}")


def state(organisation: Organisation) -> str:
    """Whether an organisation sends, in a few words."""
    states = ["suspended"] if organisation.suspended else []
    if organisation.paused:
        states.append(f"paused since {organisation.paused.since:%Y-%m-%d %H:%M}")
    return ", ".join(states) or "sends"


def _set_paused(organisation: int, what: str, body: object, engine: options.EngineOptions) -> None:
    found = engine.admin().post(f"/v1/admin/organisations/{organisation}/{what}", body, Organisation)
    if not engine.print_json(found):
        print(f"{found.id} {found.name}: {state(found)}")


def _weight(text: str) -> float | None:
    if text in _BACK:
        return None
    allowed = f"--weight must be a number from {WEIGHT_MIN:g} to {WEIGHT_MAX:g}, or none."
    try:
        weight = real(text)
    except ValueError as e:
        raise ConfigError(allowed) from e
    # What is no number, "nan", is in no range.
    if not WEIGHT_MIN <= weight <= WEIGHT_MAX:
        raise ConfigError(allowed)
    return weight


def _count(text: str) -> int | None:
    if text in _BACK:
        return None
    digits = text.replace(",", "")
    # One with more digits is too large anyway, and Python reads no number of thousands of them.
    if digits.isascii() and digits.isdecimal() and len(digits) < 20:
        count = int(digits)
        if BACKLOG_MAX_MIN <= count <= BACKLOG_MAX_MAX:
            return count
    raise ConfigError(
        f"--backlog-max must be a whole number of messages from {BACKLOG_MAX_MIN:,} to {BACKLOG_MAX_MAX:,},"
        " or none."
    )


def _rate(text: str) -> float | None:
    if text in _BACK:
        return None
    if found := _RATE.fullmatch(text):
        rate = float(found[1]) / _SECONDS[found[2] or ""]
        if RATE_MAX_MIN <= rate <= RATE_MAX_MAX:
            return rate
    raise ConfigError(
        f"--rate-max must be a rate from {RATE_MAX_MIN:g}/s to {RATE_MAX_MAX:,.0f}/s, such as 200/s or"
        " 6000/min, or none."
    )


def _shown(value: float | None, default: float | None, unit: str = "") -> str:
    if value is not None:
        return f"{value:,g}{unit}" if isinstance(value, float) else f"{value:,}{unit}"
    if default is None:
        return "none"
    return f"{default:,g}{unit} (default)" if isinstance(default, float) else f"{default:,}{unit} (default)"


def _list(limits: dict[str, float | None]) -> str:
    return ", ".join(f"{name} {value:,g}" for name, value in limits.items() if value is not None)
