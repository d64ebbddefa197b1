"""How long this process waits for a core: where it does, cores are short, and what can wait should.

Linux counts for each thread how long it was on a core, and how long it was ready to run and was not. The
counts are of the first thread, which is that of the loop. Where the kernel does not tell, nobody waits.

Documentation: Linux, scheduler/sched-stats.rst, "/proc/<pid>/schedstat".
"""

from __future__ import annotations

import os

# The part is of so long at least, seconds, and counts for so much beside those before.
_WINDOW_S = 0.05
_NEWEST = 0.3


def times_ns() -> tuple[int, int] | None:
    """How long the first thread was on a core, and how long it waited for one, nanoseconds; None: the kernel
    does not tell."""
    try:
        # Three system calls, and not the nine of `Path.read_text`: it is read many times a second.
        file = os.open("/proc/self/schedstat", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        on_core, waited, _ = os.read(file, 100).split()
    except (OSError, ValueError):
        return None
    finally:
        os.close(file)
    return int(on_core), int(waited)


class CpuWaits:
    """Of this process."""

    def __init__(self) -> None:
        self._part = 0.0
        # When the present window began, monotonic seconds, and the counts then; None: there is none.
        self._since: tuple[float, tuple[int, int]] | None = None

    def part(self, now_s: float) -> float:
        """Of the time in which the thread wanted a core, the part for which it waited, over the last moments:
        0 to 1. `now_s`: monotonic seconds."""
        if self._since is not None and now_s < self._since[0] + _WINDOW_S:
            return self._part
        before, now = self._since, times_ns()
        self._since = None if now is None else (now_s, now)
        if before is not None and now is not None:
            on_core, waited = now[0] - before[1][0], now[1] - before[1][1]
            newest = waited / (on_core + waited) if on_core + waited else 0.0
            self._part += _NEWEST * (newest - self._part)
        return self._part
