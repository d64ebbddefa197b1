"""Service: the last deliveries that each endpoint has taken, for whoever looks for what became of an event.

A delivery that was made is written nowhere else. Here its endpoint has a short list of them in Redis, the
newest first, which is written once a second for all endpoints together. What costs by the delivery is a note
in memory.

    killed                  what was made in the last second is missing from the list
    Redis does not answer   it waits for the next second, the last `MADE_MAX` of each endpoint
    an answer is lost       deliveries may stand in the list twice
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime

from engine.clocks.waits import next_tick
from engine.errors import Unavailable
from engine.webhooks.ports import WebhookStreams
from engine.webhooks.records import MADE_MAX, Delivery, MadeDelivery, ShownMadeDelivery

_FLUSH_S = 1.0


class MadeDeliveries:
    """Notes what was delivered; `run` it."""

    def __init__(self, streams: WebhookStreams, now_us: Callable[[], int]) -> None:
        """`now_us`: the time, UTC, microseconds since 1970."""
        self._streams = streams
        self._now_us = now_us
        # By shard and endpoint, the newest last.
        self._noted: dict[tuple[int, int], deque[MadeDelivery]] = {}

    def note(self, delivery: Delivery, duration_s: float) -> None:
        """An endpoint took this delivery, `duration_s` after its last attempt had begun."""
        key = (delivery.shard, delivery.endpoint_id)
        noted = self._noted.get(key)
        if noted is None:
            noted = self._noted[key] = deque(maxlen=MADE_MAX)
        noted.append(
            MadeDelivery(
                event_id=delivery.event_id,
                type=delivery.type,
                url=delivery.target.url,
                event_at_us=delivery.at_us,
                at_us=self._now_us(),
                status=delivery.status,
                duration_ms=round(duration_s * 1000, 3),
                attempts=delivery.attempts + 1,
            )
        )

    async def run(self) -> None:
        """Write once a second until canceled."""
        while True:
            await next_tick(_FLUSH_S)
            await self.flush()

    async def flush(self) -> None:
        """Write what was noted; what Redis does not take is noted again."""
        noted, self._noted = self._noted, {}
        try:
            await self._streams.note_made(noted)
        except Unavailable:
            for key, later in self._noted.items():
                noted.setdefault(key, deque(maxlen=MADE_MAX)).extend(later)
            self._noted = noted


def shown(made: MadeDelivery) -> ShownMadeDelivery:
    """The delivery as its organisation sees it."""
    return ShownMadeDelivery(
        event_id=made.event_id,
        type=made.type,
        url=made.url,
        event_at=datetime.fromtimestamp(made.event_at_us / 1e6, UTC),
        delivered_at=datetime.fromtimestamp(made.at_us / 1e6, UTC),
        status=made.status,
        duration_ms=made.duration_ms,
        attempts=made.attempts,
    )
