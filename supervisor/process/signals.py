"""Signals of the supervisor: their handlers only enqueue them, and its loop takes them.

What each signal does, to the supervisor and to its processes, stands in docs/operations.md, "Signals". Those
that mean nothing here are taken too: their default is to end a process, and a mistaken `kill` at night, or a
script that rotates logs, must not stop what works.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections import deque
from collections.abc import Iterable
from types import FrameType
from typing import Any

# They mean nothing to the supervisor.
MEANINGLESS = (signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM)


class Signals:
    """Enqueues signals while it is installed. `fd` is readable when there are some."""

    def __init__(self, signums: Iterable[int]) -> None:
        self._signums = tuple(signums)
        self._queue: deque[int] = deque()
        self._before: dict[int, Any] = {}
        self.fd, self._wake_fd = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)

    def install(self) -> None:
        """Enqueue these signals from now on. Raises ValueError outside of the main thread."""
        signal.set_wakeup_fd(self._wake_fd, warn_on_full_buffer=False)
        self._before = {signum: signal.signal(signum, self._enqueue) for signum in self._signums}

    def taken(self) -> list[int]:
        """The numbers of the signals since the last call, in the order in which they came."""
        with contextlib.suppress(BlockingIOError):
            # The bytes only wake the loop; a full pipe loses no signal, for the queue has them all.
            while os.read(self.fd, 4096):
                pass
        taken = []
        while self._queue:
            taken.append(self._queue.popleft())
        return taken

    def restore(self) -> None:
        """Give the signals back to the handlers before `install`, and close."""
        for signum, handler in self._before.items():
            signal.signal(signum, handler)
        signal.set_wakeup_fd(-1)
        self.close()

    def close(self) -> None:
        """Close the pipe that wakes the loop; also in a child, which has a copy of it."""
        os.close(self.fd)
        os.close(self._wake_fd)

    def _enqueue(self, signum: int, frame: FrameType | None) -> None:
        self._queue.append(signum)
