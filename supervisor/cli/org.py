"""`smsengine org`: organisations, their keys and their credit, over the admin API."""

from __future__ import annotations

from typing import Annotated

import msgspec
import typer
from rich.console import Console

from engine.organisations import Balance, NewOrganisation, Organisation
from supervisor.cli import options, org_adjust, org_keys, org_limits, org_senders, show
from supervisor.cli.answers import Organisations, TopUp
from supervisor.cli.client import decode, json_bytes
from supervisor.cli.org_limits import Id

app = typer.Typer(
    help="Organisations: create, list, top up, adjust, keys, balance, senders, limits, pause.",
    no_args_is_help=True,
    rich_markup_mode="rich",
)
_PAGE = 500


@app.command()
@options.admin_options
def create(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name, for people to read.")],
    *,
    engine: options.EngineOptions,
) -> None:
    """Create an organisation and its first API key.

    The key is shown this once: only a digest of it is kept. The organisation
    can send as soon as it is topped up.

    [bold]Example[/bold]

    [cyan]smsengine org create "Acme Ltd"[/cyan]
    """
    made = engine.admin().post("/v1/admin/organisations", _Name(name=name), NewOrganisation)
    if engine.print_json(made):
        return
    print(f"organisation  {made.id}  {made.name}")
    print(f"API key       {made.api_key}")
    print("The key is not shown again. Next: smsengine org topup " + f"{made.id} 1000 --reference first")


@app.command("list")
@options.admin_options
def list_organisations(
    *,
    engine: options.EngineOptions,
) -> None:
    """List all organisations; with --json one object a line.

    [bold]Example[/bold]

    [cyan]smsengine org list[/cyan]
    """
    client = engine.admin()
    found: list[Organisation] = []
    after: int | None = None
    while True:
        since = "" if after is None else f"&after={after}"
        page = client.get(f"/v1/admin/organisations?limit={_PAGE}{since}", Organisations)
        found += page.organisations
        for organisation in page.organisations:
            engine.print_json(organisation)
        if (after := page.next) is None:
            break
    if not engine.as_json:
        rows = ((str(o.id), o.name, f"{o.created_at:%Y-%m-%d %H:%M}", org_limits.state(o)) for o in found)
        Console(highlight=False, markup=False).print(
            show.listing(
                ("id", "name", "created", ""),
                rows,
                frozenset({0}),
                none="There are no organisations; smsengine org create makes one.",
            )
        )


@app.command()
@options.admin_options
def topup(
    organisation: Id,
    units: Annotated[int, typer.Argument(metavar="UNITS", min=1, help="Units of credit to add.")],
    reference: Annotated[
        str, typer.Option(metavar="TEXT", help="Your name for this payment; the same one never counts twice.")
    ],
    *,
    engine: options.EngineOptions,
) -> None:
    """Add credit. Repeating it with the same reference adds nothing.

    One unit pays for one segment at the base price.

    [bold]Example[/bold]

    [cyan]smsengine org topup 7 100000 --reference invoice-2041[/cyan]
    """
    path = f"/v1/admin/organisations/{organisation}/top-ups"
    body = _TopUp(units=units, reference=reference)
    answer = engine.admin().call("POST", path, json_bytes(body))
    done = decode(answer.body, TopUp)
    if engine.print_json(done):
        return
    available = show.number(done.balance.available)
    # 200 in place of 201: the reference counted before.
    before = "" if answer.status == 201 else f" were added at {done.at[:19]}Z, and none are now"
    print(f"{show.counted(done.units, 'unit')} as {done.reference!r}{before}; {available} are available now")


app.command()(org_adjust.adjust)


@app.command()
@options.admin_options
def balance(
    organisation: Id,
    *,
    engine: options.EngineOptions,
) -> None:
    """Show the credit in units: paid in and not spent, held of that for messages under way, available.

    [bold]Example[/bold]

    [cyan]smsengine org balance 7[/cyan]
    """
    found = engine.admin().get(f"/v1/admin/organisations/{organisation}/balance", Balance)
    if engine.print_json(found):
        return
    print(f"posted     {show.number(found.posted)}")
    print(f"held       {show.number(found.held)}")
    print(f"available  {show.number(found.available)}")


app.command()(org_keys.key)
app.command()(org_keys.keys)
app.command("show")(org_limits.show_organisation)
app.command()(org_limits.limits)
app.command()(org_senders.senders)
app.command()(org_limits.pause)
app.command()(org_limits.resume)


class _Name(msgspec.Struct, frozen=True, kw_only=True):
    name: str


class _TopUp(msgspec.Struct, frozen=True, kw_only=True):
    units: int
    reference: str
