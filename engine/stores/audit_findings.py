"""What the accounts of one shard show an audit beside the laws: for a checkpoint, and what is missing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from engine.credit.laws import NO_UNITS, Units, gap_of
from engine.credit.rebuilding import Lacking, OpenLoss
from engine.errors import EngineError
from engine.stores.postgres.audit_books import Standing, sums_of
from engine.stores.redis.audit_cut import add_units

# Why the events of a shard are not summed, and what can be done.
EVENTS_GONE = "events from before the place it begins at are not kept any more (`[activity] events_days`)."
GONE_DO = "Run it without --full, and each day: then only what came after the last audit is summed."


class ShardLacks(msgspec.Struct, frozen=True):
    """By how much the books of a shard are behind the recorded events, where PostgreSQL lost usage."""

    # Those of its losses that are open.
    losses: tuple[OpenLoss, ...]
    lacking: list[Lacking]
    # Whether events and books can be compared; not when Redis lost data as well.
    comparable: bool
    # All events before this time of Redis are in ClickHouse, milliseconds since 1970; None: all there are.
    archived_ms: int | None


def sentence_of(error: EngineError) -> str:
    """What it says, with a full stop."""
    return str(error).rstrip(".") + "."


class ShardFindings:
    """Gathers account by account."""

    def __init__(
        self,
        archived: Mapping[int, Units] | None,
        events: Mapping[int, Units] | None,
        ahead: Mapping[int, Units],
        *,
        comparable: bool,
        full: bool,
    ) -> None:
        """By organisation: `archived`, units of events in ClickHouse since the last checkpoint; `events`, the
        same with those that are not archived yet; None when they cannot be known. `ahead`, units of usage
        that is not in the accounts. `comparable`: Redis lost nothing since the checkpoint. `full`: there
        is no checkpoint.
        """
        self._archived = archived
        self._events = events
        self._ahead = ahead
        self._full = full
        self.comparable = comparable
        # Rows of `audit_sums` that have changed.
        self.sums: list[tuple[int, ...]] = []
        # Units that were sent and not charged for good; by organisation, those that a loss has added.
        self.uncharged_units = 0
        self.newly_uncharged: dict[int, int] = {}
        # Organisations whose books are behind the events.
        self.lacking: list[Lacking] = []

    def add(self, standing: Standing) -> None:
        """Look at one account of the shard."""
        a = standing.account
        if self._events is None or self._archived is None:
            self.uncharged_units += max(0, -a.gap.captured)
            return
        o = a.organisation_id
        now = gap_of(a, self._events.get(o, NO_UNITS), self._ahead.get(o, NO_UNITS))
        gap = a.gap if self.comparable else now
        self.uncharged_units += max(0, -gap.captured)
        if gap.captured < min(0, a.gap.captured):
            self.newly_uncharged[o] = min(0, a.gap.captured) - gap.captured
        if now != a.gap:
            lacks = Units(*(known - one for known, one in zip(a.gap, now, strict=True)))
            self.lacking.append(Lacking(o, lacks, a.available))
        more = self._archived.get(o, NO_UNITS)
        if self._full or standing.rows or any(more) or gap != a.gap:
            self.sums.append(sums_of(standing, more, gap))

    def strangers(self, organisations: Iterable[int]) -> list[Lacking]:
        """What is not even unbooked of organisations that have events and no account."""
        found = []
        for o in sorted(organisations):
            of, known = (self._events or {}).get(o, NO_UNITS), self._ahead.get(o, NO_UNITS)
            lacks = Units(*(one - other for one, other in zip(of, known, strict=True)))
            if any(lacks):
                found.append(Lacking(o, lacks, None))
        return found


def joined(one: Mapping[int, Units], other: Mapping[int, Units]) -> dict[int, Units]:
    """The sums of both, by organisation."""
    sums = dict(one)
    for organisation_id, units in other.items():
        add_units(sums, organisation_id, units)
    return sums


def not_comparable(to_rebuild: bool, full: bool) -> tuple[str, str]:
    """Why the events of a shard in which Redis lost data are not compared with its books, and what to do.

    `to_rebuild`: whether PostgreSQL lost usage there as well. `full`: of a full audit.
    """
    if to_rebuild:
        return (
            "Redis lost data there, and so did PostgreSQL: usage of it waits to be rebuilt.",
            "Run `smsengine books repair --from-activity`, then the audit again.",
        )
    if full:
        return (
            "Redis lost data there once, and what was recorded before does not match the books.",
            "An audit without --full compares what came after the loss.",
        )
    return (
        "Redis lost data there, and what was recorded before does not match the books.",
        "Run the audit again: from ten seconds after the loss on an audit takes up the difference,"
        " and later ones compare what comes after it.",
    )
