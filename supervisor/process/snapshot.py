"""The supervisor's processes as a file, DATA/run/processes.json, for `smsengine status`.

The file is replaced as a whole: a reader sees the old one or the new one. Left behind
by a supervisor that was killed, it is recognised by its process id and start.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterable
from pathlib import Path

import msgspec
import structlog

from engine.config import ROLES, Role
from supervisor.process.child_state import ChildState, Slot
from supervisor.process.reconcile import Observed


class ProcessRow(msgspec.Struct, frozen=True, kw_only=True):
    role: Role
    # From 1.
    index: int
    # Its name as a holder.
    name: str
    # 0: no process at the moment.
    pid: int
    state: ChildState
    # When it came into this state, UTC microseconds.
    since_us: int
    restarts: int
    # Version of the routes, pauses and throughputs in force in it; None: it routes nothing, or not yet.
    routing: int | None


class Processes(msgspec.Struct, frozen=True, kw_only=True):
    node: str
    supervisor_pid: int
    # Kernel's start time of that process, clock ticks since boot: tells it from a later one.
    supervisor_start: int
    # Everything wanted has been ready at least once.
    ready: bool
    stopping: bool
    processes: list[ProcessRow]


def path_in(data_dir: Path) -> Path:
    return data_dir / "run" / "processes.json"


class Publisher:
    """Writes the file whenever a process has changed its state."""

    def __init__(self, node: str, path: Path | None) -> None:
        """Without a path there is no file."""
        self._node, self._path = node, path
        self._published: object = None

    def publish(self, observed: Observed) -> None:
        rows = [(s.key, s.state, s.pid, s.restarts, s.routing) for s in observed.slots.values()]
        stopping = observed.stopping is not None
        now = (rows, observed.announced, stopping)
        if now == self._published:
            return
        self._published = now
        if self._path is None:
            return
        pid = os.getpid()
        processes = Processes(
            node=self._node,
            supervisor_pid=pid,
            supervisor_start=start_of(pid),
            ready=observed.announced,
            stopping=stopping,
            processes=rows_of(observed.slots.values()),
        )
        try:
            _write(self._path, processes)
        except OSError as e:
            # A full disk must not end the engine; the next change tries again.
            structlog.get_logger().warning("processes_not_written", why=e.strerror)

    def withdraw(self) -> None:
        if self._path is not None:
            with contextlib.suppress(OSError):
                self._path.unlink()


def rows_of(slots: Iterable[Slot]) -> list[ProcessRow]:
    """In the order in which the roles start."""
    wall_us, now = time.time_ns() // 1000, time.monotonic()
    return [
        ProcessRow(
            role=s.role,
            index=s.index,
            name=s.name,
            pid=s.pid if s.alive else 0,
            state=s.state,
            since_us=wall_us - int((now - s.since) * 1e6),
            restarts=s.restarts,
            routing=s.routing if s.alive else None,
        )
        for s in sorted(slots, key=lambda s: (ROLES.index(s.role), s.index))
    ]


def _write(path: Path, processes: Processes) -> None:
    """Replace the file. Raises OSError.

    Not synced to the disk: it speaks of processes, which a power failure ends too.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(f".{os.getpid()}")
    draft.write_bytes(msgspec.json.format(msgspec.json.encode(processes)))
    os.replace(draft, path)


def read(path: Path) -> Processes | None:
    """The processes of the supervisor that runs now; None when none does."""
    try:
        processes = msgspec.json.decode(path.read_bytes(), type=Processes)
    except (OSError, msgspec.DecodeError):
        return None
    return processes if start_of(processes.supervisor_pid) == processes.supervisor_start else None


def start_of(pid: int) -> int:
    """When the process started, clock ticks since boot (proc(5), stat field 22); 0: no process."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return 0
    # The second field, the name, may contain spaces and parentheses.
    state, *fields = stat.rpartition(")")[2].split()
    return 0 if state in "ZX" else int(fields[18])
