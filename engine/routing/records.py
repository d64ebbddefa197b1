"""Records of the routes to providers."""

from __future__ import annotations

from typing import Literal

import msgspec

from engine.records import Queue


class Route(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which providers carry the messages that match. The longest prefix wins; of those
    with the same prefix, one that names the sender; then one that names the queue."""

    # Of the destination, with the leading "+"; "" matches all.
    prefix: str = ""
    # "" matches every sender, and every queue.
    sender: str = ""
    queue: Queue | Literal[""] = ""
    # In order of preference, unless there are weights.
    providers: tuple[str, ...] = ()
    # Shares of the traffic, one for each provider; (): all to the first that can.
    weights: tuple[int, ...] = ()
    # Send again, by another provider, what a receipt says was not delivered.
    reroute: bool = False


class RoutingPlan(msgspec.Struct, frozen=True, kw_only=True):
    """How messages find their provider, at one time."""

    # Goes up with each change.
    version: int
    # () when nobody has set any: every provider in the order of the configuration.
    routes: tuple[Route, ...] = ()
    # Names of the providers that nothing is to be sent through for now.
    paused: tuple[str, ...] = ()
    # Segments per second by provider, where they differ from the configuration.
    throughput: dict[str, float] = {}
