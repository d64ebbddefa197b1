"""What the supervisor does next: (wanted, observed, now) -> actions.

Rules only. The keeper observes (a line on a pipe, a reaped process, the clock), notes
it with the functions of `child_state`, asks `reconcile` and performs the actions it returns.

The theory. `reconcile` compares everything that is wanted with everything that is
observed, every time, and keeps no plan of its own: an action that could not be performed,
or that the keeper was too slow for, is asked for again. Each slot gets at most one action
per pass. Beyond the states of one slot there are these rules:

- A process that dies without having drained leaves a name behind: its units stay
  with it until that name is fenced. Names to fence outlive their slots, and the
  restart does not wait for them, since a new process has a new name. The fence waits for the new
  process to be ready, `fence_after_s` at most.
- Until everything wanted has been ready once (`announced`), a process that says it
  cannot boot ends the supervisor: the operator is watching and must see why. After
  that such a process is started again with back-off, since a store may be away for a while.
- Another configuration replaces processes one after another: see `rolling`.
- Stopping drains role by role in DRAIN_ORDER and starts nothing: what a dead process
  left on the streams stays there until the next start.
"""

from __future__ import annotations

import msgspec

from engine.capacity.autoscale_settings import AutoscaleSettings
from engine.config import DRAIN_ORDER, ROLES, Role
from engine.nodes.records import NodeWish, OwnChange, QueueScaled
from engine.records import Queue
from engine.supervision import CANNOT_BOOT
from engine.written_numbers import plural
from supervisor.process import rolling as rolls
from supervisor.process import scaling
from supervisor.process.child_state import ChildState, Event, Key, Limits, Slot, backoff_s


class Fencing(msgspec.Struct, kw_only=True):
    """Which names of dead processes are still to be fenced. One process at a time does it."""

    # Names of processes that died without draining, oldest first.
    names: tuple[str, ...] = ()
    # The holders that earlier supervisors of this node left behind are still to be fenced.
    leftovers: bool = True
    # Names given to the process that is fencing now; (): all leftovers; None: there is no process.
    running: tuple[str, ...] | None = None
    # The process took too long and has been killed.
    killed: bool = False
    # When the running process, or the supervisor, started.
    since: float
    failures: int = 0
    retry_at: float = 0.0
    # Why the last attempt failed.
    sentence: str = ""
    # Another attempt would fail too: a setting must be changed.
    hopeless: bool = False


class Server(msgspec.Struct, kw_only=True):
    """An embedded server that the supervisor restarts when it ends."""

    name: str
    down: bool = False
    # Why it could not be started again; "" when that was not tried yet.
    sentence: str = ""
    up_at: float
    deaths: int = 0
    retry_at: float = 0.0


class Stopping(msgspec.Struct, kw_only=True):
    """That the supervisor is to end, and how."""

    # Kill the processes instead of draining them.
    at_once: bool = False
    # Why it ends; "" when the operator wishes it.
    sentence: str = ""
    # A process ended without having drained.
    unclean: bool = False


class Reloads(msgspec.Struct, kw_only=True):
    """How the reloads of this supervisor ended, for who asked for one."""

    # How many were asked for, and how many of these are over. One may end several.
    begun: int = 0
    ended: int = 0
    # Why the last one changed nothing; "" when the configuration is in force.
    sentence: str = ""


class Observed(msgspec.Struct, kw_only=True):
    """Everything the supervisor knows. The keeper writes it; the rules only read it."""

    # How many processes of each role, how many sends in flight in a worker of each queue, and what that
    # follows from: see `scaling`.
    wanted: dict[Role, int] = {}
    concurrency: dict[Queue, int] = {}
    configured_concurrency: dict[Queue, int] = {}
    # What autoscaling may do, and its last changes.
    autoscale: dict[Queue, AutoscaleSettings] = {}
    scaled: dict[Queue, QueueScaled] = {}
    wish: NodeWish = NodeWish()
    configured: dict[Role, int] = {}
    # How many providers the configuration has.
    providers: int = 0
    slots: dict[Key, Slot] = {}
    fencing: Fencing
    servers: dict[str, Server] = {}
    rolling: rolls.Rolling = msgspec.field(default_factory=rolls.Rolling)
    reloads: Reloads = msgspec.field(default_factory=Reloads)
    changes: list[OwnChange] = []
    # Why the data directory is short of room; "" when it is not.
    disk: str = ""
    # Whether that does not answer: a restart of an embedded server would wait for it.
    disk_hangs: bool = False
    stopping: Stopping | None = None
    # Everything wanted has been ready at the same time, at least once.
    announced: bool = False
    started_at: float


class Spawn(msgspec.Struct, frozen=True):
    """Start a process of this role in the slot with this index, from 1."""

    role: Role
    index: int


class Send(msgspec.Struct, frozen=True):
    """Send the process the signal that drains, aborts or kills it; the reason is for the log."""

    key: Key
    event: Event
    reason: str


class Forget(msgspec.Struct, frozen=True):
    """Remove the slot: it has no process and needs none."""

    key: Key


class Fence(msgspec.Struct, frozen=True):
    """Start a process that fences these names; (): all leftovers of this node."""

    names: tuple[str, ...]


class KillFence(msgspec.Struct, frozen=True):
    """Kill the fencing process: it takes too long."""


class Restart(msgspec.Struct, frozen=True):
    """Start the embedded server of this name again."""

    server: str


class Announce(msgspec.Struct, frozen=True):
    """Say that everything wanted is ready, for the first time."""


class Settle(msgspec.Struct, frozen=True):
    """End the replacement: all processes have the configuration that is wanted."""


class GoBack(msgspec.Struct, frozen=True):
    """Want the configuration before again: with the one that is wanted now, no process can boot."""

    sentence: str


class GiveUp(msgspec.Struct, frozen=True):
    """Stop everything, and show the operator the sentence that says why."""

    sentence: str


class Finish(msgspec.Struct, frozen=True):
    """End the supervisor with this exit code: nothing is left to do."""

    exit_code: int


Action = (
    scaling.Ask
    | Spawn
    | Send
    | Forget
    | Fence
    | KillFence
    | Restart
    | Announce
    | Settle
    | GoBack
    | GiveUp
    | Finish
)


def reconcile(observed: Observed, now: float, limits: Limits) -> list[Action]:
    """What to do now, in this order. `now` is monotonic, in seconds."""
    stopping = observed.stopping
    if stopping is not None and stopping.at_once:
        return _at_once(observed)
    fences = _fences(observed, now, limits)
    actions: list[Action] = []
    if stopping is not None:
        actions = _drains(observed, now, limits) + _finish(observed, now, limits)
    elif observed.fencing.leftovers:
        # Nothing is running yet; a process that starts now would be fenced with the leftovers.
        actions += _leftovers_verdict(observed, now, limits)
    elif sentence := rolls.cannot_boot(observed.slots.values(), observed.rolling, limits):
        # This is the only action: nothing more is started with that configuration.
        actions.append(GoBack(sentence))
    else:
        actions += _processes(observed, now, limits) + _boot_verdict(observed, limits)
        actions += scaling.asks(observed.slots.values(), observed.concurrency)
        if rolls.settled(observed.slots.values(), observed.wanted, observed.rolling):
            actions.append(Settle())
    if any(isinstance(action, Spawn) for action in actions):
        fences = [action for action in fences if not isinstance(action, Fence)]
    # Restarts come last: performing one takes a while.
    return actions + fences + _servers(observed, now)


def noted_fence_end(fencing: Fencing, code: int, sentence: str, now: float, limits: Limits) -> None:
    """Note that the fencing process ended with this exit code, and the sentence that says why.

    Names that are fenced are forgotten; after a failure all names stay. Killed or frozen half way:
    some names are fenced, and fencing them again is harmless.
    """
    done, fencing.running, fencing.killed = fencing.running, None, False
    fencing.since = now
    if code != 0:
        fencing.failures += 1
        fencing.retry_at = now + backoff_s(fencing.failures, limits)
        fencing.sentence = sentence or f"The process that fences ended with exit code {code}."
        fencing.hopeless = code == CANNOT_BOOT
        return
    fencing.failures, fencing.retry_at, fencing.sentence, fencing.hopeless = 0, 0.0, "", False
    if done:
        fencing.names = tuple(n for n in fencing.names if n not in done)
    else:
        fencing.leftovers = False


def noted_server_down(server: Server, now: float, limits: Limits) -> None:
    """Note that a server has ended, or could not be restarted."""
    lived = not server.down and now - server.up_at >= limits.lived_s
    server.deaths = 1 if lived else server.deaths + 1
    server.down = True
    server.retry_at = now + backoff_s(server.deaths, limits)


def _servers(observed: Observed, now: float) -> list[Action]:
    if observed.disk_hangs:
        return []
    return [Restart(s.name) for s in observed.servers.values() if s.down and now >= s.retry_at]


def _fences(observed: Observed, now: float, limits: Limits) -> list[Action]:
    fencing = observed.fencing
    if fencing.running is not None:
        late = now - fencing.since >= limits.fence_s and not fencing.killed
        return [KillFence()] if late else []
    if now < fencing.retry_at:
        return []
    if fencing.leftovers:
        return [] if observed.stopping else [Fence(())]
    # The process that takes the dead one's place is more urgent, and the machine may have few cores.
    starting = (s for s in observed.slots.values() if s.state == ChildState.STARTING)
    if observed.stopping is None and any(now - s.since < limits.fence_after_s for s in starting):
        return []
    return [Fence(fencing.names)] if fencing.names else []


def _processes(observed: Observed, now: float, limits: Limits) -> list[Action]:
    """Actions for each role in the order of ROLES. Of too many processes the highest indexes drain first."""
    actions: list[Action] = []
    step = rolls.step(observed.slots.values(), observed.wanted, observed.rolling)
    for role in ROLES:
        extra = step is not None and step.role == role
        wanted = observed.wanted.get(role, 0) + extra
        present = {slot.index: slot for slot in observed.slots.values() if slot.role == role}
        for index in range(1, wanted + 1):
            slot = present.get(index)
            if slot is None:
                actions.append(Spawn(role, index))
            elif step is not None and step.leaving == slot.key:
                actions.append(Send(slot.key, Event.DRAIN, "replaced"))
            elif (action := _for_slot(slot, False, now, limits)) is not None:
                actions.append(action)
        for index in sorted((i for i in present if i > wanted), reverse=True):
            if (action := _for_slot(present[index], True, now, limits)) is not None:
                actions.append(action)
    return actions


def _for_slot(slot: Slot, leaving: bool, now: float, limits: Limits) -> Action | None:
    """The action for a slot that is to be kept, or to be given up when `leaving`; None: nothing to do."""
    age = now - slot.since
    match slot.state:
        case ChildState.WAITING:
            if leaving:
                return Forget(slot.key)
            return Spawn(slot.role, slot.index) if now >= slot.retry_at else None
        case ChildState.STARTING | ChildState.READY if leaving:
            return Send(slot.key, Event.DRAIN, "no longer wanted")
        case ChildState.STARTING if age >= limits.ready_s:
            return Send(slot.key, Event.ABORT, f"not ready after {limits.ready_s:g} s")
        case ChildState.READY if now - slot.beat_at >= limits.beat_s:
            return Send(slot.key, Event.ABORT, f"no heartbeat for {limits.beat_s:g} s")
        case ChildState.DRAINING if age >= limits.drain_s:
            return Send(slot.key, Event.KILL, f"not drained after {limits.drain_s:g} s")
        case ChildState.ABORTED if age >= limits.abort_s:
            return Send(slot.key, Event.KILL, f"did not abort within {limits.abort_s:g} s")
    return None


def _boot_verdict(observed: Observed, limits: Limits) -> list[Action]:
    """Announce when the start has succeeded, GiveUp when it has failed; nothing otherwise."""
    if observed.announced:
        return []
    for slot in observed.slots.values():
        if slot.was_ready or slot.state != ChildState.WAITING:
            continue
        if slot.code == CANNOT_BOOT:
            return [GiveUp(slot.sentence or f"{slot.title} cannot start (exit code {slot.code}).")]
        if slot.deaths >= limits.boot_deaths_max:
            why = slot.sentence or f"The last time with exit code {slot.code}."
            times = f"{slot.deaths} {plural('time', slot.deaths)}"
            return [GiveUp(f"{slot.title} ended {times} before it was ready. {why}")]
    ready = sum(slot.state == ChildState.READY for slot in observed.slots.values())
    return [Announce()] if ready == sum(observed.wanted.values()) == len(observed.slots) else []


def _leftovers_verdict(observed: Observed, now: float, limits: Limits) -> list[Action]:
    """Give the start up when leftovers cannot be fenced, or not in time."""
    fencing = observed.fencing
    if fencing.hopeless:
        return [GiveUp(fencing.sentence)]
    if now - observed.started_at >= limits.leftovers_s:
        what = f"What an earlier run left behind could not be fenced within {limits.leftovers_s:g} s."
        return [GiveUp(f"{what} {fencing.sentence}".strip())]
    return []


def _drains(observed: Observed, now: float, limits: Limits) -> list[Action]:
    """Drain the first role of DRAIN_ORDER that has processes; watch the processes of the others."""
    actions: list[Action] = []
    leaving: Role | None = None
    for role in DRAIN_ORDER:
        living = [s for s in observed.slots.values() if s.role == role and s.alive]
        if living and leaving is None:
            leaving = role
        for slot in living:
            if (action := _for_slot(slot, role == leaving, now, limits)) is not None:
                actions.append(action)
    return actions


def _at_once(observed: Observed) -> list[Action]:
    alive = [s for s in observed.slots.values() if s.alive]
    kills: list[Action] = [
        Send(s.key, Event.KILL, "second signal") for s in alive if s.state != ChildState.KILLED
    ]
    return kills if alive else [Finish(1)]


def _finish(observed: Observed, now: float, limits: Limits) -> list[Action]:
    stopping, fencing = observed.stopping, observed.fencing
    assert stopping is not None
    if any(slot.alive for slot in observed.slots.values()):
        return []
    # The next start fences the leftovers anyway; a store that is away must not delay the end.
    last_death = max((slot.since for slot in observed.slots.values()), default=now)
    if fencing.names and now - last_death < limits.fence_s:
        return []
    return [Finish(1 if stopping.unclean or stopping.sentence else 0)]
