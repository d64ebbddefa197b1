"""How many workers of each queue are wanted, and how many sends each may have in flight. Rules only.

The configuration says so first, then autoscaling, as far as the configuration lets it. What an operator has
set by hand counts in place of both. A worker is asked for
another concurrency as long as it works with one that is not wanted: a line that was lost is written again
with the next pass.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from engine.capacity.autoscale_settings import AutoscaleSettings
from engine.config import Queues, Role
from engine.nodes.records import NodeWish, QueueScaled
from engine.nodes.standing import KEPT
from engine.records import QUEUES, Queue
from supervisor.process.child_state import ChildState, Key, Slot


class Ask(msgspec.Struct, frozen=True):
    """Ask a worker to have so many sends in flight at most."""

    key: Key
    concurrency: int


def wanted_of(
    configured: Mapping[Role, int], wish: NodeWish, scaled: Mapping[Queue, QueueScaled] | None = None
) -> dict[Role, int]:
    """How many processes of each role are wanted, by the configuration, by autoscaling and by what operators
    wish of the node.

    A drained node keeps its API, which refuses messages and answers everything else, and the process that
    speaks for it.
    """
    wanted: dict[Role, int] = {**configured}
    for queue, last in (scaled or {}).items():
        wanted[queue] = last.processes
    for queue, count in wish.processes.items():
        wanted[queue] = count
    return {role: 0 if wish.drained and role not in KEPT else count for role, count in wanted.items()}


def concurrency_of(
    configured: Mapping[Queue, int], wish: NodeWish, scaled: Mapping[Queue, QueueScaled]
) -> dict[Queue, int]:
    """How many sends in flight are wanted of a worker of each queue; by the same."""
    return {**configured, **{queue: last.concurrency for queue, last in scaled.items()}, **wish.concurrency}


def scaled_of(text: str, autoscale: Mapping[Queue, AutoscaleSettings]) -> dict[Queue, QueueScaled] | None:
    """What autoscaling makes of the node, from JSON, of those queues that the configuration lets it scale.

    None: it cannot be read.
    """
    try:
        found = msgspec.json.decode(text, type=dict[Queue, QueueScaled])
    except msgspec.MsgspecError:
        return None
    return {queue: last for queue, last in found.items() if queue in autoscale}


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
