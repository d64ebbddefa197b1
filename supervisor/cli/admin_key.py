"""`smsengine admin-key`: keys for operators, over the admin API."""

from __future__ import annotations

import uuid
from datetime import datetime
from typing import Annotated

import msgspec
import typer
from rich.console import Console

from engine.admin_keys import SCOPES, AdminKey, NewAdminKey
from engine.errors import ConfigError
from supervisor.cli import key_networks, options, show
from supervisor.cli.client import Client
from supervisor.cli.org_keys import state
from supervisor.cli.times import shown, time_of

app = typer.Typer(
    help="Keys for operators, with names and scopes: create, list, networks, revoke.",
    no_args_is_help=True,
    rich_markup_mode="rich",
)
_PATH = "/v1/admin/admin-keys"


# What is as it is without an option is left out, for an engine of an older version.
class _New(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    name: str
    scopes: list[str]
    expires_at: datetime | None
    networks: list[str] = []


class _Keys(msgspec.Struct, frozen=True, kw_only=True):
    keys: list[AdminKey]


@app.command()
@options.admin_options
def create(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Who or what uses it; each name once.")],
    scope: Annotated[
        list[str],
        typer.Option(
            metavar="SCOPE",
            help="What the key allows, as listed above; may be given several times.",
        ),
    ],
    expires: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="Until when it is good: a time, or 30d, 12h, 5m from now."),
    ] = None,
    network: key_networks.Networks = [],  # noqa: B006 - typer makes a new one for each call
    *,
    engine: options.EngineOptions,
) -> None:
    """Make an admin key. It is shown this once: only a digest of it is kept.

    The scopes, each of which includes [cyan]read[/cyan]:

    [cyan]read[/cyan]     look at everything
    [cyan]operate[/cyan]  routes, providers, queues, dead letters, limits and pauses
    [cyan]money[/cyan]    organisations, their keys, their credit, prices
    [cyan]all[/cyan]      everything, admin keys too

    What its holder changes is recorded under the name: [cyan]smsengine changes[/cyan].

    [bold]Examples[/bold]

    [cyan]smsengine admin-key create alice --scope operate --scope money[/cyan]
    [cyan]smsengine admin-key create grafana --scope read --expires 365d --network 10.0.0.0/8[/cyan]
    """
    if wrong := [one for one in scope if one not in SCOPES]:
        raise ConfigError(f"--scope must be one of {', '.join(SCOPES)}, not {wrong[0]!r}.")
    networks, expires_at = key_networks.checked(network), time_of(expires, "--expires", "ahead")
    wanted = _New(name=name, scopes=scope, expires_at=expires_at, networks=networks)
    made = engine.admin().post(_PATH, wanted, NewAdminKey, str(uuid.uuid4()))
    if engine.print_json(made):
        return
    print(f"key id     {made.id}  {made.name}")
    print(f"scopes     {', '.join(made.scopes)}")
    print(f"expires    {shown(made.expires_at, 'never')}")
    print(f"networks   {key_networks.shown(made.networks) or 'everywhere'}")
    print(f"admin key  {made.admin_key}")
    print("The key is not shown again. Its holder gives it with --admin-key or SMSENGINE_ADMIN_KEY.")


@app.command("list")
@options.admin_options
def list_keys(*, engine: options.EngineOptions) -> None:
    """List the admin keys, the newest first; with --json one object a line.

    The key of the configuration, which allows everything, is not among them.

    [bold]Example[/bold]

    [cyan]smsengine admin-key list[/cyan]
    """
    keys = _keys(engine.admin())
    if engine.as_json:
        for key in keys:
            engine.print_json(key)
        return
    rows = (
        (
            str(k.id),
            k.name,
            ", ".join(k.scopes),
            shown(k.created_at),
            shown(k.last_used_at, "never"),
            key_networks.shown(k.networks),
            state(k.expires_at, k.revoked_at),
        )
        for k in keys
    )
    columns = ("id", "name", "scopes", "created", "last used", "networks", "")
    Console(highlight=False, markup=False).print(
        show.listing(
            columns, rows, frozenset({0}), none="There are no admin keys but the one of the configuration."
        )
    )


@app.command()
@options.admin_options
def revoke(
    key: Annotated[str, typer.Argument(metavar="KEY", help="The id of the key, or its name.")],
    *,
    engine: options.EngineOptions,
) -> None:
    """Revoke an admin key, for good: within about a second every call with it is refused.

    [bold]Example[/bold]

    [cyan]smsengine admin-key revoke alice[/cyan]
    """
    client = engine.admin()
    key_id = _id_of(client, key)
    client.call("DELETE", f"{_PATH}/{key_id}")
    if not engine.print_json({"revoked": key_id}):
        print(f"revoked {key_id}")


@app.command()
@options.admin_options
def networks(
    key: Annotated[str, typer.Argument(metavar="KEY", help="The id of the key, or its name.")],
    network: key_networks.Networks = [],  # noqa: B006 - typer makes a new one for each call
    anywhere: key_networks.Anywhere = False,
    *,
    engine: options.EngineOptions,
) -> None:
    """Set the networks that an admin key may be used from, within about a second.

    [bold]Examples[/bold]

    [cyan]smsengine admin-key networks alice --network 203.0.113.0/24[/cyan]
    [cyan]smsengine admin-key networks alice --anywhere[/cyan]
    """
    client = engine.admin()
    path = f"{_PATH}/{_id_of(client, key)}"
    changed = key_networks.changed(client, path, network, anywhere, AdminKey)
    if not engine.print_json(changed):
        print(f"key id    {changed.id}  {changed.name}")
        print(f"networks  {key_networks.shown(changed.networks) or 'everywhere'}")


def _id_of(client: Client, key: str) -> int:
    """The id of the key with this id or name. Raises ConfigError."""
    return int(key) if key.isascii() and key.isdecimal() and len(key) < 20 else _named(client, key)


def _keys(client: Client) -> list[AdminKey]:
    return client.get(_PATH, _Keys).keys


def _named(client: Client, name: str) -> int:
    """The id of the key with this name. Raises ConfigError."""
    for key in _keys(client):
        if key.name == name and key.revoked_at is None:
            return key.id
    raise ConfigError(f"KEY must be the id or the name of an admin key that is not revoked, not {name!r}.")
