"""Rule: what of usage that the books have lost is booked again, from the recorded events.

PostgreSQL went back further than the usage that Redis still had, so the usage in between is gone from both.
The events of its messages are in ClickHouse. The audit knows by how much the books of each organisation are
behind all recorded events (law 6); the events recorded in the time that was lost bound how much of that may
be charged. So nothing is charged that was not sent in that time, and nothing that the books have already.

The close of such a shard brought `held` to what its messages hold: it gave back units of messages that were
sent in the lost time. That release is undone here (`released` below 0).
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Literal

import msgspec

from engine.credit.laws import NO_UNITS, Units


class OpenLoss(msgspec.Struct, frozen=True):
    """What a shard has lost, and nothing was done about yet: a row of `losses`."""

    id: int
    at: datetime
    shard: int
    who: Literal["redis", "postgres", "both"]
    # It lies after and before these times of Redis, milliseconds since 1970.
    from_ms: int
    until_ms: int
    # Whether the books had charged or held anything there before.
    had_usage: bool

    @property
    def of_books(self) -> bool:
        """Whether it is usage that PostgreSQL lost, to be rebuilt."""
        return self.who != "redis"


class Recorded(msgspec.Struct, frozen=True):
    """What the events of a time say of an organisation; each message counts once."""

    captured: int = 0
    released: int = 0
    # How many messages were charged.
    messages: int = 0


class Lacking(msgspec.Struct, frozen=True):
    """By how much the books of an organisation are behind the recorded events, units."""

    organisation_id: int
    units: Units
    # Its units that are available; None: it has no account.
    available: int | None


def units_to_book(lacking: Units, recorded: Recorded, *, exactly: bool) -> Units:
    """What is booked of `lacking`, given what was `recorded` in the lost time.

    `exactly`: events and books could be compared up to the loss, so `lacking` is what they lost. Otherwise
    Redis lost data too, and some events are there twice; then what was recorded is the measure.
    """
    captured = max(0, min(lacking.captured, recorded.captured))
    released = min(lacking.released, recorded.released)
    if not exactly:
        released = max(0, released)
    elif is_otherwise_wrong(lacking):
        return NO_UNITS
    # No more releases are undone than messages are charged.
    released = max(released, -captured)
    return Units(captured + released, captured, released)


def is_otherwise_wrong(lacking: Units) -> bool:
    """Whether more is wrong with books or events than that a store went back: the books are ahead in part."""
    return lacking.held < lacking.captured + lacking.released or min(lacking.held, lacking.captured) < 0


def lost_by_redis(lacking: Units, recorded: Recorded) -> bool:
    """Whether the books lack more than PostgreSQL lost, given what was `recorded` in the time that it lost.

    Then Redis was restored too, while no ledger ran that would have noticed it: events are there of messages
    that are gone from the queues, or were sent later than Redis remembers.
    """
    return (
        lacking.held > lacking.captured + lacking.released
        or lacking.captured > recorded.captured
        or lacking.released > recorded.released
    )


def split(units: Units, available: int | None) -> tuple[Units, Units]:
    """(What can be booked with `available` units, what is set aside as unbooked); None: no account."""
    if available is None:
        return NO_UNITS, units
    captured = min(units.captured, available)
    released = units.released if units.released > 0 else -min(-units.released, captured)
    booked = Units(captured + released, captured, released)
    return booked, Units(*(whole - part for whole, part in zip(units, booked, strict=True)))


def span_of(from_ms: int, until_ms: int) -> str:
    """A lost time in words, as the end of a sentence; `from_ms` 0: since the beginning."""
    since, until = (
        f"{datetime.fromtimestamp(ms / 1000, UTC):%Y-%m-%d %H:%M:%S}" for ms in (from_ms, until_ms)
    )
    return f"from {since} to {until} UTC" if from_ms else f"up to {until} UTC"
