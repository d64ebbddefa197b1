"""A network namespace that a test can cut off: what is sent either way is gone, and nobody is told."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# An address of hardware that nobody has.
_NOBODY = "02:00:00:00:00:01"


class Namespace:
    """`host` is this machine's address as seen from inside. Use with `with`."""

    host, inside = "10.213.77.1", "10.213.77.2"

    def __init__(self) -> None:
        number = os.getpid()
        self.name = f"smsengine-{number}"
        self._ours, self._theirs = f"sms{number}a"[-15:], f"sms{number}b"[-15:]

    def __enter__(self) -> Namespace:
        if shutil.which("ip") is None:
            pytest.skip("network namespaces need the command `ip` (Debian: apt install iproute2)")
        try:
            _ip("netns", "add", self.name)
        except subprocess.CalledProcessError as e:
            pytest.skip(f"this machine allows no network namespace: {e.stderr.strip()}")
        _ip("link", "add", self._ours, "type", "veth", "peer", "name", self._theirs, "netns", self.name)
        _ip("address", "add", f"{self.host}/30", "dev", self._ours)
        _ip("link", "set", self._ours, "up")
        self._ip_inside("address", "add", f"{self.inside}/30", "dev", self._theirs)
        self._ip_inside("link", "set", self._theirs, "up")
        self._ip_inside("link", "set", "lo", "up")
        return self

    def __exit__(self, *_: object) -> None:
        _ip("link", "delete", self._ours)
        _ip("netns", "delete", self.name)

    def cut(self) -> None:
        """Let nothing through any more."""
        _ip("neighbour", "replace", self.inside, "lladdr", _NOBODY, "dev", self._ours, "nud", "permanent")
        self._ip_inside(
            "neighbour", "replace", self.host, "lladdr", _NOBODY, "dev", self._theirs, "nud", "permanent"
        )

    def heal(self) -> None:
        """Let everything through again."""
        _ip("neighbour", "delete", self.inside, "dev", self._ours)
        self._ip_inside("neighbour", "delete", self.host, "dev", self._theirs)

    async def run(self, *arguments: str) -> asyncio.subprocess.Process:
        """A Python in the namespace, with pipes."""
        return await asyncio.create_subprocess_exec(
            "ip", "netns", "exec", self.name, sys.executable, *arguments,
            cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        )  # fmt: skip

    def _ip_inside(self, *arguments: str) -> None:
        _ip("-netns", self.name, *arguments)


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)
