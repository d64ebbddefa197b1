"""Keeps room for new connections: when there are too many, one that is idle is closed for each that comes.

Without it clients that open connections and leave them would use up the descriptors of the process, and
nobody else could connect. Which one is closed depends on what it has sent:

1. one that has never sent a whole request (`silent`), as long as these have more than a quarter of the bound;
2. one whose last request came without a good key (`unknown`);
3. one whose last request came with a good key (`known`);
4. one that is silent, when there is no other.

Among those of one kind it is the one that has been idle longest. So whoever opens connections and says
nothing, or asks for what needs no key, closes nobody who sends. The quarter is for newcomers: where all
others send, each of them still has the time in which as many more connect to send its first request.

A connection with a request is never closed for it; when all of them have one, there are more connections
than the bound for a while. Each kind is kept in order of its last answers, so nothing is searched. One that
turns out to have a request is taken out, and comes back with its answer: that is paid for once a request.
"""

from __future__ import annotations

import resource
from collections import OrderedDict
from typing import Protocol

import structlog

# Descriptors that a process needs for other things: its links to the stores, its log, its metrics.
_RESERVED = 200
# The share of the bound that silent connections may keep.
_SILENT_SHARE = 4
# Of those that are closed each so many have a line: under a flood a line for each would cost the most.
_LINE_EVERY = 50

_log = structlog.get_logger(__name__)


class Holder(Protocol):
    """What serves a connection at the moment."""

    def end_if_idle(self) -> bool:
        """Close it when it has no request; whether it had none."""


class Seat:
    """One connection in the room, whatever serves it."""

    __slots__ = ("_among", "_is_taken", "_room", "holder")

    def __init__(self, room: Room, holder: Holder) -> None:
        self._room = room
        # Whoever takes the connection over puts itself here.
        self.holder = holder
        self._is_taken = True
        # The kind that it is kept among; None: it was found to have a request, or has left.
        self._among: OrderedDict[Seat, None] | None = room.silent
        room.silent[self] = None

    def answered(self, *, with_key: bool) -> None:
        """A request has its answer; `with_key`: it came with a good key. The connection idles from now on."""
        among = self._room.known if with_key else self._room.unknown
        if self._among is among:
            among.move_to_end(self)
        elif self._is_taken:
            self.take_out()
            self._among = among
            among[self] = None

    def take_out(self) -> None:
        """Keep it among none, until it is `answered`."""
        if self._among is not None:
            del self._among[self]
            self._among = None

    def leave(self) -> None:
        """The connection is closed, or about to be. A second call changes nothing."""
        if self._is_taken:
            self._is_taken = False
            self.take_out()
            self._room.count -= 1


class Room:
    """For the connections of one process. Methods of its seats keep what is public here."""

    def __init__(self, connections_max: int) -> None:
        self._most = connections_max
        # How many connections there are, idle or not.
        self.count = 0
        # Those that can be closed, of each kind, each in the order of their last answers or their coming.
        self.silent: OrderedDict[Seat, None] = OrderedDict()
        self.unknown: OrderedDict[Seat, None] = OrderedDict()
        self.known: OrderedDict[Seat, None] = OrderedDict()
        # How many were closed for others, since the start.
        self._closed = 0

    def enter(self, holder: Holder) -> Seat:
        """A connection has come; others may have to be closed for it."""
        self.count += 1
        seat = Seat(self, holder)
        while self.count > self._most and self._close_one(seat):
            pass
        return seat

    def _close_one(self, newcomer: Seat) -> bool:
        """Close one; False: there is none that could be closed, but for the one that comes."""
        while (seat := self._next()) is not None and seat is not newcomer:
            seat.take_out()
            if seat.holder.end_if_idle():
                seat.leave()
                self._tell()
                return True
        return False

    def _next(self) -> Seat | None:
        """The one to close first."""
        order = (self.unknown, self.known, self.silent)
        if len(self.silent) > self._most // _SILENT_SHARE:
            order = (self.silent, self.unknown, self.known)
        return next((next(iter(kind)) for kind in order if kind), None)

    def _tell(self) -> None:
        self._closed += 1
        if self._closed % _LINE_EVERY == 1:
            _log.warning("idle connections closed to make room", connections=self.count, closed=self._closed)


def bound(connections_max: int) -> int:
    """`connections_max`, or fewer when this process may not have so many descriptors."""
    descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if descriptors == resource.RLIM_INFINITY:
        return connections_max
    return min(connections_max, max(16, descriptors - _RESERVED))
