"""The options that say from which networks a key may be used."""

from __future__ import annotations

from typing import Annotated, TypeVar

import msgspec
import typer

from engine.errors import ConfigError
from engine.networks import NETWORKS_ALLOWED, networks_of
from supervisor.cli.client import Client, decode, json_bytes

K = TypeVar("K")

Networks = Annotated[
    list[str],
    typer.Option(
        "--network",
        metavar="CIDR",
        help="A network that it may be used from; may be given several times. Without it, from everywhere.",
    ),
]
Anywhere = Annotated[bool, typer.Option("--anywhere", help="Let it be used from everywhere again.")]


class _Change(msgspec.Struct, frozen=True, kw_only=True):
    networks: list[str]


def checked(networks: list[str]) -> list[str]:
    """The networks as they were given. Raises ConfigError."""
    if networks_of(networks) is None:
        raise ConfigError(f"--network must be {NETWORKS_ALLOWED}.")
    return networks


def changed(client: Client, path: str, networks: list[str], anywhere: bool, key: type[K]) -> K:
    """Set what `--network` and `--anywhere` say at the key with this path; the key as it is then.

    Raises ConfigError unless one of the two was given, Refusal, Unavailable.
    """
    if bool(networks) == anywhere:
        raise ConfigError("Either --network or --anywhere must be given.")
    body = json_bytes(_Change(networks=checked(networks)))
    return decode(client.call("PATCH", path, body).body, key)


def shown(networks: tuple[str, ...]) -> str:
    """The networks of a key as lists of keys show them; an address without its prefix."""
    return ", ".join(network.removesuffix("/128" if ":" in network else "/32") for network in networks)
