"""The parent's side of all its children: fork them, wait on them, hear and reap them."""

from __future__ import annotations

import os
import selectors
import signal
import socket
from collections.abc import Callable

from supervisor.process.child import Child, fork_child
from supervisor.process.child_state import Key
from supervisor.process.signals import Signals

# The one child that has no slot: it fences the dead.
FENCE: None = None


class Children:
    """Owns the pipes, the wake-up by signals and the listening socket of the parent."""

    def __init__(self, listener: socket.socket | None) -> None:
        self._listener = listener
        self._children: dict[Key | None, Child] = {}
        self._signals = Signals((signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD))
        # By poll(2): unlike epoll it has no descriptor that children would inherit.
        self._selector = selectors.PollSelector()
        self._selector.register(self._signals.fd, selectors.EVENT_READ)

    def __contains__(self, key: Key | None) -> bool:
        return key in self._children

    def open(self) -> None:
        """Hear signals from now on."""
        self._signals.install()

    def close(self) -> None:
        """Leave no process behind, whatever happened, and hear signals no more."""
        for child in self._children.values():
            child.send(signal.SIGKILL)
            os.waitpid(child.pid, 0)
            child.close()
        self._children.clear()
        self.close_listener()
        self._selector.close()
        self._signals.restore()

    def close_listener(self) -> None:
        """Once the children have closed theirs, clients are refused instead of left waiting."""
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    def fork(
        self, key: Key | None, title: str, run: Callable[[int, socket.socket | None], int], listens: bool
    ) -> Child:
        """A child that runs `run(pipe_fd, listener)`. Raises OSError when the fork fails."""
        listener = self._listener if listens else None
        child = fork_child(title, lambda fd: run(fd, listener), lambda: self._forget(listens))
        self._children[key] = child
        if key is not FENCE:
            self._selector.register(child.fd, selectors.EVENT_READ, key)
        return child

    def wait(self, seconds: float) -> tuple[list[Key], list[int]]:
        """Until a child speaks, a signal comes or the time is over: who spoke, and the signals."""
        events = self._selector.select(seconds)
        return [event.data for event, _ in events if event.data is not None], self._signals.taken()

    def lines(self, key: Key | None) -> list[str]:
        """What this child has said since."""
        child = self._children[key]
        lines = child.lines()
        if child.silent:
            self._unregister(child)
        return lines

    def send(self, key: Key | None, signum: int) -> None:
        self._children[key].send(signum)

    def dead(self) -> list[tuple[Key | None, int]]:
        """Children that have ended, with their exit codes; each is to be buried."""
        codes = [(key, child.exit_code()) for key, child in self._children.items()]
        return [(key, code) for key, code in codes if code is not None]

    def bury(self, key: Key | None) -> list[str]:
        """Forget a dead child; its last words, which were still in the pipe."""
        lines = self.lines(key)
        child = self._children.pop(key)
        self._unregister(child)
        child.close()
        return lines

    def _unregister(self, child: Child) -> None:
        if child.fd in self._selector.get_map():
            self._selector.unregister(child.fd)

    def _forget(self, listens: bool) -> None:
        """In a child: close what belongs to the parent and to siblings."""
        self._signals.close()
        for child in self._children.values():
            child.close()
        if not listens:
            self.close_listener()
