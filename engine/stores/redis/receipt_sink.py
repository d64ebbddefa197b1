"""The way of receipts into Redis (`engine.receipts.ports.ReceiptSink`).

Receipts are gathered for a few milliseconds and put on one shard's stream as one entry:
a provider that pushes ten thousand a second costs a few hundred commands. Which shard does
not matter, so they take turns.

Killed here: what was not in Redis was not confirmed, and the provider sends it again.
Never answered, answered too late: the same; receipts may then be in Redis all the same,
and come twice, which the matching sees through.
Redis away or full, or too much waiting here: the provider is told at once to send again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import msgspec

from engine.errors import Unavailable
from engine.receipts.records import Receipt
from engine.shards import receipts_key
from engine.stores.redis.link import RedisLink
from engine.stores.redis.wire import ReplyError

# Receipts are put when so many have gathered, or the first has waited so long.
_ENTRY_MAX = 500
_GATHER_S = 0.005
# Most receipts here at a time, gathering and on their way; more are refused.
_WAITING_MAX = 20_000

_encode = msgspec.msgpack.Encoder().encode


class ReceiptCounts(msgspec.Struct):
    """Receipts that are in Redis, and those that their provider was asked to send again."""

    kept: int = 0
    refused: int = 0


class RedisReceiptSink:
    """The port `ReceiptSink`; one for all providers of a process. `counts`: what became of receipts."""

    def __init__(self, link: RedisLink, shards: int) -> None:
        """`link` is the caller's, and is closed after `close`."""
        self._link = link
        self._shards = shards
        self._turn = 0
        self._receipts: list[bytes] = []
        # Whom to tell of those gathered.
        self._callers: list[Callable[[bool], None]] = []
        self._timer: asyncio.TimerHandle | None = None
        self._waiting = 0
        self._putting: set[asyncio.Task[None]] = set()
        self._closed = False
        self.counts = ReceiptCounts()

    def put(self, receipts: Sequence[Receipt], stored: Callable[[bool], None]) -> None:
        """See the port. A caller's receipts go into one entry, all or none."""
        loop = asyncio.get_running_loop()
        if not receipts:
            loop.call_soon(stored, True)
            return
        if self._closed or self._waiting + len(receipts) > _WAITING_MAX:
            self.counts.refused += len(receipts)
            loop.call_soon(stored, False)
            return
        self._waiting += len(receipts)
        self._receipts += map(_encode, receipts)
        self._callers.append(stored)
        if len(self._receipts) >= _ENTRY_MAX:
            self._put()
        elif self._timer is None:
            self._timer = loop.call_later(_GATHER_S, self._put)

    async def close(self) -> None:
        """Put what has gathered, and wait for what is on its way: at most the link's time-out.
        From now on everything is refused."""
        self._closed = True
        if self._receipts:
            self._put()
        while self._putting:
            await asyncio.wait(self._putting)

    def _put(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        receipts, self._receipts = self._receipts, []
        callers, self._callers = self._callers, []
        putting = asyncio.get_running_loop().create_task(self._keep(receipts, callers))
        self._putting.add(putting)
        putting.add_done_callback(self._putting.discard)

    async def _keep(self, receipts: list[bytes], callers: list[Callable[[bool], None]]) -> None:
        self._turn = (self._turn + 1) % self._shards
        blob = b"\xdd" + len(receipts).to_bytes(4, "big") + b"".join(receipts)
        kept = False
        try:
            await self._link.call("XADD", receipts_key(self._turn), "*", "b", blob)
            kept = True
        except (Unavailable, ReplyError):
            # Whoever is told False sends it again, and logs that.
            pass
        finally:
            self._waiting -= len(receipts)
            if kept:
                self.counts.kept += len(receipts)
            else:
                self.counts.refused += len(receipts)
            # Each by itself: they are providers' code, and a fault of one costs the others nothing.
            for stored in callers:
                asyncio.get_running_loop().call_soon(stored, kept)
