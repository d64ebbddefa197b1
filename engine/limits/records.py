"""The records of the limits of organisations."""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from engine.organisations import Limits
from engine.stream_id import StreamId

# What may be set.
WEIGHT_MIN, WEIGHT_MAX = 0.1, 100.0
# A batch has up to 1,000 messages, and is accepted as a whole.
BACKLOG_MAX_MIN, BACKLOG_MAX_MAX = 1_000, 1_000_000_000
RATE_MAX_MIN, RATE_MAX_MAX = 0.1, 1_000_000.0
# What holds for an organisation of which nothing was set.
WEIGHT_DEFAULT = 1.0


class LimitRow(msgspec.Struct, frozen=True):
    """What was set for one organisation."""

    organisation_id: int
    limits: Limits
    paused: bool

    @property
    def weight(self) -> float:
        """Its share of a queue, beside others that wait."""
        return WEIGHT_DEFAULT if self.limits.weight is None else self.limits.weight


class LimitChanges(msgspec.Struct, frozen=True):
    """What was set since a version."""

    version: int
    rows: list[LimitRow]


class InForce(NamedTuple):
    """The limits that Redis goes by in one shard."""

    # Of the limits, as `LimitKeeper` names it; "" when it has none.
    version: str
    # The organisations that are paused, and the last id that the queue's ready stream had given by then: no
    # message that came into it later is one of theirs, but for those that were resumed since.
    paused: dict[int, StreamId]


class ShardLimits(NamedTuple):
    """Limits that are to be in force in one shard."""

    shard: int
    # The version that stands there.
    known: str
    version: str
    # Whether organisations without a row have no limits.
    whole: bool
    rows: list[LimitRow]


class Backlog(NamedTuple):
    """What waits of one organisation in both queues."""

    organisation_id: int
    messages: int
    segments: int
    # Segments a second that leave it (`engine.limits.pace`); None: nobody knows.
    rate: float | None
    paused: bool


class RateLevel(NamedTuple):
    """How many messages of an organisation may be accepted at once now; below 0: none for a while."""

    organisation_id: int
    messages: float
    # Messages a second, the rate at which they were drawn.
    rate: float
