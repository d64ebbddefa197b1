"""`smsengine books`: what the books lack after PostgreSQL or Redis went back, over the admin API."""

from __future__ import annotations

from typing import Annotated

import msgspec
import typer
from rich.console import Console

from engine.organisations import BookedUsage, LossSum, Rebuilding, UnbookedSum
from supervisor.cli import options, show
from supervisor.cli.answers import Losses, UnbookedSums
from supervisor.cli.client import Client

app = typer.Typer(
    help="The books of credit: what was lost, and how to repair it.",
    no_args_is_help=True,
    rich_markup_mode="rich",
)
_PAGE = 500
# How long the answer to a rebuilding may take to come, seconds.
_REBUILD_S = 625.0


@app.callback()
def books() -> None:
    """The books of credit: what was lost, and how to repair it."""


_Organisation = Annotated[
    int | None, typer.Option(metavar="ID", min=1, help="Book the usage of this organisation.")
]
_WriteOff = Annotated[
    str | None,
    typer.Option(
        metavar="REASON", help="Give it the units that it lacks, and say why. Needs --organisation."
    ),
]
_Name = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="Make the organisation again, if it is missing. Needs --organisation."),
]
_FromActivity = Annotated[
    bool,
    typer.Option("--from-activity", help="Book usage that PostgreSQL lost, as the recorded events show it."),
]
_DryRun = Annotated[bool, typer.Option("--dry-run", help="Only list what --from-activity would book.")]


@app.command()
@options.admin_options
def repair(
    organisation: _Organisation = None,
    write_off: _WriteOff = None,
    name: _Name = None,
    *,
    from_activity: _FromActivity = False,
    dry_run: _DryRun = False,
    engine: options.EngineOptions,
) -> None:
    """List usage that the books could not cover, or book that of one organisation.

    When a standby of PostgreSQL is promoted that was behind, or a backup is restored, top-ups
    and organisations of the lost time are gone, but messages that were paid from them were
    sent. That usage waits here, and its organisations are suspended: their messages get 403.

    For each organisation: put the lost top-up back under its old reference
    ([cyan]smsengine org topup[/cyan]), then book. If nobody knows the top-up any more, write the
    units off: they are given to it, with your reason as the reference. An organisation that is
    missing itself is made again under its old id: give its name, put its top-ups back, book,
    then make a key.

    Usage that is gone from Redis as well is rebuilt from the recorded activity in ClickHouse: look
    with --from-activity --dry-run, then run it without --dry-run. What an organisation has no
    units for then waits here as above. It may be run again at any time.

    [bold]Examples[/bold]

    [cyan]smsengine books repair[/cyan]
    [cyan]smsengine books repair --organisation 7[/cyan]
    [cyan]smsengine books repair --organisation 7 --write-off "restored the backup of Monday"[/cyan]
    [cyan]smsengine books repair --organisation 9 --name "Acme Ltd"[/cyan]
    [cyan]smsengine books repair --from-activity --dry-run[/cyan]
    """
    named = {"--organisation": organisation, "--write-off": write_off, "--name": name}
    given = [option for option, value in named.items() if value is not None]
    if from_activity and given:
        raise typer.BadParameter("--from-activity books for all organisations, and takes only --dry-run.")
    if dry_run and not from_activity:
        raise typer.BadParameter("--dry-run needs --from-activity.")
    if given and organisation is None:
        raise typer.BadParameter(f"{given[0]} needs --organisation ID.")
    if from_activity:
        _rebuild(engine, dry_run=dry_run)
    elif organisation is None:
        _list(engine.admin(), engine)
    else:
        _book(engine, organisation, _Booking(write_off=write_off, name=name))


def _book(engine: options.EngineOptions, organisation: int, booking: _Booking) -> None:
    path = f"/v1/admin/unbooked/{organisation}/book"
    booked = engine.admin().post(path, booking, BookedUsage)
    if not engine.print_json(booked):
        print(_sentence(booked))


def _sentence(booked: BookedUsage) -> str:
    """What was done, as a sentence."""
    if booked.missing:
        return (
            f"Organisation {booked.organisation_id} is made again. It is suspended, because it lacks"
            f" {show.counted(booked.missing, 'unit')} for its usage: put its lost top-ups back under their"
            f" old references (smsengine org topup), then: {_repair(booked.organisation_id)}"
        )
    charged = f"{show.counted(booked.captured, 'unit')} {'is' if booked.captured == 1 else 'are'} charged"
    off = f", {show.number(booked.written_off)} of its units are written off" if booked.written_off else ""
    return f"The usage of organisation {booked.organisation_id} is booked: {charged}{off}; it can send again."


def _list(client: Client, engine: options.EngineOptions) -> None:
    found: list[UnbookedSum] = []
    after: int | None = 0
    while after is not None:
        page = client.get(f"/v1/admin/unbooked?limit={_PAGE}&after={after}", UnbookedSums)
        found += page.unbooked
        after = page.next
    if engine.as_json:
        for each in found:
            engine.print_json(each)
        return
    to_rebuild = sum(loss.to_rebuild for loss in client.get("/v1/admin/losses", Losses).losses)
    if to_rebuild:
        shards = show.counted(to_rebuild, "shard")
        print(f"PostgreSQL lost usage of {shards}: smsengine books repair --from-activity --dry-run")
    if not found:
        print("No usage waits to be booked.")
        return
    columns = ("id", "name", "since", "held", "charged", "released", "lacks")
    rows = (
        (
            str(u.organisation_id), u.name or "(missing)", f"{u.since:%Y-%m-%d %H:%M}", show.number(u.held),
            show.number(u.captured), show.number(u.released), show.number(u.missing),
        )
        for u in found
    )  # fmt: skip
    Console(highlight=False, markup=False).print(show.table(columns, rows, frozenset({0, 3, 4, 5, 6})))
    for u in found:
        print(f"{u.organisation_id}: {_advice(u)}")


def _advice(u: UnbookedSum) -> str:
    """What to do for one organisation, in one sentence."""
    book = _repair(u.organisation_id)
    if u.name is None:
        return f"it is missing, so make it again: {book} --name NAME"
    if u.missing:
        return f"put its lost top-up back and then: {book} (or write the units off: --write-off REASON)"
    return f"it has the units now: {book}"


def _repair(organisation_id: int) -> str:
    return f"smsengine books repair --organisation {organisation_id}"


def _rebuild(engine: options.EngineOptions, *, dry_run: bool) -> None:
    """Rebuild, or list what would be. Exits with 1 when something could not be rebuilt."""
    client = engine.admin(_REBUILD_S)
    found = client.post("/v1/admin/losses/rebuild", _Rebuilding(dry_run=dry_run), Rebuilding)
    if not engine.print_json(found):
        _show_rebuilt(found)
    if found.not_rebuilt:
        raise typer.Exit(1)


def _show_rebuilt(found: Rebuilding) -> None:
    if not found.rebuilt and not found.not_rebuilt:
        print("Nothing waits to be rebuilt.")
        return
    if found.rebuilt:
        columns = ("id", "charged", "messages", "released", "lacks")
        rows = (
            (
                str(u.organisation_id), show.number(u.captured), show.number(u.messages),
                show.number(u.released), show.number(u.unbooked),
            )
            for u in found.rebuilt
        )  # fmt: skip
        Console(highlight=False, markup=False).print(show.table(columns, rows, frozenset({0, 1, 2, 3, 4})))
    units = show.counted(sum(u.captured for u in found.rebuilt), "unit")
    messages = show.counted(sum(u.messages for u in found.rebuilt), "message")
    booked = "would be booked" if found.dry_run else "booked"
    print(f"From the recorded activity {booked}: {units} of {messages}.")
    if any(u.unbooked for u in found.rebuilt):
        suspended = "would be" if found.dry_run else "are"
        print(
            f"Organisations that lack units {suspended} suspended: put their lost top-ups back, then"
            " smsengine books repair"
        )
    for sentence in found.not_rebuilt:
        print(sentence)


@app.command("show")
@options.admin_options
def show_losses(*, engine: options.EngineOptions) -> None:
    """List what was lost when Redis or PostgreSQL went back, the last first.

    For Redis: the units that were given back, those that were sent and not charged, how many
    messages that were, and how many messages are gone unsent, as far as the recorded events say.
    An audit counts them from ten seconds after the loss on. For PostgreSQL: what was rebuilt.

    [bold]Example[/bold]

    [cyan]smsengine books show[/cyan]
    """
    found = engine.admin().get("/v1/admin/losses", Losses)
    if engine.print_json(found):
        return
    if not found.losses:
        print("Nothing was lost.")
        return
    for loss in found.losses:
        print(f"{loss.at:%Y-%m-%d %H:%M:%S} UTC  {loss.cause} ({show.counted(len(loss.shards), 'shard')})")
        print(f"    {_rebuilt(loss) if loss.who != 'redis' else _uncharged(loss)}")


def _rebuilt(loss: LossSum) -> str:
    """What was rebuilt of what PostgreSQL lost, and whether something is left to do."""
    units, messages = show.counted(loss.rebuilt_units, "unit"), show.counted(loss.rebuilt_messages, "message")
    left = f", {show.counted(loss.to_rebuild, 'shard')} to do" if loss.to_rebuild else ""
    return f"rebuilt from the recorded activity: {units} of {messages}{left}"


def _uncharged(loss: LossSum) -> str:
    """What a loss of Redis did to units and messages, as far as it is known."""
    parts = [f"{show.counted(loss.released, 'unit')} given back"]
    if loss.reopened:
        parts.append(f"{show.counted(loss.reopened, 'unit')} held again")
    if loss.uncharged_units is None:
        return ", ".join([*parts, "what was sent and not charged is not counted yet (smsengine audit)"])
    messages = (
        "" if loss.uncharged_messages is None else f" ({show.counted(loss.uncharged_messages, 'message')})"
    )
    parts.append(f"{show.counted(loss.uncharged_units, 'unit')}{messages} sent and not charged")
    if loss.gone_messages is not None:
        parts.append(f"{show.counted(loss.gone_messages, 'message')} gone unsent")
    return ", ".join(parts)


class _Rebuilding(msgspec.Struct, frozen=True, kw_only=True):
    dry_run: bool


class _Booking(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    write_off: str | None = None
    name: str | None = None
