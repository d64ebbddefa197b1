"""`smsengine org key` and `org keys`: the API keys of an organisation, over the admin API."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime
from typing import Annotated

import msgspec
import typer
from rich.console import Console

from engine.errors import ConfigError
from engine.organisations import API_SCOPES, USUAL_SCOPES, ApiKey, NewKey
from supervisor.cli import key_networks, options, show
from supervisor.cli.org_limits import Id
from supervisor.cli.times import shown, time_of


# What is as it is without an option is left out, for an engine of an older version.
class _Wish(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    name: str
    scopes: list[str]
    expires_at: datetime | None
    networks: list[str] = []


class _Rotation(msgspec.Struct, frozen=True, kw_only=True):
    overlap_s: float


class _Keys(msgspec.Struct, frozen=True, kw_only=True):
    keys: list[ApiKey]


_Scopes = Annotated[
    list[str],
    typer.Option(metavar="SCOPE", help="What the key allows: send, read, admin; without it, send and read."),
]
_Expires = Annotated[
    str | None, typer.Option(metavar="TIME", help="Until when it is good: a time, or 30d, 12h, 5m from now.")
]
_Rotate = Annotated[
    int | None,
    typer.Option(metavar="KEY_ID", min=1, help="Make a key like that one, which ends after --overlap."),
]
_Overlap = Annotated[
    str, typer.Option(metavar="TIME", help="With --rotate: how long that key is still good.")
]
_Change = Annotated[
    int | None,
    typer.Option(metavar="KEY_ID", min=1, help="Set the networks of that key, with --network or --anywhere."),
]
_Revoke = Annotated[
    int | None, typer.Option(metavar="KEY_ID", min=1, help="Revoke that key instead of making one.")
]


@options.admin_options
def key(
    organisation: Id,
    name: Annotated[str, typer.Option(metavar="TEXT", help="What the key is called.")] = "",
    scope: _Scopes = [],  # noqa: B006 - typer makes a new one for each call
    expires: _Expires = None,
    network: key_networks.Networks = [],  # noqa: B006 - the same
    rotate: _Rotate = None,
    overlap: _Overlap = "1d",
    change: _Change = None,
    anywhere: key_networks.Anywhere = False,
    revoke: _Revoke = None,
    *,
    engine: options.EngineOptions,
) -> None:
    """Make one more API key, replace one, change its networks, or revoke one.

    The key is shown this once. Its id is the number in it: smse_ID_SECRET.

    [bold]Examples[/bold]

    [cyan]smsengine org key 7[/cyan]
    [cyan]smsengine org key 7 --name owner --scope admin[/cyan]
    [cyan]smsengine org key 7 --name shop --scope send --expires 365d[/cyan]
    [cyan]smsengine org key 7 --network 203.0.113.0/24 --network 2001:db8::/32[/cyan]
    [cyan]smsengine org key 7 --change 12 --network 203.0.113.9[/cyan]
    [cyan]smsengine org key 7 --rotate 12 --overlap 7d[/cyan]
    [cyan]smsengine org key 7 --revoke 12[/cyan]
    """
    _check(rotate, change, revoke)
    if (rotate or change or revoke) is not None and (name or scope or expires):
        raise ConfigError("--name, --scope and --expires are for a new key alone.")
    if network and (rotate or revoke) is not None:
        raise ConfigError("--network must be left out with --rotate and --revoke.")
    client = engine.admin()
    path = f"/v1/admin/organisations/{organisation}/keys"
    if revoke is not None:
        client.call("DELETE", f"{path}/{revoke}")
        print("{}" if engine.as_json else f"revoked {revoke}")
        return
    if change is not None:
        _print(key_networks.changed(client, f"{path}/{change}", network, anywhere, ApiKey), engine)
        return
    if rotate is not None:
        path += f"/{rotate}/rotate"
    body = _wish(name, scope, expires, network) if rotate is None else _rotation(overlap)
    made = client.post(path, body, NewKey, str(uuid.uuid4()))
    if engine.print_json(made):
        return
    print(f"key id   {made.id}")
    print(f"API key  {made.api_key}")


def _check(rotate: int | None, change: int | None, revoke: int | None) -> None:
    """Raise ConfigError for more than one thing to do."""
    if sum(one is not None for one in (rotate, change, revoke)) > 1:
        raise ConfigError("Say only one of --rotate, --change and --revoke.")


def _print(changed: ApiKey, engine: options.EngineOptions) -> None:
    """Print a key whose networks were changed."""
    if not engine.print_json(changed):
        print(f"key id    {changed.id}")
        print(f"networks  {key_networks.shown(changed.networks) or 'everywhere'}")


def _wish(name: str, scopes: list[str], expires: str | None, networks: list[str]) -> _Wish:
    """Raises ConfigError."""
    if wrong := [one for one in scopes if one not in API_SCOPES]:
        raise ConfigError(f"--scope must be one of {', '.join(API_SCOPES)}, not {wrong[0]!r}.")
    expires_at = time_of(expires, "--expires", "ahead")
    return _Wish(
        name=name,
        scopes=scopes or list(USUAL_SCOPES),
        expires_at=expires_at,
        networks=key_networks.checked(networks),
    )


def _rotation(overlap: str) -> _Rotation:
    """Raises ConfigError."""
    ends = time_of(overlap, "--overlap", "ahead")
    return _Rotation(overlap_s=max(0.0, (ends - datetime.now(UTC)).total_seconds()) if ends else 0.0)


@options.admin_options
def keys(organisation: Id, *, engine: options.EngineOptions) -> None:
    """List the API keys, the newest first; with --json one object a line.

    [bold]Example[/bold]

    [cyan]smsengine org keys 7[/cyan]
    """
    found = engine.admin().get(f"/v1/admin/organisations/{organisation}/keys", _Keys).keys
    if engine.as_json:
        for one in found:
            engine.print_json(one)
        return
    rows = (
        (
            *(str(k.id), k.name, ", ".join(k.scopes), shown(k.created_at), shown(k.last_used_at, "never")),
            key_networks.shown(k.networks),
            state(k.expires_at, k.revoked_at),
        )
        for k in found
    )
    columns = ("id", "name", "scopes", "created", "last used", "networks", "")
    Console(highlight=False, markup=False).print(
        show.listing(columns, rows, frozenset({0}), none="The organisation has no API keys.")
    )


def state(expires_at: datetime | None, revoked_at: datetime | None) -> str:
    """Until when a key is good, or since when it is not; "" for one without an end."""
    if revoked_at is not None:
        return f"revoked {shown(revoked_at)}"
    if expires_at is None:
        return ""
    return f"{'expires' if expires_at > datetime.now(UTC) else 'expired'} {shown(expires_at)}"
