"""Service: operators see the nodes, drain and resume them, and set how many workers they have.

What is wished stands in PostgreSQL. The node itself looks there once a second and does it
(`engine.boot.node`), so a wish for a node that is away is carried out when it comes back.

    killed, or an answer lost   the wish stands or it does not; repeated, it changes nothing more
    two nodes at once           one wish is decided after the other, so never do both of the last two drain
    Redis away                  nobody knows which nodes there are: Unavailable, unless it is forced
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import msgspec

from engine.errors import Refusal, Unavailable
from engine.nodes.ports import Allowed, NodeNotes, NodeWishes
from engine.nodes.records import (
    CONCURRENCY_MAX,
    PROCESSES_MAX,
    NodeNote,
    Nodes,
    NodeWish,
    QueueScale,
    SeenNode,
)
from engine.nodes.standing import check_others_can, seen
from engine.records import IdempotentCall, Queue


class NodeControl:
    """What the calls about nodes do."""

    def __init__(self, node: str, notes: NodeNotes, wishes: NodeWishes, now_us: Callable[[], int]) -> None:
        """`node`: the name of this one. `now_us`: the stores' clock."""
        self.node = node
        self._notes = notes
        self._wishes = wishes
        self._now_us = now_us

    async def nodes(self) -> Nodes:
        """All nodes, by name. Without PostgreSQL it is not known what is wished. Raises Unavailable."""
        notes = await self._notes.notes()
        try:
            wishes = await self._wishes.all()
        except Unavailable as e:
            return Nodes(node=self.node, nodes=self._seen(notes), missing={"drain_wished": e.detail})
        return Nodes(node=self.node, nodes=self._seen(notes, wishes))

    async def noted(self) -> list[SeenNode]:
        """All nodes, by name, by what they have noted alone. Raises Unavailable."""
        return self._seen(await self._notes.notes())

    def _seen(
        self, notes: Mapping[str, NodeNote], wishes: Mapping[str, NodeWish] | None = None
    ) -> list[SeenNode]:
        now_us = self._now_us()
        return [
            seen(note, None if wishes is None else wishes.get(name, NodeWish()), now_us)
            for name, note in sorted(notes.items())
        ]

    async def drain(
        self, name: str, reason: str, *, force: bool, once: IdempotentCall | None = None
    ) -> NodeWish:
        """Let the node take nothing new. Raises Refusal 404, 409, 422, Unavailable.

        409 when no other node does what this one does, unless `force`.
        """
        notes = await self._known(name, force)
        note = notes.get(name)
        # One that is away does nothing that others would have to do.
        works = note is not None and seen(note, None, self._now_us()).seen not in ("gone", "stopped")
        roles = [role for role, count in note.roles.items() if count] if note and works else []
        what = f"The node {name} cannot be drained"
        return await self._wishes.drain(
            name, reason, self._unless_last(name, roles, notes, what, force), once
        )

    async def resume(self, name: str, once: IdempotentCall | None = None) -> NodeWish:
        """Let the node work. Raises Refusal 404, 409, Unavailable."""
        if name not in await self._wishes.all():
            await self._known(name, force=False)
        return await self._wishes.resume(name, once)

    async def scale(
        self,
        name: str,
        queue: Queue,
        wanted: QueueScale,
        *,
        force: bool,
        once: IdempotentCall | None = None,
    ) -> NodeWish:
        """Let the node have the workers of the queue that are `wanted`.

        Raises Refusal 404, 409, 422, Unavailable. 409 when 0 would leave the queue without any, and when the
        node has no providers.
        """
        _check("processes", wanted.processes, 0, PROCESSES_MAX)
        if wanted.concurrency is not msgspec.UNSET:
            _check("concurrency", wanted.concurrency, 1, CONCURRENCY_MAX)
        notes = await self._known(name, force)
        note = notes.get(name)
        if wanted.processes and note is not None and note.providers == 0:
            why = (
                f"has no [[providers]] in its configuration, so a worker of {queue} could send nothing there"
            )
            raise Refusal("no_providers", 409, f"The node {name} {why}; add one to it and reload it first.")
        after = note.configured.get(queue, 0) if wanted.processes is None and note else wanted.processes
        roles = [] if after or note is None or not note.roles.get(queue) else [queue]
        what = f"The node {name} cannot be left without workers of {queue}"
        allowed_by = self._unless_last(name, roles, notes, what, force)
        return await self._wishes.scale(name, queue, wanted, allowed_by, once)

    async def _known(self, name: str, force: bool) -> Mapping[str, NodeNote]:
        """The notes of all nodes. Raises Refusal 404 when this one is not among them.

        Without Redis nobody knows; with `force` that is no hindrance.
        """
        try:
            notes = await self._notes.notes()
        except Unavailable:
            if not force:
                raise
            return {}
        if name not in notes:
            names = ", ".join(sorted(notes)) or "none"
            raise Refusal("not_found", 404, f"There is no node of this name; known are: {names}.")
        return notes

    def _unless_last(
        self, name: str, roles: Sequence[str], notes: Mapping[str, NodeNote], what: str, force: bool
    ) -> Allowed:
        def allowed(wishes: Mapping[str, NodeWish]) -> None:
            if not force:
                check_others_can(name, roles, notes.values(), wishes, self._now_us(), what)

        return allowed


def _check(field: str, number: int | None, low: int, high: int) -> None:
    """Raises Refusal 422 for a number out of its bounds."""
    if number is not None and not low <= number <= high:
        allowed = f"a whole number from {low} to {high}, or null: as configured"
        raise Refusal("invalid_field", 422, f"`{field}` must be {allowed}.", field)
