"""Every receipt is recorded exactly once, wherever matchers stop and however carriers send."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from engine.errors import Unavailable
from engine.receipts.records import Receipt
from engine.records import Message
from engine.redis_keys import (
    due_key,
    receipts_applied_key,
    receipts_key,
    receipts_later_key,
    receipts_lock_key,
    receipts_unreadable_key,
)
from engine.stores.clickhouse.attempts import ClickHouseAttempts
from engine.stores.status import StatusReader
from supervisor.embedded.servers import start_clickhouse
from tests.activity.archiver_process import Gated
from tests.activity.world import SHARDS, until
from tests.forked import Process, forked
from tests.receipts.world import (
    QUICK_MATCH,
    Counting,
    ReceiptWorld,
    carrier_id,
    home_of,
    message_id,
    new_receipt_world,
    now_us,
    receipt,
)

# Between any two steps from the take-over to the end of a round.
POINTS = [
    "begin:before", "begin:after", "read:after", "due:after", "archived_before:after", "filed:before",
    "filed:after", "record:before", "record:between", "record:after", "finish:before",
]  # fmt: skip

# Of a matcher that no other follows, while nobody archives. On a busy machine a short lease runs out, and
# then the matcher begins anew: it waits until all is archived.
LASTING = msgspec.structs.replace(QUICK_MATCH, lease_s=600.0)


@pytest.fixture
async def world(redis_url: str, clickhouse_url: str) -> AsyncIterator[ReceiptWorld]:
    async with new_receipt_world(redis_url, clickhouse_url) as world:
        yield world


def process(world: ReceiptWorld, owner: str, point: str) -> AbstractAsyncContextManager[Process]:
    """A matcher process."""
    urls = (world.activity.redis_url, world.activity.clickhouse_url)
    return forked("tests.receipts.matcher_process", *urls, owner, point)


def limits(**changed: Any) -> Any:
    return msgspec.structs.replace(QUICK_MATCH, **changed)


async def test_receipts_become_rows_of_the_messages_they_are_about(world: ReceiptWorld) -> None:
    rows = {row.message_id: row for row in await world.sent(*range(40))}
    came_at = now_us()
    await world.told_by_number(range(30))
    await world.told_by_number(range(30, 40), "undelivered")
    matching = await world.match_all()
    assert (matching.counts.matched, matching.counts.recorded) == (40, 40)
    assert await world.recorded() == Counter(
        (message_id(n), "delivered" if n < 30 else "undelivered", 0) for n in range(40)
    )
    row = rows[message_id(7)]
    sent, delivered = await world.activity.stored(row.organisation_id, row.message_id, row.accepted_at_us)
    assert sent == row
    assert came_at <= delivered.at_us <= now_us()
    same = {"event": "delivered", "code": "DELIVRD 000", "at_us": delivered.at_us, "latency_us": 0}
    assert delivered == msgspec.structs.replace(row, **same)


async def test_a_receipt_that_comes_again_adds_nothing_at_once_or_after_it_was_archived(
    world: ReceiptWorld,
) -> None:
    await world.sent(*range(20))
    await world.told_by_number([*range(20), *range(20)])
    async with world.matching(limits=LASTING):
        await until(world.nothing_waits)
        # Recorded, and not in the store: nobody archives.
        await world.told_by_number(range(20))
        await until(world.nothing_waits)
        async with world.archiving():
            await world.archive()
            await world.told_by_number(range(20))
            await until(world.nothing_waits)
    await world.told_by_number(range(20))
    await world.match_all("another")
    await world.assert_delivered_once(range(20))


async def test_an_early_receipt_waits_for_its_message(world: ReceiptWorld) -> None:
    await world.told_by_number(range(20))
    async with world.matching(limits=LASTING) as matching:

        async def set_aside() -> bool:
            return await world.waiting() == (0, 20)

        await until(set_aside)
        # The row of a message may be on its way to the store for long.
        await world.sent(*range(20), archived=False)
        await until(lambda: _is(matching.counts.set_aside > 40))
        assert await world.waiting() == (0, 20)
        async with world.archiving():
            await until(world.nothing_waits)
    await world.archive()
    await world.assert_delivered_once(range(20))


async def test_the_status_tells_what_waits_and_since_when(world: ReceiptWorld) -> None:
    nothing: Any = None
    reader = StatusReader(nothing, world.link, world.activity.stream, SHARDS)
    assert msgspec.to_builtins(await reader.receipts(now_us() // 1000)) == {
        "waiting_entries": 0, "oldest_ms": 0, "set_aside": 0, "unmatched": None,
    }  # fmt: skip
    await world.told(receipt(1))
    await world.told(receipt(2))
    told = await reader.receipts(now_us() // 1000 + 5000)
    assert (told.waiting_entries, told.set_aside) == (2, 0)
    assert 5000 <= told.oldest_ms < 15_000
    async with world.matching(limits=limits(again_s=60.0)) as matching:
        await until(lambda: _is(matching.counts.set_aside == 2))
    told = await reader.receipts(now_us() // 1000)
    assert (told.waiting_entries, told.oldest_ms, told.set_aside) == (0, 0, 2)


async def test_a_receipt_looked_up_again_waits_longer_each_time(world: ReceiptWorld) -> None:
    await world.told(receipt(1))
    async with world.matching(limits=limits(again_s=0.05, again_max_s=0.2)) as matching:
        await until(lambda: _is(matching.counts.set_aside >= 5))
    [shard] = [s for s in range(SHARDS) if await world.activity.redis.zcard(receipts_later_key(s))]
    [(member, due_at_us)] = await world.activity.redis.zrange(
        receipts_later_key(shard), 0, -1, withscores=True
    )
    [kept, tries] = msgspec.msgpack.decode(member)
    assert tries >= 5
    assert msgspec.convert(kept, Receipt).provider_message_id == receipt(1).provider_message_id
    assert due_at_us <= now_us() + 200_000


async def test_what_has_no_message_is_given_up_by_the_archivers_clock_and_kept_with_the_reason(
    world: ReceiptWorld,
) -> None:
    await world.sent(1, 2)
    await world.sent(3, provider_message_id="same")
    await world.sent(4, provider_message_id="SAME")
    old = {"at_us": now_us() - 20_000_000}
    lost = [
        receipt(99, **old),
        receipt(1, to="4915100000000", **old),
        receipt(3, provider_message_id="same", to="", **old),
        receipt(2, **old),
        receipt(98),
    ]
    redis, stuck = world.activity.redis, "activity:{0}"
    async with world.matching(limits=limits(give_up_s=10.0, lease_s=600.0)) as matching:
        await world.told(receipt(99, provider_message_id="zzz"))
        await until(lambda: _is(matching.counts.set_aside > 0))
        # The archiver stands still before they came: their messages may be on their way.
        await redis.delete(stuck)
        await redis.xadd(stuck, {b"b": b"\xdd\0\0\0\0"}, id=f"{old['at_us'] // 1000 - 1}-0")
        await world.told(*lost)
        set_aside = matching.counts.set_aside
        await until(lambda: _is(matching.counts.set_aside > set_aside + 20))
        assert (matching.counts.unknown, matching.counts.recipient, matching.counts.ambiguous) == (0, 0, 0)
        await redis.delete(stuck)

        async def only_the_young_wait() -> bool:
            return await world.waiting() == (0, 2)

        await until(only_the_young_wait)
        assert (matching.counts.unknown, matching.counts.recipient, matching.counts.ambiguous) == (1, 1, 1)
    assert await world.unmatched() == Counter(
        [
            (lost[0].provider_message_id, "unknown"),
            (lost[1].provider_message_id, "recipient"),
            ("same", "ambiguous"),
        ]
    )
    assert world.given_up == await world.unmatched()


@pytest.mark.parametrize(
    ("given", "told", "ids"),
    [
        ("0x00", "0X00", "auto"),
        ("00C0FFEE", "12648430", "auto"),
        ("12648430", "0c0ffee", "auto"),
        ("00C0FFEE", "12648430", "hex-to-decimal"),
        ("12648430", "00C0FFEE", "decimal-to-hex"),
        ("Ab-12", "aB-12", "same"),
    ],
)
async def test_ids_in_another_base_or_case_or_with_zeros_are_recognised(
    world: ReceiptWorld, given: str, told: str, ids: Any
) -> None:
    await world.sent(1, provider_message_id=given)
    await world.told(receipt(1, provider_message_id=told))
    await world.match_all(ids={"one": ids})
    await world.assert_delivered_once([1])


async def test_segments_are_told_one_by_one_and_the_message_is_delivered_with_the_last(
    world: ReceiptWorld,
) -> None:
    await world.sent(1, 2, 3, provider_message_id="", segments=3)
    for number in (1, 2, 3):
        await world.sent(
            number,
            provider_message_id=f"{number}A,{number}B,{number}C",
            segments=3,
            attempt=2,
            archived=False,
        )
    await world.archive()
    told = [receipt(n, provider_message_id=f"{n}{letter}") for n in (1, 2) for letter in "ab"]
    await world.told(*told, receipt(3, provider_message_id="3b"))
    await world.match_all("first")
    await world.told(*told, receipt(1, provider_message_id="1C"))
    await world.told(receipt(2, "undelivered", provider_message_id="2C"))
    await world.told(receipt(3, provider_message_id="", message_id=message_id(3)))
    await world.match_all("second")
    await world.told(
        *told, receipt(1, "undelivered", provider_message_id="1C"), receipt(2, provider_message_id="2c")
    )
    await world.match_all("third")
    events = [
        (1, "receipt", 1), (1, "receipt", 2), (1, "delivered", 0),
        (2, "receipt", 1), (2, "receipt", 2), (2, "undelivered", 0), (2, "delivered", 0),
        (3, "receipt", 2), (3, "delivered", 0),
    ]  # fmt: skip
    assert await world.recorded() == Counter((message_id(n), event, segment) for n, event, segment in events)


async def test_segments_that_share_an_id_or_have_none_are_not_waited_for(world: ReceiptWorld) -> None:
    await world.sent(1, provider_message_id="1A,1A,1A", segments=3)
    await world.sent(2, provider_message_id=",2B,", segments=3)
    await world.told(*(receipt(n, provider_message_id=given) for n, given in ((1, "1A"), (2, "2B"))))
    await world.match_all()
    await world.assert_delivered_once([1, 2])


async def test_where_receipts_are_about_messages_that_of_any_segment_counts(world: ReceiptWorld) -> None:
    for number in (1, 2):
        await world.sent(number, provider_message_id=f"{number}A,{number}B,{number}C", segments=3)
    await world.told(
        receipt(1, provider_message_id="1A"), receipt(2, "undelivered", provider_message_id="2C")
    )
    await world.match_all(per_message={"one"})
    events = [(1, "delivered"), (2, "undelivered")]
    assert await world.recorded() == Counter((message_id(n), event, 0) for n, event in events)


async def test_our_own_id_is_enough_also_for_an_attempt_that_was_never_answered(world: ReceiptWorld) -> None:
    await world.sent(1)
    await world.sent(2, provider_message_id="")
    await world.sent(3, event="expired", provider_message_id="", outcome_unknown=True)
    await world.sent(4, event="outcome_unknown", provider_message_id="", outcome_unknown=True, attempt=3)
    await world.sent(5, event="outcome_unknown_released", provider_message_id="", outcome_unknown=True)
    for number in (1, 2, 3, 4, 5):
        await world.told(receipt(number, provider_message_id="", message_id=message_id(number)))
    await world.match_all()
    await world.assert_delivered_once([1, 2, 3, 4, 5])


@pytest.mark.parametrize("point", [*POINTS, "finish:after"])
async def test_a_matcher_killed_at_any_step_loses_and_doubles_nothing(
    world: ReceiptWorld, point: str
) -> None:
    await world.sent(*range(40))
    await world.told_by_number(range(60))
    await world.told_by_number(range(20))
    async with process(world, "killed", point) as first:
        await first.says(f"at {point}")
        first.signal(signal.SIGKILL)
        await first.ended()
    # What was early for the one that was killed may not be so for the next.
    await world.sent(*range(40, 60), archived=False)
    await world.told_by_number(range(30))
    await world.match_all()
    await world.assert_delivered_once(range(60))


async def test_a_matcher_that_takes_over_waits_until_what_was_recorded_is_in_the_store(
    world: ReceiptWorld,
) -> None:
    await world.sent(*range(20))
    await world.told_by_number(range(20))
    async with process(world, "killed", "finish:before") as first:
        await first.says("at finish:before")
        first.signal(signal.SIGKILL)
        await first.ended()
    recorded = await world.activity.waiting()
    assert recorded > 0
    stream = Counting(world.stream)
    async with world.matching("second", stream=stream) as matching:
        # It has begun and asks again and again whether all is archived; nobody archives.
        await until(lambda: _is(stream.calls["archived_before"] >= 20))
        state = await world.activity.redis.hget(receipts_applied_key(SHARDS - 1), "0")
        assert bytes(state).startswith(b"second/")
        assert (matching.counts.matched, await world.activity.waiting()) == (0, recorded)
        async with world.archiving():
            await until(world.nothing_waits)
        assert (matching.counts.matched, matching.counts.recorded) == (20, 0)
    await world.archive()
    await world.assert_delivered_once(range(20))


@pytest.mark.parametrize("point", POINTS)
async def test_a_matcher_frozen_at_any_step_and_woken_after_the_take_over_does_no_harm(
    world: ReceiptWorld, point: str
) -> None:
    await world.sent(*range(40))
    await world.told_by_number(range(60))
    async with process(world, "frozen", point) as first:
        await first.says(f"at {point}")
        first.signal(signal.SIGSTOP)
        await world.sent(*range(40, 60), archived=False)
        await world.match_all("second")
        await world.told_by_number(range(60))
        async with world.archiving(), world.matching("third"):
            await until(world.nothing_waits)
            first.go_on()
            first.signal(signal.SIGCONT)
            await world.sent(*range(60, 80), archived=False)
            await world.told_by_number(range(40, 80))
            await until(world.nothing_waits)
        first.signal(signal.SIGTERM)
        assert await first.ended() == 0
    await world.match_all()
    await world.assert_delivered_once(range(80))


async def test_matchers_killed_again_and_again_under_load_lose_and_double_nothing(
    world: ReceiptWorld,
) -> None:
    rng = random.Random(20261122)
    stopping, count = asyncio.Event(), 0

    async def load() -> None:
        nonlocal count
        while not stopping.is_set():
            fresh = range(count, count + rng.randint(1, 20))
            count = fresh.stop
            # The receipt before its message now and then, and often twice.
            if rng.random() < 0.5:
                await world.told_by_number(fresh)
            await world.sent(*fresh, archived=False)
            await world.told_by_number(fresh)
            await asyncio.sleep(0.01)

    async with world.archiving(), asyncio.TaskGroup() as group:
        group.create_task(load())
        for i in range(6):
            async with process(world, f"p{i}", "none") as matcher:
                await matcher.says("active")
                await asyncio.sleep(rng.uniform(0.0, 0.4))
                matcher.signal(signal.SIGKILL)
                await matcher.ended()
        stopping.set()
    await world.match_all()
    await world.assert_delivered_once(range(count))


async def test_answers_that_are_lost_are_made_good(world: ReceiptWorld) -> None:
    """Each call takes effect, but its first answers never come."""
    lost = {f"{name}:after": 2 for name in ("lease", "begin", "read", "due", "filed", "record", "finish")}

    async def lose(here: str) -> None:
        if lost.get(here, 0):
            lost[here] -= 1
            raise Unavailable("the answer was lost")

    stream: Any = Gated(world.stream, lose)
    store: Any = Gated(world.store, lose)
    await world.sent(*range(30))
    await world.told_by_number(range(40))
    async with world.archiving(), world.matching(stream=stream, store=store):
        await until(lambda: _is(not any(lost.values())))
        await world.sent(*range(30, 40), archived=False)
        await world.told_by_number(range(40))
        await until(world.nothing_waits)
    await world.archive()
    await world.assert_delivered_once(range(40))


async def test_two_matchers_do_the_work_once_and_one_takes_over_all_when_the_other_is_drained(
    world: ReceiptWorld,
) -> None:
    async def owners() -> set[bytes | None]:
        locks = [receipts_lock_key(shard) for shard in range(SHARDS)]
        return set(await world.activity.redis.mget(locks))

    async def shared() -> bool:
        return await owners() == {b"a", b"b"}

    await world.sent(*range(20))
    async with world.archiving(), world.matching("b") as second:
        async with world.matching("a") as first:
            # Shards may change hands meanwhile, too: what one has recorded the other does not.
            await until(shared)
            await world.told_by_number(range(10))
            await until(world.nothing_waits)
            assert first.counts.recorded + second.counts.recorded == 10
        assert b"a" not in await owners(), "free at once"
        before = second.counts.recorded
        await world.told_by_number(range(20))
        await until(world.nothing_waits)
        assert second.counts.recorded == before + 10
    await world.archive()
    await world.assert_delivered_once(range(20))


async def test_redis_that_has_lost_everything_is_begun_anew(world: ReceiptWorld) -> None:
    await world.sent(*range(20))
    async with world.archiving(), world.matching():
        await world.told_by_number(range(10))
        await until(world.nothing_waits)
        await world.archive()
        await world.activity.redis.flushdb()
        await world.activity.redis.function_flush()
        await world.told_by_number(range(20))
        await until(world.nothing_waits)
    await world.archive()
    await world.assert_delivered_once(range(20))


async def test_a_store_that_is_killed_and_comes_back_gets_every_receipt_once(
    redis_url: str, tmp_path: Path
) -> None:
    server = start_clickhouse(tmp_path)
    try:
        async with new_receipt_world(redis_url, server.url) as world:
            async with world.archiving(), world.matching():
                for first in (0, 40):
                    await world.sent(*range(first, first + 20), archived=False)
                    await world.told_by_number(range(first, first + 40))
                    os.kill(server.pid, signal.SIGKILL)
                    await world.sent(*range(first + 20, first + 40), archived=False)
                    server.restart()
                    await until(world.nothing_waits, 40.0)
            await world.archive()
            await world.assert_delivered_once(range(80))
    finally:
        server.stop(10)


async def test_the_store_away_is_told_once_and_receipts_wait(
    world: ReceiptWorld, capsys: pytest.CaptureFixture[str]
) -> None:
    away = ClickHouseAttempts("http://u:p@127.0.0.1:1/db", timeout_s=1.0)
    await world.sent(*range(5))
    await world.told_by_number(range(5))
    before = await world.waiting()
    store = Counting(away)
    async with world.matching("first", store=store):
        await until(lambda: _is(store.calls["filed"] >= 4))
    assert await world.waiting() == before
    assert "".join(capsys.readouterr()).count("they wait in Redis") == 1
    await away.close()
    await world.match_all()
    await world.assert_delivered_once(range(5))


async def test_what_nobody_can_read_is_put_aside_and_stops_nothing(world: ReceiptWorld) -> None:
    await world.sent(1, 2)
    await world.told(receipt(1))
    await world.activity.redis.xadd(receipts_key(1), {b"b": b"junk"})
    await world.activity.redis.zadd(receipts_later_key(2), {b"junk": 1})
    await world.told(receipt(2))
    await world.match_all()
    await world.assert_delivered_once([1, 2])
    [(_, fields)] = await world.activity.redis.xrange(receipts_unreadable_key(1))
    assert fields[b"b"] == b"junk"


async def test_a_full_redis_is_emptied(world: ReceiptWorld) -> None:
    await world.sent(*range(10))
    await world.told_by_number(range(20))
    redis = world.activity.redis
    before = (await redis.config_get("maxmemory"))["maxmemory"]
    await redis.config_set("maxmemory", 1)
    try:
        refused = asyncio.get_running_loop().create_future()
        world.sink.put([receipt(1)], refused.set_result)
        assert not await refused, "the carrier is told to send it again"
        async with world.matching(limits=LASTING):

            async def set_aside() -> bool:
                return await world.waiting() == (0, 10)

            await until(set_aside)
    finally:
        await redis.config_set("maxmemory", before)
    await world.sent(*range(10, 20))
    await world.match_all()
    await world.assert_delivered_once(range(20))


# -- sent again


def kept(number: int, **changes: Any) -> Message:
    fields: dict[str, Any] = {
        "id": message_id(number), "organisation_id": 1000 + number % 5, "to": f"+98912{number:07}",
        "text": "1234", "sender": "ACME", "encoding": "GSM-7", "segments": 1, "units": 2,
        "accepted_at_us": now_us(), "expires_at_us": now_us() + 60_000_000, "attempts": 0,
    }  # fmt: skip
    return Message(**fields | changes)


async def due(world: ReceiptWorld) -> dict[str, Message]:
    found = {}
    for shard in range(SHARDS):
        for member in await world.activity.redis.zrange(due_key(shard, "normal"), 0, -1):
            message = msgspec.msgpack.decode(member, type=Message)
            assert home_of(message.organisation_id) == shard
            found[message.id] = message
    return found


@pytest.mark.parametrize("point", ["kept:after", "record:between", "record:after", "none"])
async def test_what_did_not_arrive_is_sent_again_once_when_its_route_says_so(
    world: ReceiptWorld, point: str
) -> None:
    messages = {n: kept(n) for n in range(20)}
    messages[18] = kept(18, expires_at_us=now_us() - 1)
    messages[19] = kept(19, tried=("one",))
    for number, message in messages.items():
        await world.sent(number, kept=msgspec.json.encode(message).decode(), archived=False)
    await world.sent(20, 21)
    await world.told_by_number(range(21), "undelivered")
    await world.told_by_number([21])
    if point != "none":
        async with process(world, "killed", point) as first:
            await first.says(f"at {point}")
            first.signal(signal.SIGKILL)
            await first.ended()
    await world.match_all()
    await world.told_by_number(range(21), "undelivered")
    await world.match_all("again")
    again = [*range(18)]
    assert await due(world) == {
        message_id(n): msgspec.structs.replace(messages[n], units=0, attempts=1, tried=("one",))
        for n in again
    }
    assert await world.recorded() == Counter(
        [(message_id(n), "retrying", 0) for n in again]
        + [(message_id(n), "undelivered", 0) for n in (18, 19, 20)]
        + [(message_id(21), "delivered", 0)]
    )
    # It may arrive after all.
    await world.told_by_number([3])
    await world.match_all("corrected")
    assert (await world.recorded())[message_id(3), "delivered", 0] == 1


async def _is(value: bool) -> bool:
    return value


def test_the_ids_of_these_tests_differ_as_carriers_ids_do() -> None:
    assert receipt(10).provider_message_id != carrier_id(10)
