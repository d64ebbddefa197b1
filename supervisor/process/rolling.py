"""How the processes get another configuration while the engine works. Rules only.

Each process has the generation of the configuration that it was started with. When
another generation is wanted, the workers, notifiers, ingest and admin are replaced role by role. The
ledger and the archiver go on, since they use no setting that may change. As in `reconcile` there is no
plan that could be lost, only what is wanted and what is observed:

1. One process more than wanted is started, in the slot behind the last.
2. As long as all of them are ready, the first that is of another generation is drained,
   and its slot gets a process of the wanted one. There are never fewer ready than wanted.
3. When none of another generation is left and all are ready, the extra one is drained.

A process that drains loses nothing: ingest and admin answer the requests they have begun and the others
accept from the same socket; a worker and a notifier settle what is in flight and hand back the rest.

A process that has outgrown its memory is replaced in the same way, whatever its role.

The extra process proves the configuration: when it cannot boot, or dies again and again
before it is ready, the generation before is wanted again, and each process that was
replaced by then is replaced once more. A process that dies for another reason meanwhile is
started with the configuration that is wanted now, as always.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from engine.config import DRAIN_ORDER, Role
from engine.supervision import CANNOT_BOOT
from engine.written_numbers import plural
from supervisor.process.child_state import ChildState, Key, Limits, Slot

# In this order: ingest accepts messages for a new provider, so it comes after the workers, which send them.
ROLLED: tuple[Role, ...] = ("express", "normal", "notifier", "ingest", "admin")


class Rolling(msgspec.Struct, kw_only=True):
    """Which configuration is wanted. Only the functions of this module write it."""

    # The configuration of every process that is started from now on.
    generation: int = 0
    # The generation to go back to when the wanted one cannot boot; None: there is none.
    fallback: int | None = None
    # Some process may still be of another generation.
    under_way: bool = False


class Step(msgspec.Struct, frozen=True):
    """The role whose processes are being replaced; it gets one more process than wanted."""

    role: Role
    # The slot whose process drains next; None: another process must become ready, or end, first.
    leaving: Key | None


def begin(rolling: Rolling, generation: int) -> None:
    """Want `generation` from now on. May be called while another replacement is under way."""
    if rolling.fallback is None:
        rolling.fallback = rolling.generation
    rolling.generation, rolling.under_way = generation, True


def go_back(rolling: Rolling) -> None:
    """Want the generation before again, because the wanted one cannot boot."""
    assert rolling.fallback is not None
    rolling.generation, rolling.fallback = rolling.fallback, None


def settle(rolling: Rolling) -> None:
    """Note that every process is of the wanted generation and ready."""
    rolling.fallback, rolling.under_way = None, False


def step(slots: Iterable[Slot], wanted: Mapping[Role, int], rolling: Rolling) -> Step | None:
    """The next step of the replacement; None: no role needs an extra process."""
    present = {slot.key: slot for slot in slots}
    for role in (*ROLLED, *(other for other in DRAIN_ORDER if other not in ROLLED)):
        count = wanted.get(role, 0)
        outgrown = any(slot.outgrown for slot in present.values() if slot.role == role)
        if not count or not (rolling.under_way or outgrown):
            continue
        mine = (present.get((role, index)) for index in range(1, count + 1))
        old = [s.key for s in mine if s is not None and s.alive and _to_be_replaced(s, rolling)]
        extra = present.get((role, count + 1))
        if not old and (extra is None or not extra.alive or _all_ready(present, role, count)):
            continue
        if not old or extra is None or not _all_ready(present, role, count + 1):
            return Step(role, None)
        # The extra process may be of another generation too; then it proves nothing, and drains first.
        return Step(role, old[0] if extra.generation == rolling.generation else extra.key)
    return None


def settled(slots: Iterable[Slot], wanted: Mapping[Role, int], rolling: Rolling) -> bool:
    """Whether a replacement is under way, and every process is of the wanted generation and ready."""
    present = {slot.key: slot for slot in slots if slot.role in ROLLED}
    if not rolling.under_way or any(s.generation != rolling.generation for s in present.values()):
        return False
    counts = {role: wanted.get(role, 0) for role in ROLLED}
    return len(present) == sum(counts.values()) and all(_all_ready(present, r, n) for r, n in counts.items())


def cannot_boot(slots: Iterable[Slot], rolling: Rolling, limits: Limits) -> str:
    """One sentence that says why to go back to the generation before; "" when there is no reason."""
    if rolling.fallback is None:
        return ""
    for slot in slots:
        new = slot.role in ROLLED and slot.generation == rolling.generation
        if not new or slot.was_ready or slot.state != ChildState.WAITING:
            continue
        if slot.code == CANNOT_BOOT:
            return slot.sentence or f"{slot.title} cannot start (exit code {slot.code})."
        if slot.started_at and slot.since - slot.started_at >= limits.ready_s:
            return f"{slot.title} was not ready after {limits.ready_s:g} s."
        if slot.deaths >= limits.boot_deaths_max:
            why = slot.sentence or f"The last time with exit code {slot.code}."
            times = f"{slot.deaths} {plural('time', slot.deaths)}"
            return f"{slot.title} ended {times} before it was ready. {why}"
    return ""


def _to_be_replaced(slot: Slot, rolling: Rolling) -> bool:
    other = rolling.under_way and slot.role in ROLLED and slot.generation != rolling.generation
    # One that starts there is its successor.
    return other or (slot.outgrown and slot.state != ChildState.STARTING)


def _all_ready(present: Mapping[Key, Slot], role: Role, count: int) -> bool:
    found = (present.get((role, index)) for index in range(1, count + 1))
    return all(slot is not None and slot.state == ChildState.READY for slot in found)
