"""On how many machines what was written to Redis is: its command WAIT, for holders and for workers.

Redis counts the replicas that have all that a connection has written before the WAIT. So whoever waits writes
something on that connection first.

With `redis.accepted_on` above 1 a message counts as accepted when so many machines have it. A worker asks the
same of what it has been given before it sends it. Otherwise it could send a message in the moment between its
step on the master and the WAIT of its holder; if the master died then, the message would be sent, its client
told 503, and its units free again. What is on the replica then is also that this worker was given the
message: so at-most-once holds at a failover.

    too few replicas answer   what is younger than `ALONE_S` waits. It stays pending under the worker's name,
                              and the next read asks again. What is older is sent: its client was answered
                              long ago, and a replica that stays away must not stop delivery. A master with
                              `min-replicas-to-write` refuses all writes before that
    killed, frozen            as for what was read and not sent (`engine.delivery.worker`)
    no answer                 the read fails, and what it was given is found again by the next one
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from structlog.typing import FilteringBoundLogger

from engine.errors import Broken, Unavailable
from engine.records import Entry
from engine.stores.redis import queue_wire
from engine.stores.redis.link import Command, RedisLink
from engine.stores.redis.wire import ReplyError

# How long one call waits for replicas, milliseconds. What comes behind it on the connection waits too.
WAIT_MS = 500
# The same for a worker, once too few have answered.
_WAIT_AGAIN_MS = 50
# A message that was accepted so long ago is sent although too few machines have it, seconds. It is longer
# than a holder tries to have it accepted, and than the `min-replicas-max-lag` that is recommended.
ALONE_S = 15.0


def wait(replicas: int, timeout_ms: int) -> Command:
    """Wait until so many replicas have what this connection wrote; reply: how many have it."""
    return ("WAIT", replicas, timeout_ms)


def confirm(reply: Any, wanted: int) -> None:
    """Raises Unavailable when fewer than `wanted` replicas have what was written."""
    if isinstance(reply, ReplyError):
        raise Broken(f"Redis refused a step of the protocol: {reply}")
    if reply < wanted:
        raise Unavailable(
            f"{reply} replicas of Redis have what was written;"
            f" redis.accepted_on = {wanted + 1} wants {wanted}."
        )


class Copies:
    """Keeps a worker from sending what too few machines have."""

    def __init__(
        self,
        link: RedisLink,
        name: str,
        accepted_on: int,
        *,
        timeout_s: float,
        now_us: Callable[[], int],
        log: FilteringBoundLogger,
    ) -> None:
        """`link`: the one that the worker `name` reads on. `timeout_s`: how long its answers may take."""
        self._link = link
        # A heartbeat, so that WAIT has something to wait for.
        self._write = queue_wire.beat(name, 0)
        self._replicas = accepted_on - 1
        self._timeout_s = timeout_s
        self._now_us = now_us
        self._log = log
        self._alone = False

    async def sendable(self, entries: list[Entry]) -> list[Entry]:
        """Those of `entries`, which Redis has given, that may be sent now.

        Raises Unavailable when there is none, when Redis does not answer, and when this worker was fenced.
        """
        if not entries or not self._replicas:
            return entries
        wait_ms = _WAIT_AGAIN_MS if self._alone else WAIT_MS
        replies = await self._link.batch(
            [self._write, wait(self._replicas, wait_ms)], timeout_s=self._timeout_s + wait_ms / 1000
        )
        if replies[0] != 1:
            raise Unavailable("This worker was fenced, and what it has been given is perhaps another's.")
        try:
            confirm(replies[1], self._replicas)
        except Unavailable as e:
            old = self._older(entries)
            if not old:
                raise
            if not self._alone:
                self._log.warning("messages are sent that too few machines have", reason=e.detail)
            self._alone = True
            return old
        if self._alone:
            self._log.info("messages are on as many machines again as they must be")
        self._alone = False
        return entries

    def _older(self, entries: list[Entry]) -> list[Entry]:
        before_us = self._now_us() - int(ALONE_S * 1e6)
        return [entry for entry in entries if entry.message.accepted_at_us <= before_us]
