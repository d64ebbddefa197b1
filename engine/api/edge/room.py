"""Keeps room for new connections: when there are too many, those that have been idle longest are closed.

Without it clients that open connections and leave them would use up the descriptors of the process, and
nobody else could connect. A connection with a request is never closed for it; when all of them have one,
there are more connections than the bound for a while. Looking for the idle ones costs a pass over all
connections, so a fiftieth of the bound is closed at once.
"""

from __future__ import annotations

import heapq
import resource
from collections.abc import Callable, Iterable
from operator import itemgetter
from typing import Protocol

import structlog

# Descriptors that a process needs for other things: its links to the stores, its log, its metrics.
_RESERVED = 200
_SHARE = 50

_log = structlog.get_logger(__name__)


class Idle(Protocol):
    """A connection, as far as it matters here."""

    def end_if_idle(self) -> None:
        """Close it when it has no request."""


class Room:
    """For the connections of one process."""

    def __init__(self, connections_max: int) -> None:
        self._most = connections_max

    def keep(self, count: int, idle: Callable[[], Iterable[tuple[float, Idle]]]) -> None:
        """Close some of the `idle` ones, each with the time since when, when there are more than the bound.

        `count`: how many connections there are, idle or not.
        """
        if count <= self._most:
            return
        longest = heapq.nsmallest(max(1, self._most // _SHARE), idle(), key=itemgetter(0))
        for _, connection in longest:
            connection.end_if_idle()
        _log.warning("idle connections closed to make room", connections=count, closed=len(longest))


def bound(connections_max: int) -> int:
    """`connections_max`, or fewer when this process may not have so many descriptors."""
    descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if descriptors == resource.RLIM_INFINITY:
        return connections_max
    return min(connections_max, max(16, descriptors - _RESERVED))
