"""What receipts have made of messages: how many arrived and how many did not, and how long that took."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from engine.histogram import DELIVERED_S, Histogram
from engine.records import QUEUES, ActivityRow


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
