"""The states of one child process, as a table, and the limits that it must keep.

A slot is a place for one process, such as `express 2`. Processes come and go in it;
each has a name of its own that is never used again.

                 spawned          line `ready`
    WAITING ───────────▶ STARTING ──────────▶ READY
       ▲                    │  │                │ │
       │ ended (from any)   │  └───── abort ────┤ │ drain
       │                    │                   ▼ ▼
       └──────────────  KILLED ◀── kill ── ABORTED, DRAINING

Time is monotonic, in seconds. A process is frozen: its beats stop, and it is aborted.
It is killed, by us or by others: it ends, and the slot waits for its next start.
"""

from __future__ import annotations

import signal
from enum import StrEnum

import msgspec

from engine.clocks.backoff import pause_after
from engine.config import Role
from engine.supervision import DRAIN_SIGNAL
from engine.written_numbers import is_whole

Key = tuple[Role, int]
# More lines of a stack than that are not kept.
_STACK_LINES_MAX = 400
# After so many deaths in a row of processes that were ready the next one is started at once.
_AT_ONCE = 2


class ChildState(StrEnum):
    """What the process of a slot does now, as far as the supervisor knows."""

    WAITING = "waiting"  # no process; one is started at `retry_at`
    STARTING = "starting"  # forked, not ready yet
    READY = "ready"
    DRAINING = "draining"  # asked to end (DRAIN_SIGNAL)
    ABORTED = "aborted"  # hung: sent SIGABRT, so that it leaves a trace
    KILLED = "killed"  # sent SIGKILL, not reaped yet


class Event(StrEnum):
    """What moves a slot to another state: something that the supervisor did, or saw."""

    SPAWN = "spawn"
    READY = "ready"
    DRAIN = "drain"
    ABORT = "abort"
    KILL = "kill"
    END = "end"


TABLE: dict[tuple[ChildState, Event], ChildState] = {
    (ChildState.WAITING, Event.SPAWN): ChildState.STARTING,
    (ChildState.STARTING, Event.READY): ChildState.READY,
    (ChildState.READY, Event.READY): ChildState.READY,
    # The child wrote `ready` before our signal reached it.
    (ChildState.DRAINING, Event.READY): ChildState.DRAINING,
    (ChildState.ABORTED, Event.READY): ChildState.ABORTED,
    (ChildState.KILLED, Event.READY): ChildState.KILLED,
    (ChildState.STARTING, Event.DRAIN): ChildState.DRAINING,
    (ChildState.READY, Event.DRAIN): ChildState.DRAINING,
    (ChildState.STARTING, Event.ABORT): ChildState.ABORTED,
    (ChildState.READY, Event.ABORT): ChildState.ABORTED,
    (ChildState.STARTING, Event.KILL): ChildState.KILLED,
    (ChildState.READY, Event.KILL): ChildState.KILLED,
    (ChildState.DRAINING, Event.KILL): ChildState.KILLED,
    (ChildState.ABORTED, Event.KILL): ChildState.KILLED,
    (ChildState.STARTING, Event.END): ChildState.WAITING,
    (ChildState.READY, Event.END): ChildState.WAITING,
    (ChildState.DRAINING, Event.END): ChildState.WAITING,
    (ChildState.ABORTED, Event.END): ChildState.WAITING,
    (ChildState.KILLED, Event.END): ChildState.WAITING,
}


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """How long each step may take, seconds, and how often it may fail."""

    # From the fork to `ready`.
    ready_s: float = 60.0
    # Longest silence of a process that is ready.
    beat_s: float = 10.0
    # From SIGABRT to SIGKILL.
    abort_s: float = 2.0
    # From SIGKILL to the end of the process; after that the kernel is holding it.
    kill_s: float = 5.0
    # From DRAIN_SIGNAL to SIGKILL.
    drain_s: float = 30.0
    # First pause before a restart; doubles with each death up to the second. There is none after the
    # first deaths of processes that were ready: see `ended`.
    backoff_s: float = 0.1
    backoff_max_s: float = 10.0
    # After a process that lived this long, the pauses begin with the first again.
    lived_s: float = 30.0
    # How often the memory of the processes is looked at.
    weigh_s: float = 5.0
    # How long fencing waits for processes that start at the same time.
    fence_after_s: float = 1.0
    # One run of the fencing process.
    fence_s: float = 10.0
    # Longest that fencing the holders of earlier runs takes, before the start is given up.
    leftovers_s: float = 30.0
    # Deaths in a row of a process that was never ready, after which the start, or a reload, is given up.
    boot_deaths_max: int = 8
    # Deaths in a row after which a slot is degraded, until a process has lived `lived_s` in it.
    degraded_deaths: int = 5


class Slot(msgspec.Struct, frozen=True, kw_only=True):
    """A place for one process of a role, and what is known of its process. Times are monotonic seconds."""

    role: Role
    # From 1.
    index: int
    state: ChildState = ChildState.WAITING
    # The process's name as a holder, and its id; while waiting, those of the last process.
    name: str = ""
    pid: int = 0
    # Which configuration the process was started with: see `rolling`.
    generation: int = 0
    # When this state began, when the process started, and when its last sign of life came.
    since: float
    started_at: float = 0.0
    beat_at: float = 0.0
    # A process with this configuration has been ready here.
    was_ready: bool = False
    # Deaths in a row, not counting those of processes that drained or lived long.
    deaths: int = 0
    # Processes started here in the place of one that had died.
    restarts: int = 0
    retry_at: float = 0.0
    # Version of the routing plan that the process has in force; None: it routes nothing, or not yet.
    routing: int | None = None
    # Whether the process takes new messages, as far as it has said; only of role `ingest`.
    admits: bool = True
    # Of role `node`: what operators wish of the node, JSON; "": not known yet. It outlives the process.
    wish: str = ""
    # Of role `node`: what autoscaling makes of the node, JSON; as `wish`.
    scaled: str = ""
    # From which level on the process logs; "": it has not said so yet.
    log_level: str = ""
    # Of a worker: how many sends it may have in flight, as it has said; None: it has not said so yet.
    concurrency: int | None = None
    # Why the process fails, in its own words, and its exit code (negative: a signal).
    sentence: str = ""
    code: int = 0
    # Where it was when it crashed or was aborted: the Python stack of each of its threads.
    stack: tuple[str, ...] = ()
    # Why the last process that died in this slot did. A new process does not change it.
    last_words: str = ""
    # The process had more memory than it may, and the one that takes its place is not ready: see `rolling`.
    outgrown: bool = False

    @property
    def key(self) -> Key:
        """Role and index, by which the supervisor finds the slot."""
        return self.role, self.index

    @property
    def title(self) -> str:
        """Its name in logs and in `ps`, such as `express 2`."""
        return f"{self.role} {self.index}"

    @property
    def alive(self) -> bool:
        """Whether there is a process, also one that is about to end."""
        return self.state != ChildState.WAITING


def backoff_s(deaths: int, limits: Limits) -> float:
    """The pause, seconds, before the restart after this many deaths in a row, from 1."""
    return pause_after(deaths, limits.backoff_s, limits.backoff_max_s)


def moved(slot: Slot, event: Event, now: float) -> Slot:
    """The slot after the event. Raises KeyError when the keeper does what the rule never asks for."""
    state = TABLE[slot.state, event]
    return slot if state == slot.state else msgspec.structs.replace(slot, state=state, since=now)


def spawned(slot: Slot, name: str, pid: int, now: float, generation: int = 0) -> Slot:
    """The slot after a fork: a new process with this name as a holder, this id and configuration."""
    # One that takes the place of a process that was asked to end, for a reload say, is no restart.
    again = slot.name != "" and slot.deaths > 0
    if generation != slot.generation:
        # Failures with the last configuration do not count against this one.
        slot = msgspec.structs.replace(slot, was_ready=False, deaths=0)
    return msgspec.structs.replace(
        moved(slot, Event.SPAWN, now),
        name=name, pid=pid, generation=generation, started_at=now, beat_at=now,
        restarts=slot.restarts + again, routing=None, admits=True, log_level="", concurrency=None,
        sentence="", code=0, stack=(),
    )  # fmt: skip


def noted_line(slot: Slot, line: str, now: float) -> Slot:
    """The slot after a line from its process (see `engine.boot.heartbeat`).

    What faulthandler writes of a process that ends are lines of their own. Others change nothing.
    """
    word, _, sentence = line.partition(" ")
    if word == "ready":
        slot = moved(slot, Event.READY, now)
        return msgspec.structs.replace(slot, was_ready=True, beat_at=now, outgrown=False)
    if word == "beat":
        return msgspec.structs.replace(slot, beat_at=now)
    if word == "admits":
        return msgspec.structs.replace(slot, admits=sentence == "yes")
    if word == "wish":
        return msgspec.structs.replace(slot, wish=sentence)
    if word == "scaled":
        return msgspec.structs.replace(slot, scaled=sentence)
    if word == "level":
        return msgspec.structs.replace(slot, log_level=sentence)
    if word == "routing" and is_whole(sentence):
        return msgspec.structs.replace(slot, routing=int(sentence))
    if word == "concurrency" and is_whole(sentence):
        return msgspec.structs.replace(slot, concurrency=int(sentence))
    if word == "failed":
        return msgspec.structs.replace(slot, sentence=sentence)
    if (slot.stack or line.startswith("Fatal Python error")) and len(slot.stack) < _STACK_LINES_MAX:
        return msgspec.structs.replace(slot, stack=(*slot.stack, line))
    return slot


def ended(slot: Slot, code: int, now: float, limits: Limits) -> Slot:
    """The slot after its process was reaped with this exit code (negative: the signal that killed it)."""
    if slot.state == ChildState.DRAINING and left_cleanly(slot, code):
        deaths, retry_at, words = 0, now, ""
    else:
        deaths = 1 if now - slot.started_at >= limits.lived_s else slot.deaths + 1
        # One or two deaths, of processes that worked, are no sign that the next one would die too.
        at_once = deaths <= _AT_ONCE and slot.state == ChildState.READY
        retry_at, words = now + (0.0 if at_once else backoff_s(deaths, limits)), _last_words(slot, code)
    return msgspec.structs.replace(
        moved(slot, Event.END, now), deaths=deaths, retry_at=retry_at, code=code, last_words=words
    )


def degraded(slot: Slot, now: float, limits: Limits) -> bool:
    """Whether process after process dies here. It is tried again, with the longest pause between two."""
    lives = slot.alive and now - slot.started_at >= limits.lived_s
    return slot.deaths >= limits.degraded_deaths and not lives


def _last_words(slot: Slot, code: int) -> str:
    """Why the process of the slot died with this exit code, one sentence."""
    if slot.sentence:
        return slot.sentence
    how = f"It was ended by {signal.Signals(-code).name}." if code < 0 else f"It ended with exit code {code}."
    if slot.state in (ChildState.ABORTED, ChildState.KILLED):
        how = "It hung and was ended."
    elif slot.state == ChildState.STARTING:
        how = how.removesuffix(".") + " before it was ready."
    where = next((line.strip() for line in slot.stack if line.startswith("  File ")), "")
    return f"{how} It was at {where}." if where else how


def overdue(slot: Slot, now: float, limits: Limits) -> bool:
    """Whether the supervisor should have ended this process, or seen its end, `kill_s` ago or earlier."""
    match slot.state:
        case ChildState.WAITING:
            return False
        case ChildState.STARTING:
            due_at = slot.since + limits.ready_s
        case ChildState.READY:
            due_at = slot.beat_at + limits.beat_s
        case ChildState.DRAINING:
            due_at = slot.since + limits.drain_s
        case ChildState.ABORTED:
            due_at = slot.since + limits.abort_s
        case ChildState.KILLED:
            due_at = slot.since
    return now >= due_at + limits.kill_s


def not_spawned(slot: Slot, why: str, now: float, limits: Limits) -> Slot:
    """The slot after a fork that failed for lack of memory or process ids; it counts as a death."""
    deaths, words = slot.deaths + 1, f"It could not be started: {why}."
    return msgspec.structs.replace(
        slot, deaths=deaths, retry_at=now + backoff_s(deaths, limits), last_words=words
    )


def left_cleanly(slot: Slot, code: int) -> bool:
    """Whether it ended as it should: by itself, or by a DRAIN_SIGNAL that came before it listened for it."""
    return slot.state not in (ChildState.ABORTED, ChildState.KILLED) and code in (0, -DRAIN_SIGNAL)


def later(slot: Slot, gap_s: float) -> Slot:
    """The slot with its times moved by `gap_s`, in which the supervisor itself was held up.

    So that time does not count against the child.
    """
    return msgspec.structs.replace(slot, since=slot.since + gap_s, beat_at=slot.beat_at + gap_s)
