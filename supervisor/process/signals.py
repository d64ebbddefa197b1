"""Signals of the supervisor: handlers only enqueue, one loop hears them."""

from __future__ import annotations

import contextlib
import os
import signal
from collections import deque
from collections.abc import Iterable
from types import FrameType
from typing import Any


class Signals:
    """Enqueues signals while installed; `fd` is readable when there are some."""

    def __init__(self, signums: Iterable[signal.Signals]) -> None:
        self._signums = tuple(signums)
        self._queue: deque[int] = deque()
        self._before: dict[signal.Signals, Any] = {}
        self.fd, self._wake_fd = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)

    def install(self) -> None:
        """Only in the main thread."""
        signal.set_wakeup_fd(self._wake_fd, warn_on_full_buffer=False)
        self._before = {signum: signal.signal(signum, self._enqueue) for signum in self._signums}

    def taken(self) -> list[int]:
        """The signals since the last call, in the order in which they came."""
        with contextlib.suppress(BlockingIOError):
            # The bytes only wake; a full pipe loses none of the queue.
            while os.read(self.fd, 4096):
                pass
        taken = []
        while self._queue:
            taken.append(self._queue.popleft())
        return taken

    def restore(self) -> None:
        for signum, handler in self._before.items():
            signal.signal(signum, handler)
        signal.set_wakeup_fd(-1)
        self.close()

    def close(self) -> None:
        os.close(self.fd)
        os.close(self._wake_fd)

    def _enqueue(self, signum: int, frame: FrameType | None) -> None:
        self._queue.append(signum)
