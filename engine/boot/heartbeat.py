"""How a child shows its supervisor that it lives, and how it learns that it should end.

The working loop itself writes the sign of life to a pipe, never a thread beside it, so a loop that
hangs stops writing. The lines on the pipe, from child to parent, are `ready`, `beat`,
`routing <version of the plan in force>`, `admits <yes or no>`, `wish <what operators wish of the node>`,
`level <from which on it logs>` and `failed <one sentence>`.

The wish to end is a signal of its own, DRAIN_SIGNAL. SIGTERM and SIGINT are ignored here, because
systemd sends SIGTERM to every process of a unit at once, and a terminal sends SIGINT to every process
of its group. The supervisor takes both, and then asks one role after another to end. So a process that
others still need does not end before them.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from typing import get_args

from engine.supervision import DRAIN_SIGNAL, level_signal
from engine.telemetry import Level, present_level, set_level, write_left_out
from engine.waits import next_tick

BEAT_S = 1.0


class Heartbeat:
    """One child's end of the pipe; made inside the child, on its running loop."""

    def __init__(self, pipe_fd: int | None) -> None:
        self._pipe_fd = pipe_fd
        self.draining = asyncio.Event()
        self.was_ready = False

    def start(self) -> None:
        """Set `draining` on DRAIN_SIGNAL, take another level at a `level_signal`, and ignore SIGTERM and
        SIGINT, from now on."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(DRAIN_SIGNAL, self.draining.set)
        for signum in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(signum, lambda: None)
        for level in get_args(Level):
            loop.add_signal_handler(level_signal(level), self._log_from, level)
        self._log_from(present_level())

    def _log_from(self, level: Level) -> None:
        set_level(level)
        self._say(b"level %s\n" % level.encode())

    def ready(self) -> None:
        """Tell the supervisor that this process is ready. Called again, it does nothing."""
        if not self.was_ready:
            self.was_ready = True
            self._say(b"ready\n")

    def routing(self, version: int) -> None:
        """Tell the supervisor which version of the routing plan is in force, for `smsengine status`."""
        self._say(b"routing %d\n" % version)

    def admits(self, yes: bool) -> None:
        """Tell the supervisor whether this process takes new messages, or has some under way."""
        self._say(b"admits %s\n" % (b"yes" if yes else b"no"))

    def wish(self, wish: bytes) -> None:
        """Tell the supervisor what operators wish of the node: a `NodeWish` as JSON.

        A line that finds no room is lost, so it is told again and again.
        """
        self._say(b"wish " + wish + b"\n")

    def failed(self, sentence: str) -> None:
        """Tell the supervisor in one sentence, for the operator, why this process ends."""
        self._say(b"failed " + " ".join(sentence.split()).encode()[:2000] + b"\n")

    async def beat(self) -> None:
        """Beat until canceled, and log what was left out of the log."""
        while True:
            self._say(b"beat\n")
            write_left_out()
            await next_tick(BEAT_S)

    def _say(self, line: bytes) -> None:
        if self._pipe_fd is not None:
            # The parent's end is gone only when the parent is; the death signal follows.
            with contextlib.suppress(BlockingIOError, BrokenPipeError):
                os.write(self._pipe_fd, line)
