"""`smsengine books`: what the books lack after PostgreSQL went back, over the admin API."""

from __future__ import annotations

from typing import Annotated

import msgspec
import typer
from rich.console import Console

from engine.organisations import BookedUsage, UnbookedSum
from supervisor.cli import options, show
from supervisor.cli.answers import UnbookedSums
from supervisor.cli.client import Client

app = typer.Typer(
    help="The books of credit: repair them after PostgreSQL went back.",
    no_args_is_help=True,
    rich_markup_mode="rich",
)
_PAGE = 500


@app.callback()
def books() -> None:
    """The books of credit: repair them after PostgreSQL went back."""


@app.command()
@options.admin_options
def repair(
    organisation: Annotated[
        int | None, typer.Option(metavar="ID", min=1, help="Book the usage of this organisation.")
    ] = None,
    write_off: Annotated[
        str | None,
        typer.Option(
            metavar="REASON", help="Give it the units that it lacks, and say why. Needs --organisation."
        ),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Make the organisation again, if it is missing. Needs --organisation."
        ),
    ] = None,
    *,
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

    [bold]Examples[/bold]

    [cyan]smsengine books repair[/cyan]
    [cyan]smsengine books repair --organisation 7[/cyan]
    [cyan]smsengine books repair --organisation 7 --write-off "restored the backup of Monday"[/cyan]
    [cyan]smsengine books repair --organisation 9 --name "Acme Ltd"[/cyan]
    """
    client = engine.admin()
    if organisation is None:
        if write_off is not None or name is not None:
            option = "--name" if write_off is None else "--write-off"
            raise typer.BadParameter(f"{option} needs --organisation ID.")
        _list(client, engine)
        return
    path = f"/v1/admin/unbooked/{organisation}/book"
    booked = client.post(path, _Booking(write_off=write_off, name=name), BookedUsage)
    if engine.print_json(booked):
        return
    print(_sentence(booked))


def _sentence(booked: BookedUsage) -> str:
    """What was done, as a sentence."""
    if booked.missing:
        return (
            f"Organisation {booked.organisation_id} is made again. It is suspended, because it lacks"
            f" {show.number(booked.missing)} units for its usage: put its lost top-ups back under their old"
            f" references (smsengine org topup), then: {_repair(booked.organisation_id)}"
        )
    charged = f"{show.number(booked.captured)} units are charged"
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
    Console(highlight=False).print(show.table(columns, rows, frozenset({0, 3, 4, 5, 6})))
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


class _Booking(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    write_off: str | None = None
    name: str | None = None
