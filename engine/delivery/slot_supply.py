"""Service: asks Redis, a little ahead, for the slots of the lanes whose provider has a throughput.

It runs beside everything else. While Redis does not answer, those lanes send nothing, and
the others go on. It never asks for more slots than messages can be begun when the slots come; only express
keeps a few for what has not come yet (`engine.routing.slot_stock`).

Killed or frozen: see `engine.routing.throughput`. Never answered: `SlotStore` gives up soon, this
asks again after a pause, and the slots that Redis may have reserved are lost.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Mapping

from structlog.typing import FilteringBoundLogger

from engine.delivery.alarm import Alarm
from engine.delivery.lanes import Lanes
from engine.errors import Unavailable
from engine.records import Queue
from engine.routing.ports import SlotRequest, SlotStore
from engine.routing.throughput import Allowance, request

# Longest pause after Redis could not be asked, seconds.
_PAUSE_MAX_S = 0.1


class SlotSupply:
    """Supplies the lanes of one queue in one worker."""

    def __init__(
        self,
        queue: Queue,
        lanes: Lanes,
        express_shares: Mapping[str, float],
        slots: SlotStore,
        on_slots: Callable[[float], None],
        *,
        log: FilteringBoundLogger,
        clock_s: Callable[[], float],
    ) -> None:
        """`express_shares`: the part of its throughput that each provider keeps for express. `on_slots` is
        called when slots have come, with the time, monotonic seconds."""
        self._queue: Queue = queue
        self._lanes = lanes
        self._express_shares = express_shares
        self._slots = slots
        self._on_slots = on_slots
        self._log = log
        self._clock_s = clock_s
        self._alarm = Alarm(clock_s)

    def look(self, now_s: float) -> None:
        """Wake, if slots may be wanted: what waits or what may be sent has changed."""
        for lane in self._lanes:
            if lane.allowance is None:
                break
            if lane.waiting or lane.allowance.stock is not None:
                self._alarm.ring(lane.allowance.asks_at_s(now_s, changed=True))

    async def run(self) -> None:
        """Ask for slots until canceled."""
        away = False
        while True:
            asked_at_s = self._clock_s()
            wishes, again_at_s = self._wishes(asked_at_s)
            if not wishes:
                await self._alarm.sleep_until(again_at_s)
                continue
            try:
                granted = await self._slots.reserve([ask for _, ask in wishes])
            except Unavailable as e:
                if not away:
                    self._log.warning("no slots can be reserved", reason=e.detail)
                away = True
                await asyncio.sleep(min(e.retry_after, _PAUSE_MAX_S))
                continue
            if away:
                self._log.info("slots can be reserved again")
                away = False
            answered_at_s = self._clock_s()
            for (allowance, _), slots in zip(wishes, granted, strict=True):
                allowance.granted(slots, asked_at_s, answered_at_s)
            self._on_slots(answered_at_s)

    def _wishes(self, now_s: float) -> tuple[list[tuple[Allowance, SlotRequest]], float]:
        """What to ask for now in one call, with the allowance of each request; and when to look again if
        that is nothing."""
        wishes, again_at_s = [], math.inf
        places, left = self._lanes.places, self._lanes.shared_left()
        for lane in self._lanes:
            if (allowance := lane.allowance) is None:
                break
            in_flight = lane.awaited.expected
            wish = lane.wish(places.free(in_flight, left), now_s)
            if wish.segments:
                share = self._express_shares[lane.name]
                ask = request(allowance, lane.name, self._queue, wish.segments, share)
                wishes.append((allowance, ask))
            again_at_s = min(again_at_s, wish.again_at_s)
            left -= places.shared_taken(in_flight, wish.messages)
        return wishes, again_at_s
