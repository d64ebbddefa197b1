"""Records of the routes to providers."""

from __future__ import annotations

from typing import Literal

import msgspec

from engine.records import Queue


class Route(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which providers carry the messages that match.

    Of the routes that match a message, the one with the longest prefix counts. Of several with that
    prefix, one that names the sender goes first, then one that names the queue.
    """

    # How the destination begins, with the leading "+"; "" matches all.
    prefix: str = ""
    # "" matches every sender, and every queue.
    sender: str = ""
    queue: Queue | Literal[""] = ""
    # In order of preference, unless there are weights.
    providers: tuple[str, ...] = ()
    # Shares of the traffic, one for each provider; (): all to the first that can.
    weights: tuple[int, ...] = ()
    # Whether another provider sends the message again when a receipt says that it was not delivered.
    reroute: bool = False


class RoutingPlan(msgspec.Struct, frozen=True, kw_only=True):
    """The routes and what is known of the providers, at one time."""

    # Goes up with each change.
    version: int
    # () when nobody has set any: then every provider carries everything, in the order of the configuration.
    routes: tuple[Route, ...] = ()
    # Names of the providers through which nothing is sent for now.
    paused: tuple[str, ...] = ()
    # Queues of which nothing is sent for now.
    paused_queues: tuple[Queue, ...] = ()
    # Segments per second by provider, where they differ from the configuration.
    throughput: dict[str, float] = {}
