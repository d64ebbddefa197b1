"""Service: deliveries that are made now: in turn, and so that nobody waits for another's endpoint.

Deliveries to one origin of one organisation stand in a queue of their own. The organisations that have any
are served in turn, and so are the queues of an organisation. What bounds them:

    one origin         `connections` requests in flight, `QUEUE_MAX` deliveries in line; when the first of
    them has
                       waited for `WAIT_S`, the origin is too slow, and all of them are kept
    one organisation   `ORGANISATION_MAX` requests in flight, over all its origins
    the process        `IN_FLIGHT_MAX` requests in flight

What is beyond a bound is kept in PostgreSQL (`engine.webhooks.keeper`), and so is everything for an origin
whose circuit is open: three failures in a row open it, for 5 s and then twice as long each time, up to a
minute. Then one delivery is the probe. So an endpoint that is away costs one request a minute, and no memory.

    killed                  what is in line or in flight is read again from the streams, or claimed again
    later:
                            it may be delivered twice, with the same id
    frozen                  the same, when another notifier has taken the shard meanwhile
    never answered          the request ends with its time-out, and counts as a failed attempt
    answered by 2xx, and    the event is delivered again, with the same id
    the answer is lost
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from random import Random

import msgspec

from engine.records import VerdictKind
from engine.webhooks import signing
from engine.webhooks.endpoint_table import EndpointTable
from engine.webhooks.keeper import Keeper, settle
from engine.webhooks.made import MadeDeliveries
from engine.webhooks.ports import Poster
from engine.webhooks.records import Delivery
from engine.webhooks.recoveries import Origin, Recoveries
from engine.webhooks.schedule import Verdict, has_failed, pause_s, verdict_of
from engine.webhooks.turns import CLAIM_MIN, OriginQueue, Turns

QUEUE_MAX = 5_000
WAIT_S = 2.0
IN_FLIGHT_MAX = 1_000
# At most so many deliveries of an origin are claimed from PostgreSQL at once.
_CLAIM_MAX = 500
_FIXED_HEADERS = b"Content-Type: application/json\r\nUser-Agent: smsengine\r\n"
_VERDICTS: dict[Verdict, VerdictKind] = {
    "delivered": "accepted", "failed": "permanent", "again": "temporary",
}  # fmt: skip


class SenderCounts(msgspec.Struct):
    """Attempts by what came of them: delivered, to be tried again, or failed for good."""

    delivered: int = 0
    again: int = 0
    failed: int = 0


class Sender:
    """Makes deliveries; see the module. Call `sweep` now and then."""

    def __init__(
        self,
        poster: Poster,
        table: EndpointTable,
        keeper: Keeper,
        made: MadeDeliveries,
        *,
        connections: int,
        now_us: Callable[[], int],
        clock_s: Callable[[], float],
        rng: Random,
    ) -> None:
        """`connections`: requests in flight to one origin of an organisation. `now_us`: the time, UTC,
        microseconds since 1970; `clock_s`: monotonic seconds. `rng`: where jitter comes from."""
        self._poster = poster
        self._table = table
        self._keeper = keeper
        self._made = made
        self.recoveries = Recoveries(keeper.note_recovery)
        self._now_us = now_us
        self._clock_s = clock_s
        self._rng = rng
        self._turns = Turns(connections)
        self._waiting = 0
        self._in_flight = 0
        self.counts = SenderCounts()

    @property
    def in_flight(self) -> int:
        """Requests that are not answered yet."""
        return self._in_flight

    @property
    def waiting(self) -> int:
        """Deliveries in line."""
        return self._waiting

    @property
    def in_hand(self) -> int:
        """Deliveries in line and in flight."""
        return self._waiting + self._in_flight

    @property
    def open_circuits(self) -> int:
        """Origins of organisations that are not sent to because they fail."""
        return sum(1 for queue in self._turns.queues.values() if queue.breaker.state != "closed")

    def offer(self, delivery: Delivery) -> None:
        """Make this delivery in its turn, or have it kept."""
        now_s = self._clock_s()
        queue = self._turns.of((delivery.organisation_id, delivery.target.origin), now_s)
        closed_s = queue.breaker.closed_for(now_s)
        self._keep_slow(queue, now_s)
        if closed_s > 0 or len(queue.waiting) >= QUEUE_MAX or queue.stalled:
            self._keeper.keep(delivery, closed_s)
            return
        delivery.queued_s = now_s
        queue.waiting.append(delivery)
        self._waiting += 1
        self._turns.put(queue, now_s)
        self._send()

    def room(self, organisation_id: int, origin: str) -> int:
        """How many kept deliveries to an origin may be offered now."""
        queue = self._turns.queues.get((organisation_id, origin))
        if queue is None:
            return CLAIM_MIN
        if queue.breaker.state != "closed":
            return 1 if queue.breaker.usable(self._clock_s()) and not queue.waiting else 0
        if queue.stalled or queue.waiting:
            return 0
        queue.claim = min(_CLAIM_MAX, 2 * queue.claim)
        return queue.claim

    def sweep(self) -> None:
        """Keep what has waited too long for its turn, and forget origins that are at rest."""
        now_s = self._clock_s()
        for queue in list(self._turns.queues.values()):
            self._keep_slow(queue, now_s)
            at_rest = not queue.waiting and not queue.in_flight and queue.breaker.state == "closed"
            if at_rest and (not queue.failing or queue.used_s + 600.0 < now_s):
                self._turns.forget(queue)

    def give_back(self) -> None:
        """Keep everything that is in line, because the process ends."""
        for queue in self._turns.queues.values():
            self._keep_all(queue, 0.0)

    def _send(self) -> None:
        now_s = self._clock_s()
        while self._in_flight < IN_FLIGHT_MAX and (queue := self._turns.next()) is not None:
            if queue.waiting:
                self._waiting -= 1
                self._begin(queue, queue.waiting.popleft())
            self._turns.put(queue, now_s)

    # -- one attempt

    def _begin(self, queue: OriginQueue, delivery: Delivery) -> None:
        endpoint = self._table.endpoint(delivery.endpoint_id)
        if endpoint is None:
            # Or it was made a moment ago, and is not known here yet.
            delivery.reason = "endpoint-removed"
            delivery.attempts += 1
            if delivery.attempts > 1:
                self._keeper.fail(delivery)
            else:
                self._keeper.keep(delivery, pause_s(delivery.attempts, self._rng))
            return
        now_s = self._clock_s()
        queue.breaker.began(now_s)
        queue.in_flight += 1
        queue.organisation.in_flight += 1
        self._in_flight += 1
        wall_us = self._now_us()
        # A second that has begun is no reason to sign with a secret that is over in it.
        secrets = endpoint.secrets(wall_us / 1e6)
        signed = signing.headers(delivery.event_id, wall_us // 1_000_000, delivery.body, secrets)
        done = partial(self._ended, queue, delivery, now_s)
        self._poster.post(
            delivery.organisation_id, delivery.target, _FIXED_HEADERS + signed, delivery.body, done
        )

    def _ended(
        self, queue: OriginQueue, delivery: Delivery, began_s: float, status: int, reason: str
    ) -> None:
        now_s = self._clock_s()
        queue.in_flight -= 1
        queue.organisation.in_flight -= 1
        self._in_flight -= 1
        verdict = verdict_of(status, reason)
        queue.breaker.ended(_VERDICTS[verdict], now_s, began_s)
        queue.failing, queue.stalled = verdict == "again", False
        delivery.status, delivery.reason = status, reason
        origin = Origin(delivery.shard, delivery.organisation_id, delivery.target.origin)
        if verdict == "again":
            self.recoveries.failed(origin)
        if verdict == "delivered":
            self.recoveries.took(origin)
            self.counts.delivered += 1
            self._made.note(delivery, now_s - began_s)
            if delivery.row_id:
                self._keeper.forget(delivery.row_id)
            settle(delivery)
        elif verdict == "failed" or has_failed(delivery.attempts + 1, self._age_s(delivery)):
            self.counts.failed += 1
            delivery.attempts += 1
            self._keeper.fail(delivery)
        else:
            self.counts.again += 1
            delivery.attempts += 1
            self._keeper.keep(delivery, pause_s(delivery.attempts, self._rng))
        if queue.waiting and not queue.breaker.usable(now_s):
            self._keep_all(queue, queue.breaker.closed_for(now_s))
        self._turns.put(queue, now_s)
        self._send()

    def _age_s(self, delivery: Delivery) -> float:
        return (self._now_us() - delivery.kept_since_us) / 1e6 if delivery.kept_since_us else 0.0

    def _keep_slow(self, queue: OriginQueue, now_s: float) -> None:
        """Keep everything in line when its first has waited too long."""
        if queue.waiting and queue.waiting[0].queued_s + WAIT_S <= now_s:
            queue.stalled = queue.in_flight > 0
            queue.claim = max(CLAIM_MIN, queue.claim // 4)
            self._keep_all(queue, 0.0)

    def _keep_all(self, queue: OriginQueue, due_in_s: float) -> None:
        self._waiting -= len(queue.waiting)
        while queue.waiting:
            self._keeper.keep(queue.waiting.popleft(), due_in_s)
