"""Keeps two processes on separate cores, and reads the CPU time of another process."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def spread(pid: int) -> Iterator[None]:
    """Keep another process on the first core that we may use and this one on the last."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(pid, {min(cores)})
    os.sched_setaffinity(0, {max(cores)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)


def cpu_s(pid: int) -> float:
    """CPU time another process has used so far, seconds (scheduler's nanoseconds, schedstat)."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9
