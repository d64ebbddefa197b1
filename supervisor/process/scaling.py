"""How many workers of each queue are wanted, and how many sends each may have in flight. Rules only.

The configuration says so first. What an operator has set by hand counts in its place. A worker is asked for
another concurrency as long as it works with one that is not wanted: a line that was lost is written again
with the next pass.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from engine.config import Queues, Role
from engine.nodes.records import NodeWish
from engine.nodes.standing import KEPT
from engine.records import QUEUES, Queue
from supervisor.process.child_state import ChildState, Key, Slot


class Ask(msgspec.Struct, frozen=True):
    """Ask a worker to have so many sends in flight at most."""

    key: Key
    concurrency: int


def wanted_of(configured: Mapping[Role, int], wish: NodeWish) -> dict[Role, int]:
    """How many processes of each role are wanted, by the configuration and what operators wish of the node.

    A drained node keeps its API, which refuses messages and answers everything else, and the process that
    speaks for it.
    """
    wanted: dict[Role, int] = {**configured}
    for queue, count in wish.processes.items():
        wanted[queue] = count
    return {role: 0 if wish.drained and role not in KEPT else count for role, count in wanted.items()}


def configured_concurrency(queues: Queues) -> dict[Queue, int]:
    """By queue, the concurrency of the configuration."""
    return {queue: queues.of(queue).concurrency for queue in QUEUES}


def asks(slots: Iterable[Slot], concurrency: Mapping[Queue, int]) -> list[Ask]:
    """The workers that are to be asked for another concurrency."""
    return [
        Ask(slot.key, concurrency[slot.role])
        for slot in slots
        if slot.role in QUEUES
        and slot.state == ChildState.READY
        and slot.concurrency not in (None, concurrency.get(slot.role))
        and slot.role in concurrency
    ]
