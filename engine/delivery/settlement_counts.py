"""What one worker has settled, by what became of the messages, and how long they took to be sent."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from engine.delivery._many import ages_of
from engine.delivery.sent import SentEntries
from engine.histogram import Histogram
from engine.records import Settlement


class SettlementCounts(msgspec.Struct):
    """Messages and attempts of one worker that are settled."""

    # Messages that ended: a provider took them; no provider takes them; their validity was over.
    sent: int = 0
    failed: int = 0
    expired: int = 0
    # Messages that ended because of too many sends of unknown outcome.
    outcome_unknown: int = 0
    # Messages that became dead letters.
    dead: int = 0
    # Attempts that another follows; of these and of ends, those given up early for another provider.
    retried: int = 0
    hedged: int = 0
    # Times that a message went back unsent: no provider had room for it, or its organisation is paused.
    put_off: int = 0

    def add(self, settlements: Iterable[Settlement], sent: Iterable[SentEntries], times: Histogram) -> None:
        """Count what one flush has settled. `times` gets how long each message took that was sent, from its
        acceptance, or from when it was due where that is later, microseconds."""
        for batch in sent:
            self.sent += len(batch.entries)
            times.add_all(ages_of(batch.entries, batch.at_us))
        for settlement in settlements:
            row = settlement.row
            if row is None:
                self.put_off += 1
            elif row.event == "sent":
                self.sent += 1
                times.add(row.at_us - max(row.accepted_at_us, row.due_at_us))
            else:
                counter = _COUNTERS[row.event]
                setattr(self, counter, getattr(self, counter) + 1)
                self.hedged += row.code == "overdue"


_COUNTERS = {
    "failed": "failed",
    "expired": "expired",
    "outcome_unknown": "outcome_unknown",
    "outcome_unknown_released": "outcome_unknown",
    "dead": "dead",
    "retrying": "retried",
}
