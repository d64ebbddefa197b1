"""What became of receipts, and what they have made of messages: how many arrived, and how long that took."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import msgspec

from engine.histogram import DELIVERED_S, Histogram
from engine.receipts.match import Reason
from engine.records import QUEUES, ActivityRow


class MatchCounts(msgspec.Struct):
    """What has become of receipts in this process's rounds."""

    # Receipts whose message was found; rows of activity that said something new about it; messages
    # that are sent again because of one.
    matched: int = 0
    recorded: int = 0
    sent_again: int = 0
    # Times that a receipt was put off because its message was not found yet.
    set_aside: int = 0
    # Receipts that went to the matcher which decides about their attempt.
    handed_on: int = 0
    # Receipts given up, by reason: no message has their id; it was for another recipient; several have it.
    unknown: int = 0
    recipient: int = 0
    ambiguous: int = 0

    def give_up(self, reason: Reason) -> None:
        """Count one receipt that is given up."""
        match reason:
            case "unknown":
                self.unknown += 1
            case "recipient":
                self.recipient += 1
            case "ambiguous":
                self.ambiguous += 1


class Ends:
    """Counts of one process, by queue."""

    def __init__(self) -> None:
        self.delivered: Counter[tuple[str, ...]] = Counter({(queue,): 0 for queue in QUEUES})
        # Without those whose message is sent again.
        self.undelivered: Counter[tuple[str, ...]] = Counter({(queue,): 0 for queue in QUEUES})
        # From the acceptance of a message until it arrived.
        self.times = {queue: Histogram(DELIVERED_S, unit_s=1e-6) for queue in QUEUES}

    def add(self, rows: Iterable[ActivityRow]) -> None:
        """Count those of the rows that a receipt added which end a message."""
        for row in rows:
            if row.event == "delivered":
                self.delivered[(row.queue,)] += 1
                if row.queue:
                    self.times[row.queue].add(row.at_us - row.accepted_at_us)
            elif row.event == "undelivered":
                self.undelivered[(row.queue,)] += 1
