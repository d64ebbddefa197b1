"""Workers that are killed under measurement, and how long the engine takes to recover from it.

The supervisor's log says when a process has ended, when the one in its place was ready, and when the dead one
was fenced, from which moment on what it had in hand can be taken over.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import re
import signal
import statistics
import time
from pathlib import Path
from typing import NamedTuple

from benchmarks.running import Engine, descendants
from engine.records import Queue

# Deaths that are looked at: after so many a place is filled at once. So long is waited for the end of each,
# seconds.
_DEATHS, _WAIT_S = 2, 60.0
_LINE = re.compile(r"^(\S+)Z \S+ +(child_ended|child_ready|fenced) (.*)$", re.MULTILINE)


class Recovery(NamedTuple):
    """From the death of a worker to the next one being ready, and to its being fenced, seconds."""

    replaced_s: float
    fenced_s: float


def kill_worker(target: Engine, queue: Queue, number: int = 1) -> float:
    """Kill (SIGKILL) the worker `number` of a queue, from 1: when, UTC seconds. Raises LookupError when there
    is none."""
    title = f"smsengine: {queue} {number}"
    for pid in descendants(target.pid):
        with contextlib.suppress(OSError):
            if Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0 ").decode() == title:
                at_s = time.time()
                os.kill(pid, signal.SIGKILL)
                return at_s
    raise LookupError(f"{title} does not run")


def measure_recovery(target: Engine, log: Path, queue: Queue) -> Recovery:
    """Kill the first worker of a queue twice; the means. `log`: of the supervisor."""
    found = []
    for _ in range(_DEATHS):
        at_s, deadline_s = kill_worker(target, queue), time.monotonic() + _WAIT_S
        while (seen := recovery_since(log.read_text(), f"{queue} 1", at_s)) is None:
            if time.monotonic() > deadline_s:
                raise SystemExit(f"{queue} 1 was killed, and not replaced and fenced within {_WAIT_S:g} s.")
            time.sleep(0.05)
        found.append(seen)
    return Recovery(*(round(statistics.fmean(column), 3) for column in zip(*found, strict=True)))


def recovery_since(log: str, child: str, at_s: float) -> Recovery | None:
    """What the log says of the recovery from the death of `child` at this time; None: it is not over."""
    seen: dict[str, float] = {}
    for moment, event, rest in _LINE.findall(log):
        when_s = datetime.datetime.fromisoformat(moment).replace(tzinfo=datetime.UTC).timestamp()
        if when_s >= at_s - 0.001 and (event == "fenced" or f'child="{child}"' in rest):
            seen.setdefault(event, when_s - at_s)
    if "child_ready" not in seen or "fenced" not in seen:
        return None
    return Recovery(seen["child_ready"], seen["fenced"])
