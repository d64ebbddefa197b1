"""Writes the lines of the log to stderr, and never fails or waits because of them.

the disk of the log is full, its reader has gone       the line is lost and counted
its reader reads no further: a journal that hangs, a   the line is lost and counted, once the pipe or the
  terminal that was stopped (Ctrl-S)                   socket is full
it can be written again                                a line says how many were lost (`telemetry`)
a part of a line was written before the disk was full  the next line begins behind it, on a line of its own
"""

from __future__ import annotations

import contextlib
import os
import select
import sys

# A pipe or a socket that says it has room takes so much without waiting (pipe(7), PIPE_BUF).
_PIECE_BYTES = 4096


class Lines:
    """A logger of structlog: each of its methods writes one line. All of one process share `lost`."""

    def __init__(self) -> None:
        self._lost = 0
        self._torn = False

    def msg(self, line: str) -> None:
        """Write one line, or count it as lost."""
        stream = sys.stderr
        try:
            fd = stream.fileno()
        # Tests, and whoever replaces stderr, have no descriptor.
        except (OSError, ValueError, AttributeError):
            with contextlib.suppress(OSError, ValueError, AttributeError):
                stream.write(line + "\n")
                stream.flush()
            return
        data = (b"\n" if self._torn else b"") + line.encode(errors="replace") + b"\n"
        left = _rest(fd, data)
        if left < len(data):
            self._torn = left > 0
        self._lost += left > 0

    debug = info = warning = error = critical = msg

    def taken_lost(self) -> int:
        """How many lines were lost since the last call."""
        lost, self._lost = self._lost, 0
        return lost


def _rest(fd: int, data: bytes) -> int:
    """Write without waiting; how many bytes could not be written."""
    room = select.poll()
    room.register(fd, select.POLLOUT)
    view = memoryview(data)
    try:
        while view and room.poll(0):
            view = view[os.write(fd, view[:_PIECE_BYTES]) :]
    except OSError:
        pass
    return len(view)


LINES = Lines()
