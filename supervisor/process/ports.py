"""What the keeper of the processes is given: what its children run, and the servers that it watches."""

from __future__ import annotations

import socket
from typing import Protocol

from engine.config import Config, Role
from engine.supervision import Pipes


class RoleRunner(Protocol):
    """What a child runs after the fork. Returns its exit code."""

    def __call__(
        self, role: Role, config: Config, name: str, pipes: Pipes, listener: socket.socket | None
    ) -> int: ...


class Fencer(Protocol):
    """Fences these holders, or all of this node when the list is empty. Returns 0 when all are fenced.

    It runs in a child of its own. Fencing a name again changes nothing.
    """

    def __call__(self, config: Config, names: list[str]) -> int: ...


class Watched(Protocol):
    """An embedded server: its owner starts it, the keeper watches and restarts it."""

    @property
    def name(self) -> str:
        """Its name in logs, unique among those watched."""

    def poll(self) -> int | None:
        """Its exit code once it has ended, None while it runs."""

    def restart(self) -> object:
        """Start it again and wait until it serves. Raises EngineError or OSError."""
