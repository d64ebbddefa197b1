"""The records of nodes. Those that a node notes in Redis are JSON, and fields may be added to them, with
defaults: nodes of several versions read them."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

import msgspec

from engine.disk_space import DiskSpace
from engine.records import Queue

# How many workers of a queue a node may have, and how many sends in flight each of them.
PROCESSES_MAX, CONCURRENCY_MAX = 256, 10_000
# What a node does, as it notes it itself. `draining`: it takes nothing new, and has something in hand.
State = Literal["running", "draining", "drained", "stopped"]
# The same as others see it. `gone`: it has noted nothing for a while, and did not say that it stops.
SeenState = Literal["running", "draining", "drained", "stopped", "gone"]


class NodeWish(msgspec.Struct, frozen=True, kw_only=True):
    """What operators wish of one node."""

    # Since when it is to be drained; None: it is to work.
    drained_at: datetime | None = None
    reason: str = ""
    # By queue, how many workers are to run; as the configuration says for those that are not named.
    processes: dict[Queue, int] = {}
    # By queue, how many sends each of them may have in flight; the same.
    concurrency: dict[Queue, int] = {}

    @property
    def drained(self) -> bool:
        """Whether it is to take nothing new."""
        return self.drained_at is not None


class QueueScale(msgspec.Struct, frozen=True, kw_only=True):
    """What an operator sets of the workers of one queue on one node; None: as its configuration says."""

    processes: int | None
    # Sends in flight in each; UNSET: as it is.
    concurrency: int | msgspec.UnsetType | None = msgspec.UNSET


class QueueScaled(msgspec.Struct, frozen=True, kw_only=True):
    """What autoscaling has made of the workers of one queue on one node at its last change."""

    processes: int
    concurrency: int
    processes_before: int
    concurrency_before: int
    # When, microseconds of the stores' clock, and why.
    at_us: int
    reason: str


class OwnProcess(msgspec.Struct, frozen=True, kw_only=True):
    """One process of a node, as its supervisor writes it to run/processes.json."""

    role: str
    index: int
    name: str = ""
    # 0: there is none now.
    pid: int = 0
    state: str = ""
    since_us: int = 0
    restarts: int = 0
    # Which reload of the configuration it was started with.
    generation: int = 0
    # Whether it takes new messages; only of role `ingest`.
    admits: bool = True
    degraded: bool = False
    last_words: str = ""


class OwnChange(msgspec.Struct, frozen=True, kw_only=True):
    """What an operator changed at the supervisor itself, by a signal: a reload, or levels of the log."""

    # From 1, since the supervisor started.
    number: int
    # When it was over, UTC microseconds.
    at_us: int
    action: Literal["reload", "log-level"]
    outcome: Literal["done", "refused"] = "done"
    # Only what differs, without secrets.
    before: dict[str, Any] = {}
    after: dict[str, Any] = {}


class OwnNode(msgspec.Struct, frozen=True, kw_only=True):
    """What the supervisor writes to run/processes.json, as far as others are to see it."""

    # When the supervisor started, UTC microseconds; 0: not known.
    since_us: int = 0
    # Where its API is reached from its own machine.
    url: str = ""
    # How many processes of each role its configuration says.
    configured: dict[str, int] = {}
    # By queue, how many sends each worker may have in flight, and how many its configuration says.
    concurrency: dict[Queue, int] = {}
    configured_concurrency: dict[Queue, int] = {}
    # By queue, what autoscaling has changed last.
    scaled: dict[Queue, QueueScaled] = {}
    stopping: bool = False
    # How many providers its configuration has; None: not known.
    providers: int | None = None
    processes: list[OwnProcess] = []
    # The last ones.
    changes: list[OwnChange] = []


class ProcessNote(msgspec.Struct, frozen=True, kw_only=True):
    """One process, as its node notes it."""

    role: str
    index: int
    pid: int = 0
    state: str = ""
    since_us: int = 0
    restarts: int = 0
    generation: int = 0
    # Of one CPU, percent, in about the last ten seconds; and its resident memory, MiB.
    cpu_percent: float = 0.0
    memory_mb: int = 0
    degraded: bool = False
    last_words: str = ""


class NodeNote(msgspec.Struct, frozen=True, kw_only=True):
    """What a node notes of itself."""

    name: str
    # When it did, microseconds of the stores' clock.
    at_us: int
    state: State = "running"
    version: str = ""
    # The number of the formats that it reads (`engine.formats`).
    formats: int = 0
    since_us: int = 0
    url: str = ""
    # Why it is drained, as the operator said.
    reason: str = ""
    # How many processes of each role it is to run when it is not drained, and, where an operator has set
    # another number, what its configuration says.
    roles: dict[str, int] = {}
    configured: dict[str, int] = {}
    # By queue, how many sends each worker may have in flight, and how many its configuration says.
    concurrency: dict[Queue, int] = {}
    configured_concurrency: dict[Queue, int] = {}
    # By queue, what autoscaling has changed last.
    scaled: dict[Queue, QueueScaled] = {}
    processes: list[ProcessNote] = []
    # Processes that are not among these, because there are so many.
    more_processes: int = 0
    # How many providers its configuration has; None: its version does not say.
    providers: int | None = None
    # None: it has no data directory, or its version does not say.
    disk: DiskSpace | None = None


class SeenNode(NodeNote, frozen=True, kw_only=True):
    """A node as others see it."""

    seen: SeenState
    # Whether an operator wishes it drained; None: not known.
    drain_wished: bool | None = None


class Nodes(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to `GET /v1/admin/nodes`."""

    # The node that answers.
    node: str
    nodes: list[SeenNode]
    missing: dict[str, str] = {}
