"""How a child proves to its supervisor that it lives, and hears that it should end.

The proof is written by the working loop itself, through a pipe, never by a thread
beside it: a loop that hangs falls silent. Lines on the pipe, child to parent:
`ready`, `beat`, `failed <one sentence>`.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal

BEAT_S = 1.0


class Heartbeat:
    """One child's end of the pipe; made inside the child, on its running loop."""

    def __init__(self, pipe_fd: int | None) -> None:
        self._pipe_fd = pipe_fd
        self.draining = asyncio.Event()
        self.was_ready = False

    def start(self) -> None:
        """Hear SIGTERM as the wish to drain. SIGINT is the parent's to hear (Ctrl-C
        reaches the whole process group)."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self.draining.set)
        loop.add_signal_handler(signal.SIGINT, lambda: None)

    def ready(self) -> None:
        """Say so, once; again does nothing."""
        if not self.was_ready:
            self.was_ready = True
            self._say(b"ready\n")

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
