"""Rule: whose delivery is next: organisations in turn, and the origins of an organisation in turn."""

from __future__ import annotations

from collections import deque

from engine.delivery.breaker import Breaker
from engine.webhooks.records import Delivery
from engine.webhooks.schedule import FIRST_PAUSE_S

# Requests in flight of one organisation, over all its origins.
ORGANISATION_MAX = 100
# Failures in a row that open the circuit of an origin.
_FAILURES = 3
# So many deliveries of an origin are claimed from PostgreSQL at once, first.
CLAIM_MIN = 8


class _Organisation:
    """The queues of one organisation that may send, in turn."""

    __slots__ = ("in_flight", "listed", "queues", "ready")

    def __init__(self) -> None:
        self.in_flight = 0
        self.ready: deque[OriginQueue] = deque()
        # Whether it is among those that are served in turn.
        self.listed = False
        self.queues = 0


class OriginQueue:
    """Deliveries to one origin of one organisation."""

    __slots__ = ("breaker", "claim", "failing", "in_flight", "key", "listed", "organisation", "stalled",
                 "used_s", "waiting")  # fmt: skip

    def __init__(self, key: tuple[int, str], organisation: _Organisation) -> None:
        self.key = key
        self.organisation = organisation
        self.waiting: deque[Delivery] = deque()
        self.in_flight = 0
        self.breaker = Breaker(failures=_FAILURES, pause_s=FIRST_PAUSE_S)
        # The last attempt failed.
        self.failing = False
        self.listed = False
        self.used_s = 0.0
        # It was too slow, and no request has ended since.
        self.stalled = False
        # How many kept deliveries it is given at once: more while it keeps up, fewer when it does not.
        self.claim = CLAIM_MIN


class Turns:
    """The queues of all origins; `queues` by organisation and origin."""

    def __init__(self, connections: int) -> None:
        """`connections`: requests in flight to one origin of an organisation."""
        self._connections = connections
        self._organisations: dict[int, _Organisation] = {}
        # Organisations that may send, in turn.
        self._turns: deque[_Organisation] = deque()
        self.queues: dict[tuple[int, str], OriginQueue] = {}

    def of(self, key: tuple[int, str], now_s: float) -> OriginQueue:
        """The queue of an organisation and an origin, which is used at `now_s`."""
        queue = self.queues.get(key)
        if queue is None:
            organisation = self._organisations.setdefault(key[0], _Organisation())
            organisation.queues += 1
            queue = self.queues[key] = OriginQueue(key, organisation)
        queue.used_s = now_s
        return queue

    def forget(self, queue: OriginQueue) -> None:
        """Forget a queue that is at rest."""
        if queue.listed:
            return
        del self.queues[queue.key]
        queue.organisation.queues -= 1
        if not queue.organisation.queues and not queue.organisation.listed:
            self._organisations.pop(queue.key[0], None)

    def put(self, queue: OriginQueue, now_s: float) -> None:
        """Let a queue have its turn, if it may send."""
        organisation = queue.organisation
        may = queue.waiting and queue.in_flight < self._connections and queue.breaker.usable(now_s)
        if may and not queue.listed:
            queue.listed = True
            organisation.ready.append(queue)
        if organisation.ready and not organisation.listed and organisation.in_flight < ORGANISATION_MAX:
            organisation.listed = True
            self._turns.append(organisation)

    def next(self) -> OriginQueue | None:
        """The queue whose turn it is; `put` it back afterwards. None: there is none."""
        if not self._turns:
            return None
        organisation = self._turns.popleft()
        organisation.listed = False
        queue = organisation.ready.popleft()
        queue.listed = False
        return queue
