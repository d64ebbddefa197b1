"""How receipts get into Redis (`engine.receipts.ports.ReceiptSink`).

Receipts are gathered for a few milliseconds. Each goes on the stream of the likely home of its attempt
(`engine.receipts.homes`), those with the same home in one entry, and all streams in one round trip. So a
provider that sends ten thousand a second costs a few thousand commands in some hundred round trips.

Killed here: receipts that are not in Redis were not confirmed, and the provider sends them again.
Redis answers never or too late, or refuses some: the same. Those receipts may be in Redis nevertheless and
come twice; the matching recognises a repetition.
Redis away or full, or too much waiting here: the provider is asked at once to send again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence

import msgspec

from engine.errors import Unavailable
from engine.receipts.homes import likely_home
from engine.receipts.ids import IdForms
from engine.receipts.records import Receipt
from engine.redis_keys import receipts_key
from engine.stores.redis.link import Command, RedisLink
from engine.stores.redis.wire import ReplyError

# They are written when so many receipts have gathered, or the first has waited so long, seconds.
_GATHER_MAX = 500
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

    def __init__(
        self, link: RedisLink, shards: int, receipt_ids: Mapping[str, IdForms] | None = None
    ) -> None:
        """`link` belongs to the caller, who closes it after `close`. `receipt_ids` by provider, "auto" for
        those not named."""
        self._link = link
        self._shards = shards
        self._receipt_ids = receipt_ids or {}
        # Those that gather, encoded, by the likely home of their attempt; and how many they are.
        self._receipts: dict[int, list[bytes]] = {}
        self._gathered = 0
        # Called with the outcome of the receipts that gather.
        self._callers: list[Callable[[bool], None]] = []
        self._timer: asyncio.TimerHandle | None = None
        self._waiting = 0
        self._putting: set[asyncio.Task[None]] = set()
        self._closed = False
        self.counts = ReceiptCounts()

    def put(self, receipts: Sequence[Receipt], stored: Callable[[bool], None]) -> None:
        """Keep the receipts of one call; then call `stored(kept)`.

        `stored` is never called from inside this call. `kept` is False when a receipt was refused or nobody
        knows whether all are in Redis; some may be.
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
        self._gathered += len(receipts)
        for receipt in receipts:
            how = self._receipt_ids.get(receipt.provider, "auto")
            home = likely_home(receipt, how, self._shards)
            self._receipts.setdefault(home, []).append(_encode(receipt))
        self._callers.append(stored)
        if self._gathered >= _GATHER_MAX:
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
        receipts, self._receipts = self._receipts, {}
        callers, self._callers = self._callers, []
        count, self._gathered = self._gathered, 0
        putting = asyncio.get_running_loop().create_task(self._keep(receipts, count, callers))
        self._putting.add(putting)
        putting.add_done_callback(self._putting.discard)

    async def _keep(
        self, receipts: Mapping[int, list[bytes]], count: int, callers: list[Callable[[bool], None]]
    ) -> None:
        commands: list[Command] = [
            ("XADD", receipts_key(home), "*", "b", b"\xdd" + len(some).to_bytes(4, "big") + b"".join(some))
            for home, some in receipts.items()
        ]
        kept = False
        try:
            replies = await self._link.batch(commands)
            kept = not any(isinstance(reply, ReplyError) for reply in replies)
        except Unavailable:
            # The provider learns of False below; it logs that, and the receipts are sent again.
            pass
        finally:
            self._waiting -= count
            if kept:
                self.counts.kept += count
            else:
                self.counts.refused += count
            # Each in a turn of its own, because they are code of providers: when one of them fails, the
            # others are called all the same.
            for stored in callers:
                asyncio.get_running_loop().call_soon(stored, kept)
