"""Messages that carriers took, and the receipts for them: a Redis and a ClickHouse of one test."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Collection, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from engine.activity.archiver import Archiver
from engine.boot.archiver import assemble_matcher
from engine.receipts.ids import IdForms
from engine.receipts.matcher import Matcher
from engine.receipts.ports import AttemptStore, MatchLimits, ReceiptStream
from engine.receipts.records import Receipt
from engine.receipts.rounds import Rounds
from engine.records import ActivityRow
from engine.redis_keys import activity_key, receipts_key, receipts_later_key
from engine.shards import shard_of
from engine.stores.clickhouse.attempts import ClickHouseAttempts
from engine.stores.redis.link import RedisLink, load_functions
from engine.stores.redis.receipt_sink import RedisReceiptSink
from engine.stores.redis.receipt_stream import RedisReceiptStream
from tests.activity.world import QUICK, SHARDS, World, blob_of, new_world, until

# Quick, so that take-overs and pauses do not make the tests long.
QUICK_MATCH = MatchLimits(
    batch_max=200, gather_s=0.02, idle_s=0.05, lease_s=0.6, again_s=0.05, again_max_s=0.2, backoff_s=0.05,
    backoff_max_s=0.3,
)  # fmt: skip


class Counting:
    """A part of the matcher's world that counts the calls of each of its methods."""

    def __init__(self, part: Any) -> None:
        self._part = part
        self.calls: Counter[str] = Counter()

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._part, name)

        def counted(*arguments: Any, **named: Any) -> Any:
            self.calls[name] += 1
            return method(*arguments, **named)

        return counted


def now_us() -> int:
    return time.time_ns() // 1000


def home_of(organisation_id: int) -> int:
    return shard_of(organisation_id, SHARDS)


def message_id(number: int) -> str:
    return f"019aaaaa-0000-7000-8000-{number:012x}"


def carrier_id(number: int) -> str:
    """What carrier "one" calls message `number`: hexadecimal digits, in capitals."""
    return f"00A{number:09X}"


class ReceiptWorld:
    """What the tests do, and what they see."""

    def __init__(self, world: World) -> None:
        self.activity = world
        self.link = RedisLink(world.redis_url, timeout_s=5, name="receipts")
        self._read_link = RedisLink(world.redis_url, timeout_s=5, name="receipts read")
        self.stream = RedisReceiptStream(self.link, self._read_link, SHARDS)
        self.store = ClickHouseAttempts(world.clickhouse_url)
        self.sink = RedisReceiptSink(self.link, SHARDS)
        self._first_us = now_us()
        # (id, reason) of the receipts that matchers said they gave up.
        self.given_up: Counter[tuple[str, str]] = Counter()

    async def sent(self, *numbers: int, archived: bool = True, **changes: Any) -> list[ActivityRow]:
        """Carrier "one" took these messages; archived or still on the activity streams."""
        rows = [self.row(number, **changes) for number in numbers]
        pipe = self.activity.redis.pipeline(transaction=False)
        for shard in range(SHARDS):
            if some := [row for row in rows if home_of(row.organisation_id) == shard]:
                pipe.xadd(activity_key(shard), {b"b": blob_of(some)})
        await pipe.execute()
        if archived:
            await self.archive()
        return rows

    def row(self, number: int, **changes: Any) -> ActivityRow:
        fields: dict[str, Any] = {
            "at_us": self._first_us + number,
            "organisation_id": 1000 + number % 5,
            "message_id": message_id(number),
            "accepted_at_us": self._first_us - 1_000_000,
            "event": "sent",
            "queue": "normal",
            "to": f"+98912{number:07}",
            "sender": "ACME",
            "encoding": "GSM-7",
            "segments": 1,
            "units": 2,
            "attempt": 1,
            "provider": "one",
            "provider_message_id": carrier_id(number),
            "code": "0",
            "latency_us": 20_000,
            "reference": f"order {number}",
            "callback_url": f"https://example.com/{number}",
        }
        return ActivityRow(**fields | changes)

    async def archive(self) -> None:
        """Let all that is on the activity streams be archived."""
        async with self.archiving():
            await until(self._archived)

    async def _archived(self) -> bool:
        return await self.activity.waiting() == 0 and not await self.activity.stream.plans(range(SHARDS))

    @asynccontextmanager
    async def archiving(self) -> AsyncIterator[None]:
        draining = asyncio.Event()
        archiver = Archiver(self.activity.stream, self.activity.store, "archiver", QUICK)
        work = asyncio.create_task(archiver.run(draining))
        try:
            yield
        finally:
            draining.set()
            async with asyncio.timeout(60):
                await work

    async def told(self, *receipts: Receipt) -> None:
        """A carrier sends these, and is told that they are kept."""
        kept = asyncio.get_running_loop().create_future()
        self.sink.put(receipts, kept.set_result)
        async with asyncio.timeout(60):
            assert await kept

    async def told_by_number(self, numbers: Iterable[int], state: Any = "delivered", **changes: Any) -> None:
        await self.told(*(receipt(number, state, **changes) for number in numbers))

    def matcher(
        self,
        owner: str = "m",
        limits: MatchLimits = QUICK_MATCH,
        *,
        stream: ReceiptStream | None = None,
        store: AttemptStore | None = None,
        ids: dict[str, IdForms] | None = None,
        per_message: Collection[str] = (),
    ) -> tuple[Matcher, Rounds]:
        return assemble_matcher(
            stream or self.stream,
            store or self.store,
            owner,
            limits,
            shards=SHARDS,
            receipt_ids=ids or {},
            per_message=per_message,
            now_us=now_us,
            given_up=lambda receipt, reason: self.given_up.update([(receipt.provider_message_id, reason)]),
        )

    @asynccontextmanager
    async def matching(
        self, owner: str = "m", limits: MatchLimits = QUICK_MATCH, **parts: Any
    ) -> AsyncIterator[Rounds]:
        matcher, rounds = self.matcher(owner, limits, **parts)
        draining = asyncio.Event()
        work = asyncio.create_task(matcher.run(draining))
        try:
            yield rounds
        finally:
            draining.set()
            async with asyncio.timeout(60):
                await work

    async def match_all(self, owner: str = "last", **parts: Any) -> Rounds:
        """Match and archive until no receipt waits."""
        async with self.archiving(), self.matching(owner, **parts) as rounds:
            await until(self.nothing_waits)
            await until(self._archived)
        return rounds

    async def waiting(self) -> tuple[int, int]:
        """Entries of receipts, and receipts set aside."""
        redis = self.activity.redis
        return (
            sum([await redis.xlen(receipts_key(shard)) for shard in range(SHARDS)]),
            sum([await redis.zcard(receipts_later_key(shard)) for shard in range(SHARDS)]),
        )

    async def nothing_waits(self) -> bool:
        return await self.waiting() == (0, 0)

    async def recorded(self) -> Counter[tuple[str, str, int]]:
        """(message id, event, segment) of every row in the table that a receipt made."""
        found = await self.activity.query(
            "SELECT message_id, event, segment, count() FROM activity"
            " WHERE event IN ('receipt', 'delivered', 'undelivered', 'retrying') GROUP BY ALL"
        )
        return Counter({(name, event, segment): count for name, event, segment, count in found})

    async def assert_delivered_once(self, numbers: Sequence[int]) -> None:
        """Exactly these messages are delivered, each once, and nothing else was recorded."""
        assert await self.recorded() == Counter((message_id(n), "delivered", 0) for n in numbers)
        assert await self.nothing_waits()

    async def unmatched(self) -> Counter[tuple[str, str]]:
        """(id, reason) of the receipts that were given up."""
        found = await self.activity.query("SELECT provider_message_id, reason FROM receipts_unmatched FINAL")
        return Counter(found)

    async def close(self) -> None:
        await self.sink.close()
        await self.store.close()
        await self._read_link.close()
        await self.link.close()


def receipt(number: int, state: Any = "delivered", **changes: Any) -> Receipt:
    """As carrier "one" writes it: the id in small letters, the number without its plus."""
    fields: dict[str, Any] = {
        "provider": "one",
        "provider_message_id": carrier_id(number).lower().lstrip("0"),
        "state": state,
        "code": {"delivered": "DELIVRD 000", "undelivered": "UNDELIV 069", "pending": "ENROUTE 000"}[state],
        "at_us": now_us(),
        "to": f"98912{number:07}",
    }
    return Receipt(**fields | changes)


@asynccontextmanager
async def new_receipt_world(redis_url: str, clickhouse_url: str) -> AsyncIterator[ReceiptWorld]:
    async with new_world(redis_url, clickhouse_url) as activity:
        world = ReceiptWorld(activity)
        await load_functions(world.link)
        try:
            yield world
        finally:
            await world.close()
