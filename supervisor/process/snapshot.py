"""The supervisor's processes as a file, DATA/run/processes.json, for `smsengine status`.

The file is replaced as a whole: a reader sees the old one or the new one. A reader recognises
the file of a supervisor that was killed by that supervisor's process id and start.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import msgspec

from engine.capacity.autoscale_settings import AutoscaleSettings
from engine.config import ROLES, Config, Role
from engine.nodes.records import NodeWish, OwnChange, QueueScaled
from engine.records import Queue
from supervisor.process import child_state
from supervisor.process.child_state import ChildState, Limits, Slot
from supervisor.process.reconcile import Observed


class ProcessRow(msgspec.Struct, frozen=True, kw_only=True):
    """One slot in the file, with its process if it has one."""

    role: Role
    # From 1.
    index: int
    # Its name as a holder.
    name: str
    # 0: there is no process now.
    pid: int
    state: ChildState
    # When it came into this state, UTC microseconds.
    since_us: int
    restarts: int
    # Version of the routes, pauses and throughputs in force in it; None: it routes nothing, or not yet.
    routing: int | None
    # Which configuration it was started with: how many reloads there had been.
    generation: int = 0
    # Whether it takes new messages; only of role `ingest`.
    admits: bool = True
    # From which level on it logs; "" when it has not said so yet.
    log_level: str = ""
    # Of a worker: how many sends it may have in flight, as it has said.
    concurrency: int | None = None
    # Processes that died here in a row, and why the last one did; "" when it was asked to end.
    deaths: int
    last_words: str
    # So many died that something must be wrong; it is tried again with long pauses.
    degraded: bool


class Processes(msgspec.Struct, frozen=True, kw_only=True):
    """The whole file: the supervisor and all its slots."""

    node: str
    supervisor_pid: int
    # When that process started, clock ticks since boot: a later process with its id has another.
    supervisor_start: int
    # When it started, UTC microseconds, and where its API is reached from this machine.
    since_us: int = 0
    url: str = ""
    # What operators wish of the node; and how many processes of each role the configuration says.
    wish: NodeWish = NodeWish()
    configured: dict[str, int] = {}
    # By queue, how many sends each worker may have in flight, and how many the configuration says.
    concurrency: dict[Queue, int] = {}
    configured_concurrency: dict[Queue, int] = {}
    # What autoscaling may do by the configuration, and its last changes.
    autoscale: dict[Queue, AutoscaleSettings] = {}
    scaled: dict[Queue, QueueScaled] = {}
    # How many providers the configuration has.
    providers: int = 0
    # Everything wanted has been ready at the same time, at least once.
    ready: bool
    stopping: bool
    # How many reloads were asked for, how many of these are over, and why the last one changed nothing:
    # "" when it did.
    reloads_begun: int
    reloads_ended: int
    reload_failure: str
    # What operators changed at this supervisor of late, for the record of changes.
    changes: list[OwnChange] = []
    processes: list[ProcessRow]


def path_in(data_dir: Path) -> Path:
    """Where the file is in a data directory."""
    return data_dir / "run" / "processes.json"


class Publisher:
    """Has the file written when a process has changed, and removed at the end."""

    def __init__(
        self, config: Config, write: Callable[[Path, bytes | None], None], limits: Limits, url: str = ""
    ) -> None:
        """`write` replaces a file in one step; None: removes it. Without a data directory nothing is written.

        `url`: of the node's API.
        """
        self._node, self._limits, self._url, self._write = config.node_name, limits, url, write
        self._path = path_in(Path(config.data_dir)) if config.data_dir else None
        self._since_us = time.time_ns() // 1000
        self._published: object = None

    def publish(self, observed: Observed) -> None:
        """Have the file written if anything in it has changed since the last call."""
        rows = [
            (s.key, s.state, s.pid, s.restarts, s.routing, s.admits, s.log_level, s.concurrency, s.deaths,
             self._degraded(s))
            for s in observed.slots.values()
        ]  # fmt: skip
        stopping = observed.stopping is not None
        reloads = observed.reloads
        known = (observed.announced, stopping, reloads.begun, reloads.ended, observed.providers)
        concurrency = (
            observed.concurrency,
            observed.configured_concurrency,
            observed.autoscale,
            observed.scaled,
        )
        now = (rows, known, observed.wish, observed.configured, concurrency, observed.changes)
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
            since_us=self._since_us,
            url=self._url,
            wish=observed.wish,
            configured=dict[str, int](observed.configured.items()),
            concurrency=observed.concurrency,
            configured_concurrency=observed.configured_concurrency,
            autoscale=observed.autoscale,
            scaled=observed.scaled,
            providers=observed.providers,
            ready=observed.announced,
            stopping=stopping,
            reloads_begun=observed.reloads.begun,
            reloads_ended=observed.reloads.ended,
            reload_failure=observed.reloads.sentence,
            changes=observed.changes,
            processes=self._rows(observed.slots.values()),
        )
        self._write(self._path, msgspec.json.format(msgspec.json.encode(processes)))

    def withdraw(self) -> None:
        """Have the file removed."""
        if self._path is not None:
            self._write(self._path, None)

    def _degraded(self, slot: Slot) -> bool:
        return child_state.degraded(slot, time.monotonic(), self._limits)

    def _rows(self, slots: Iterable[Slot]) -> list[ProcessRow]:
        """One row for each slot, in the order in which the roles start."""
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
                generation=s.generation,
                admits=s.admits,
                log_level=s.log_level if s.alive else "",
                concurrency=s.concurrency if s.alive else None,
                deaths=s.deaths,
                last_words=s.last_words,
                degraded=self._degraded(s),
            )
            for s in sorted(slots, key=lambda s: (ROLES.index(s.role), s.index))
        ]


def read(path: Path) -> Processes | None:
    """The file of a supervisor that runs now; None when there is none, or its supervisor has ended."""
    try:
        processes = msgspec.json.decode(path.read_bytes(), type=Processes)
    except (OSError, msgspec.DecodeError):
        return None
    return processes if start_of(processes.supervisor_pid) == processes.supervisor_start else None


def start_of(pid: int) -> int:
    """When the process started, clock ticks since boot (proc(5), stat field 22); 0: there is none."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return 0
    # The second field, the name, may contain spaces and parentheses.
    state, *fields = stat.rpartition(")")[2].split()
    return 0 if state in "ZX" else int(fields[18])
