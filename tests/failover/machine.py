"""A machine of its own, as far as the network goes: a namespace that one cable joins with this machine."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from supervisor.embedded.process import Identity
from supervisor.embedded.recipes import HOST, Postgres
from supervisor.embedded.server_dir import ServerDir
from supervisor.embedded.servers import Server

# An address of hardware that nobody has.
_NOBODY = "02:00:00:00:00:01"


def ip(*arguments: str) -> None:
    """Run one command of iproute2."""
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)


class Machine:
    """A network namespace with one cable."""

    def __init__(self) -> None:
        self.name = f"smse{secrets.token_hex(3)}"
        # RFC 2544: a range for trials of networks.
        net = f"198.18.{secrets.randbelow(256)}"
        self.near, self.far = f"{net}.1", f"{net}.2"
        self._cable = f"v{self.name}"

    def start(self) -> None:
        """Make the namespace and the cable. Raises CalledProcessError where the machine forbids it."""
        ip("netns", "add", self.name)
        ip("link", "add", self._cable, "type", "veth", "peer", "name", "far", "netns", self.name)
        ip("addr", "add", f"{self.near}/24", "dev", self._cable)
        ip("link", "set", self._cable, "up")
        ip("-n", self.name, "addr", "add", f"{self.far}/24", "dev", "far")
        ip("-n", self.name, "link", "set", "far", "up")
        ip("-n", self.name, "link", "set", "lo", "up")

    def command(self, *argv: str) -> list[str]:
        """`argv` as a command on that machine, in a process whose id is that of the command."""
        return ["ip", "netns", "exec", self.name, *argv]

    def pull_cable(self) -> None:
        """From now on nothing comes through, and nobody is told."""
        ip("-n", self.name, "link", "set", "far", "down")

    def lose_route(self) -> None:
        """What comes from that machine vanishes on its way; what goes there arrives."""
        ip("-n", self.name, "addr", "add", "198.18.255.255/32", "dev", "lo")
        ip("-n", self.name, "route", "replace", "blackhole", f"{self.near}/32")

    def swallow(self) -> None:
        """From now on packets are sent either way, to nobody; `heal` ends it."""
        ip("neighbour", "replace", self.far, "lladdr", _NOBODY, "dev", self._cable, "nud", "permanent")
        inside = ("neighbour", "replace", self.near, "lladdr", _NOBODY, "dev", "far", "nud", "permanent")
        ip("-n", self.name, *inside)

    def heal(self) -> None:
        """Let everything through again."""
        ip("neighbour", "delete", self.far, "dev", self._cable)
        ip("-n", self.name, "neighbour", "delete", self.near, "dev", "far")

    def stop(self) -> None:
        """Delete the namespace, and with it the cable."""
        subprocess.run(["ip", "netns", "del", self.name], check=False, capture_output=True)
        subprocess.run(["ip", "link", "del", self._cable], check=False, capture_output=True)


@contextmanager
def machine() -> Iterator[Machine]:
    """A machine for this block; the test is skipped where none can be made."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("cutting a machine off needs root and the command `ip` (iproute2)")
    made = Machine()
    try:
        made.start()
    except subprocess.CalledProcessError as e:
        made.stop()
        pytest.skip(f"this machine makes no network namespaces: {e.stderr.strip()}")
    try:
        yield made
    finally:
        made.stop()


class OpenPostgres(Postgres):
    """PostgreSQL that other machines reach."""

    def prepare(self, place: ServerDir, identity: Identity | None) -> None:
        super().prepare(place, identity)
        with (place.data / "pg_hba.conf").open("a") as rules:
            rules.write("host all all 198.18.0.0/16 scram-sha-256\n")

    def command(self, place: ServerDir, port: int) -> list[str]:
        return ["*" if part == HOST else part for part in super().command(place, port)]


def start_open_postgres(folder: Path) -> Server:
    """Start it."""
    server = Server(OpenPostgres(), folder)
    server.launch()
    server.wait_ready()
    return server
