"""The parent's side of all its children: fork them, wait for them, read their lines, reap them."""

from __future__ import annotations

import faulthandler
import os
import selectors
import signal
import socket
from collections.abc import Callable, Mapping

from engine.config import Role
from engine.logs.telemetry import Level, level_signal
from engine.supervision import Pipes
from supervisor.process import log_levels
from supervisor.process.child import Child, fork_child
from supervisor.process.child_state import Key
from supervisor.process.signals import MEANINGLESS, Signals

# Key of the one child without a slot: it fences holders that have died.
FENCE: None = None


class Children:
    """Owns the pipes, the parent's signals and its listening sockets."""

    def __init__(self, listeners: Mapping[Role, socket.socket]) -> None:
        self._listeners = dict(listeners)
        self._children: dict[Key | None, Child] = {}
        # Closes in a child what else belongs to the parent.
        self.forget_more: Callable[[], None] = lambda: None
        self._signals = Signals(
            (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD, *MEANINGLESS, *log_levels.SIGNUMS)
        )
        # poll(2) has no descriptor that children would inherit, as epoll has.
        self._selector = selectors.PollSelector()
        self._selector.register(self._signals.fd, selectors.EVENT_READ)

    def __contains__(self, key: Key | None) -> bool:
        return key in self._children

    def open(self) -> None:
        """Take the parent's signals from now on. Only in the main thread."""
        self._signals.install()

    def close(self) -> None:
        """Kill and reap every child that is left, and give the signals back to their earlier handlers."""
        for child in self._children.values():
            child.send(signal.SIGKILL)
            os.waitpid(child.pid, 0)
            child.close()
        self._children.clear()
        self.close_listeners()
        self._selector.close()
        self._signals.restore()

    def close_listeners(self, but: Role | None = None) -> None:
        """Close the parent's listening sockets; in a child, all `but` that of its role.

        Once the children have closed theirs too, clients are refused instead of left waiting.
        """
        for role in [role for role in self._listeners if role != but]:
            self._listeners.pop(role).close()

    def fork(self, key: Key | None, title: str, run: Callable[[Pipes, socket.socket | None], int]) -> Child:
        """Fork a child that runs `run(pipes, listener)`; `title` is its name in `ps`.

        It gets the listening socket of its role, None when that has none. When it crashes or is
        aborted, the stacks of its threads come as lines too. Raises OSError when the fork fails.
        """
        role = key[0] if key is not FENCE else None
        listener = self._listeners.get(role) if role is not None else None

        orders_fd, asking_fd = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)

        def live(pipe_fd: int) -> int:
            os.close(asking_fd)
            faulthandler.enable(pipe_fd, all_threads=True)
            return run(Pipes(pipe_fd, orders_fd), listener)

        try:
            child = fork_child(title, live, lambda: self.forget(role))
        except BaseException:
            os.close(asking_fd)
            raise
        finally:
            os.close(orders_fd)
        child.orders_fd = asking_fd
        self._children[key] = child
        if key is not FENCE:
            self._selector.register(child.fd, selectors.EVENT_READ, key)
        return child

    def wait(self, seconds: float) -> tuple[list[Key], list[int]]:
        """Wait until a child writes, a signal comes or the time is over.

        Returns the keys of the children that wrote, and the signals.
        """
        events = self._selector.select(seconds)
        return [event.data for event, _ in events if event.data is not None], self._signals.taken()

    def lines(self, key: Key | None) -> list[str]:
        """The lines that this child has written since the last call."""
        child = self._children[key]
        lines = child.lines()
        if child.silent:
            self._unregister(child)
        return lines

    def send(self, key: Key | None, signum: int) -> None:
        """Send a signal to a child; one that has ended ignores it. Raises KeyError once it is buried."""
        self._children[key].send(signum)

    def ask(self, key: Key, line: str) -> None:
        """Write a line for a child. Raises KeyError once it is buried."""
        self._children[key].ask(line)

    def set_level(self, role: Role, level: Level) -> None:
        """Have the processes of a role log from `level` on."""
        for key, child in self._children.items():
            if key is not FENCE and key[0] == role:
                child.send(level_signal(level))

    def dead(self) -> list[tuple[Key | None, int]]:
        """Reap the children that have ended: their keys and exit codes. The caller buries each."""
        codes = [(key, child.exit_code()) for key, child in self._children.items()]
        return [(key, code) for key, code in codes if code is not None]

    def bury(self, key: Key | None) -> list[str]:
        """Forget a dead child. Returns its last lines, which were still in the pipe."""
        lines = self.lines(key)
        child = self._children.pop(key)
        self._unregister(child)
        child.close()
        return lines

    def _unregister(self, child: Child) -> None:
        if child.fd in self._selector.get_map():
            self._selector.unregister(child.fd)

    def forget(self, role: Role | None) -> None:
        """In a child of this role, or of none: close what belongs to the parent and to siblings."""
        self._signals.close()
        self.forget_more()
        for child in self._children.values():
            child.close()
        self.close_listeners(but=role)
