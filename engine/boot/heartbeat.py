"""How a child proves to its supervisor that it lives, and hears that it should end.

The proof is written by the working loop itself, through a pipe, never by a thread
beside it: a loop that hangs falls silent. Lines on the pipe, child to parent:
`ready`, `beat`, `routing <version of the plan in force>`, `failed <one sentence>`.

The wish to end is a signal of its own, DRAIN_SIGNAL. SIGTERM and SIGINT are ignored here:
systemd sends SIGTERM to every process of a unit at once, and a terminal sends SIGINT to
every process of its group. The supervisor hears both and then asks one role after another,
so that a process that others still need does not leave before them.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal

from engine.supervision import DRAIN_SIGNAL

BEAT_S = 1.0


class Heartbeat:
    """One child's end of the pipe; made inside the child, on its running loop."""

    def __init__(self, pipe_fd: int | None) -> None:
        self._pipe_fd = pipe_fd
        self.draining = asyncio.Event()
        self.was_ready = False

    def start(self) -> None:
        """Set `draining` on DRAIN_SIGNAL, and ignore SIGTERM and SIGINT, from now on."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(DRAIN_SIGNAL, self.draining.set)
        for signum in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(signum, lambda: None)

    def ready(self) -> None:
        """Say so, once; again does nothing."""
        if not self.was_ready:
            self.was_ready = True
            self._say(b"ready\n")

    def routing(self, version: int) -> None:
        """Say which version of the routing plan is in force here, for `smsengine status`."""
        self._say(b"routing %d\n" % version)

    def failed(self, sentence: str) -> None:
        """Tell the supervisor in one sentence why this process ends; an operator reads it."""
        self._say(b"failed " + " ".join(sentence.split()).encode()[:2000] + b"\n")

    async def beat(self) -> None:
        """Beat until canceled."""
        while True:
            self._say(b"beat\n")
            await asyncio.sleep(BEAT_S)

    def _say(self, line: bytes) -> None:
        if self._pipe_fd is not None:
            # The parent's end is gone only when the parent is; the death signal follows.
            with contextlib.suppress(BlockingIOError, BrokenPipeError):
                os.write(self._pipe_fd, line)
