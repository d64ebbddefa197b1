"""Service: whether new messages are taken, as operators wish: by queue, and by this node as a whole.

A process looks once a second what is wished, in PostgreSQL. A request is taken as a whole, or refused as a
whole before anything else is done for it: 503, so that it is sent again, later or to another node.

    a queue is drained   requests with a message for it are refused from the next look on; those that repeat
    one
                         that was accepted before get its answer (`while_closed`)
    the node is drained  from the next look on /readyz says so and connections close with their answer; when
                         load balancers have had time to notice, messages are refused. Once none is under way
                         any more, the supervisor is told
    PostgreSQL away      what was wished last stays
    frozen               for a second after it wakes, the process goes by what was wished before
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import structlog

from engine.clocks.waits import next_tick
from engine.errors import Closed, ConfigError, Refusal, Unavailable
from engine.intake.ports import ClosureStore
from engine.records import QUEUE_DEFAULT, MessageDraft, Queue

log = structlog.get_logger("intake")

_LOOK_S = 1.0
# When a caller is to come back: to a queue that is drained, seconds; to a node, which others stand beside.
_QUEUE_RETRY_S = 30.0
_NODE_RETRY_S = 2.0


class Closures:
    """What one ingest process takes. Call `refresh` once before serving, then `run` until canceled."""

    def __init__(
        self,
        store: ClosureStore,
        *,
        notice_s: float,
        clock_s: Callable[[], float],
        look_s: float = _LOOK_S,
    ) -> None:
        """`notice_s`: for so long after a drain of the node messages are taken. `clock_s`: monotonic."""
        self._store = store
        self._notice_s = notice_s
        self._clock_s = clock_s
        self._look_s = look_s
        self._away = False
        self._queues: frozenset[Queue] = frozenset()
        # When messages are refused because of a drain of the node; None: it is not drained.
        self._closes_s: float | None = None
        self._known = False

    @property
    def node_drained(self) -> bool:
        """Whether operators wish that this node takes nothing new."""
        return self._closes_s is not None

    @property
    def node_closed(self) -> bool:
        """Whether it takes nothing new: it is drained, and balancers have had time to notice."""
        return self._closes_s is not None and self._clock_s() >= self._closes_s

    @property
    def takes_all(self) -> bool:
        """Whether nothing is drained, so that `check` would let every request in."""
        return self._closes_s is None and not self._queues

    def check(self, drafts: Sequence[MessageDraft | Refusal]) -> None:
        """Raise Closed when a request with these messages must not be taken."""
        if self._closes_s is not None and self.node_closed:
            detail = "This node is drained and takes no messages; send the request again, to another node."
            raise Closed("node_drained", detail, _NODE_RETRY_S)
        if not self._queues:
            return
        for draft in drafts:
            queue = QUEUE_DEFAULT if isinstance(draft, Refusal) else draft.queue or QUEUE_DEFAULT
            if queue in self._queues and not isinstance(draft, Refusal):
                detail = (
                    f"The queue {queue} is being drained and takes no messages; send the whole request again"
                    " later, with the same Idempotency-Key if it has one."
                )
                raise Closed("queue_drained", detail, _QUEUE_RETRY_S)

    async def refresh(self) -> None:
        """Look once what is wished. What cannot be read stays as it was."""
        try:
            queues, node_drained = await self._store.closed()
        except (Unavailable, ConfigError) as e:
            if not self._away:
                log.warning("drains cannot be looked up; what was wished last stays", reason=str(e))
            self._away = True
            return
        self._away = False
        if queues != self._queues:
            log.info("queues are drained", queues=sorted(queues))
        self._queues = queues
        if node_drained and self._closes_s is None:
            # A process that starts on a drained node was not known to any balancer as ready.
            self._closes_s = self._clock_s() + (self._notice_s if self._known else 0.0)
            log.info("the node is drained", notice_s=self._notice_s)
        elif not node_drained and self._closes_s is not None:
            self._closes_s = None
            log.info("the node takes messages again")
        self._known = True

    async def run(self, admits: Callable[[bool], None], under_way: Callable[[], int]) -> None:
        """Keep up with what is wished, until canceled.

        `admits` is told whether the process takes messages, or has some of `under_way`; at each look, for
        what it is told may get lost.
        """
        while True:
            admits(not self.node_closed or under_way() > 0)
            await next_tick(self._look_s)
            await self.refresh()
