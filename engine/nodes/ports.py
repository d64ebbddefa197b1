"""What the nodes ask of Redis and of PostgreSQL. Every call raises Unavailable."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

from engine.nodes.flow import NodeFlow
from engine.nodes.records import NodeNote, NodeWish, QueueScale
from engine.records import IdempotentCall, Queue

# Is called with the wishes of all nodes before one changes, and raises Refusal when it must not.
Allowed = Callable[[Mapping[str, NodeWish]], None]


class NodeNotes(Protocol):
    """What nodes have noted of themselves."""

    async def notes(self) -> dict[str, NodeNote]:
        """By name, all that are not forgotten."""

    async def flows(self) -> dict[str, NodeFlow]:
        """By name, how fast things move on each."""


class NodeWishes(Protocol):
    """What operators wish of nodes."""

    async def all(self) -> dict[str, NodeWish]:
        """By name, of those nodes of which anything was ever wished."""

    async def drain(
        self, node: str, reason: str, allowed: Allowed, once: IdempotentCall | None = None
    ) -> NodeWish:
        """Let the node take nothing new, or if it does not already, keep since when; the wish then."""

    async def resume(self, node: str, once: IdempotentCall | None = None) -> NodeWish:
        """Let the node work; the wish then."""

    async def scale(
        self,
        node: str,
        queue: Queue,
        wanted: QueueScale,
        allowed: Allowed,
        once: IdempotentCall | None = None,
    ) -> NodeWish:
        """Let the node have the workers of the queue that are wanted. The wish then."""
