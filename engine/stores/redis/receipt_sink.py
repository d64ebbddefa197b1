"""How receipts get into Redis (`engine.receipts.ports.ReceiptSink`).

Receipts are gathered for a few milliseconds and put on the stream of one shard as one entry. So a
provider that sends ten thousand a second costs a few hundred commands. Any shard will do, so the
shards take turns.

Killed here: receipts that are not in Redis were not confirmed, and the provider sends them again.
Redis answers never or too late: the same. Those receipts may be in Redis nevertheless and come
twice; the matching recognises a repetition.
Redis away or full, or too much waiting here: the provider is asked at once to send again.
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

# An entry is written when so many receipts have gathered, or the first has waited so long, seconds.
_ENTRY_MAX = 500
_GATHER_S = 0.005
# The most receipts that may be here, gathering or on their way; more are refused.
_WAITING_MAX = 20_000

_encode = msgspec.msgpack.Encoder().encode


class ReceiptCounts(msgspec.Struct):
    """Receipts that are in Redis, and those that their provider was asked to send again."""

    kept: int = 0
    refused: int = 0


class RedisReceiptSink:
    """The port `ReceiptSink`; one for all providers of a process. `counts`: what became of receipts."""

    def __init__(self, link: RedisLink, shards: int) -> None:
        """`link` belongs to the caller, who closes it after `close`."""
        self._link = link
        self._shards = shards
        self._turn = 0
        self._receipts: list[bytes] = []
        # Called with the outcome of the receipts that gather.
        self._callers: list[Callable[[bool], None]] = []
        self._timer: asyncio.TimerHandle | None = None
        self._waiting = 0
        self._putting: set[asyncio.Task[None]] = set()
        self._closed = False
        self.counts = ReceiptCounts()

    def put(self, receipts: Sequence[Receipt], stored: Callable[[bool], None]) -> None:
        """Keep the receipts of one call in one entry, all or none; then call `stored(kept)`.

        `stored` is never called from inside this call. `kept` is False when the receipts were
        refused or nobody knows whether they are in Redis.
        """
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
        """Write what has gathered and wait for what is on its way, at most the link's time-out.

        From now on `put` refuses everything.
        """
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
            # The provider learns of False below; it logs that, and the receipts are sent again.
            pass
        finally:
            self._waiting -= len(receipts)
            if kept:
                self.counts.kept += len(receipts)
            else:
                self.counts.refused += len(receipts)
            # Each in a turn of its own, because they are code of providers: when one of them fails, the
            # others are called all the same.
            for stored in callers:
                asyncio.get_running_loop().call_soon(stored, kept)
