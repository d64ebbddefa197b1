"""How a child shows its supervisor that it lives, and how it learns that it should end.

The working loop itself writes the sign of life to a pipe, never a thread beside it, so a loop that
hangs stops writing. The lines on the pipe, from child to parent, are `ready`, `beat`,
`routing <version of the plan in force>`, `admits <yes or no>`, `wish <what operators wish of the node>`,
`scaled <what autoscaling makes of it>`,
`level <from which on it logs>`, `concurrency <sends that may be in flight>` and `failed <one sentence>`.

The parent writes to another pipe, so far `concurrency <number>` to workers. A worker that does as it was
asked says so by the same line, and the parent asks again until it does. A process that is frozen finds all
of it when it goes on, and only the last counts.

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
from collections.abc import Callable
from typing import get_args

from engine.clocks.waits import next_tick
from engine.logs.telemetry import Level, level_signal, present_level, set_level, write_left_out
from engine.supervision import DRAIN_SIGNAL

BEAT_S = 1.0


class Heartbeat:
    """One child's end of the pipe; made inside the child, on its running loop."""

    def __init__(self, pipe_fd: int | None, orders_fd: int | None = None) -> None:
        self._pipe_fd = pipe_fd
        self._orders_fd = orders_fd
        self._rest = b""
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

    def follow_concurrency(self, now: int, use: Callable[[int], None]) -> None:
        """Tell the supervisor how many sends may be in flight `now`, and call `use` with each other
        number that it wishes."""
        self._say(b"concurrency %d\n" % now)
        if self._orders_fd is not None:
            asyncio.get_running_loop().add_reader(self._orders_fd, self._take_orders, use)

    def _take_orders(self, use: Callable[[int], None]) -> None:
        assert self._orders_fd is not None
        try:
            piece = os.read(self._orders_fd, 65536)
        except BlockingIOError:
            return
        if not piece:
            # The parent is gone; the death signal follows.
            asyncio.get_running_loop().remove_reader(self._orders_fd)
            return
        *lines, self._rest = (self._rest + piece).split(b"\n")
        wishes = [words[1] for words in map(bytes.split, lines) if words[:1] == [b"concurrency"]]
        if wishes:
            use(int(wishes[-1]))
            self._say(b"concurrency " + wishes[-1] + b"\n")

    def wish(self, wish: bytes) -> None:
        """Tell the supervisor what operators wish of the node: a `NodeWish` as JSON.

        A line that finds no room is lost, so it is told again and again.
        """
        self._say(b"wish " + wish + b"\n")

    def scaled(self, scaled: bytes) -> None:
        """Tell the supervisor what autoscaling makes of the node: by queue, a `QueueScaled`, as JSON.

        A line that finds no room is lost, so it is told again and again.
        """
        self._say(b"scaled " + scaled + b"\n")

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
