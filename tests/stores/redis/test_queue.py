"""Whatever breaks between a worker and Redis, an entry is given out until settled, and settled once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from random import Random
from unittest.mock import ANY

import msgspec
import pytest
from structlog.testing import capture_logs

from engine.delivery.settlement import DELIVERIES_MAX, RetryPauses, after_verdict, before_sending, put_off
from engine.errors import Unavailable
from engine.records import Entry, Message, Settlement, Verdict
from engine.redis_keys import GROUP, due_key, holders_key, queue_key, wait_key
from engine.stores.redis.backlog import Backlog
from engine.stores.redis.lua_libraries import versioned
from engine.stores.redis.queue import QueueStreams
from tests.adversity.proxy import Proxy
from tests.stores.redis.kit import SHARDS, QueueKit, message, now_us

PAUSES = RetryPauses(first_us=1000, max_us=1000)


@pytest.fixture
async def kit(redis_url: str) -> AsyncIterator[QueueKit]:
    kit = QueueKit(redis_url)
    await kit.start()
    yield kit
    await kit.stop()


def settlements(entries: Sequence[Entry], kind: str = "accepted") -> list[Settlement]:
    verdict = Verdict(kind=kind, provider="p", provider_message_id="x1", code="0", latency_us=5)  # type: ignore[arg-type]
    return [after_verdict(entry, verdict, now_us(), PAUSES, Random(1)) for entry in entries]


def names(entries: Sequence[Entry]) -> list[str]:
    return sorted(entry.message.id for entry in entries)


async def read_all(reader: QueueStreams, count: int) -> list[Entry]:
    """Read until `count` have come."""
    entries: list[Entry] = []
    async with asyncio.timeout(60):
        while len(entries) < count:
            entries += await reader.read(count, 50)
    return entries


async def test_messages_of_all_shards_are_read_as_they_were_put(kit: QueueKit) -> None:
    reader = await kit.reader("w1")
    put = [message(f"m{n}", reference="ünï", attempts=n) for n in range(8)]
    for n, m in enumerate(put):
        await kit.put(n % SHARDS, m)
    entries = await read_all(reader, 8)
    assert sorted((e.message for e in entries), key=lambda m: m.id) == put
    assert {(e.shard, e.queue, e.deliveries) for e in entries} == {(s, "express", 1) for s in range(SHARDS)}


async def test_a_read_waits_for_the_first_entry_and_no_longer(kit: QueueKit) -> None:
    reader = await kit.reader("w1")
    assert await reader.read(10, 20) == []
    reading = asyncio.create_task(reader.read(10, 60_000))
    async with asyncio.timeout(60):
        while b"flags=b" not in await kit.link.call("CLIENT", "LIST"):  # noqa: ASYNC110 - Redis has no event for it
            await asyncio.sleep(0.005)
    await kit.put(2, message("late"))
    assert names(await reading) == ["late"]


@pytest.mark.parametrize("count", [1, 5, 40, 100])
async def test_a_read_gives_no_more_than_asked_for_and_one_a_shard(kit: QueueKit, count: int) -> None:
    reader = await kit.reader("w1")
    for shard in range(SHARDS):
        await kit.put(shard, *(message(f"{shard}.{n}") for n in range(150)))
    got = [len(await reader.read(count, 50)) for _ in range(4)]
    assert all(1 <= n <= count + SHARDS for n in got), got


async def test_one_busy_shard_gets_most_of_the_count_and_the_others_a_look(kit: QueueKit) -> None:
    reader = await kit.reader("w1")
    await kit.put(1, *(message(f"{n}") for n in range(400)))
    await kit.put(3, message("other"))
    first = await reader.read(100, 50)
    assert "other" in names(first)
    assert len(await reader.read(100, 50)) >= 70


async def test_what_comes_where_nobody_waits_is_given_before_what_is_read_of_a_backlog(kit: QueueKit) -> None:
    reader = await kit.reader("w1")
    await kit.put(1, *(message(f"{n}") for n in range(400)))
    await reader.read(40, 50)
    for shard in (0, 3):
        await kit.put(shard, message(f"light{shard}"))
    given = [entry.message.id for entry in await reader.read(40, 50)]
    assert given[:2] == ["light0", "light3"]
    assert len(given) > 20


@pytest.mark.parametrize("busy", [[], [2], [0, 5], list(range(16))])
@pytest.mark.parametrize("count", [1, 3, 16, 100, 1000])
def test_shares_ask_every_stream_and_stay_within_count_plus_shards(busy: list[int], count: int) -> None:
    backlog = Backlog()
    asked = backlog.shares(range(16), busy, {}, count)
    waited = backlog.waited()
    assert sorted([*waited, *(shard for of, _ in asked for shard in of)]) == list(range(16))
    assert all(share >= 1 for _, share in asked)
    assert sum(len(of) * share for of, share in asked) <= count + 16
    assert not waited or len(waited) + count >= len(busy)


@pytest.mark.parametrize("count", [1, 4, 12, 16, 20, 64, 1000])
def test_one_busy_shard_gets_three_quarters_also_of_few_entries(count: int) -> None:
    asked = {s: n for of, n in Backlog().shares(range(16), [3], {}, count) for s in of}
    assert asked[3] >= count * 3 / 4
    assert sorted(asked) == list(range(16))


@pytest.mark.parametrize("count", [4, 12, 40, 64, 1000])
def test_a_shard_where_nobody_waits_takes_no_share_of_one_where_somebody_does(count: int) -> None:
    backlog, size = Backlog(), 50
    for _ in range(3):
        asked = {s: n for of, n in backlog.shares(range(16), [3, 5, 9], {3: 10}, count) for s in of}
        assert asked[3] >= count / 2
        assert sum(asked.values()) <= count + 16
        assert sorted(asked) == list(range(16))
        assert asked[5] == asked[9] >= asked[0]
        # One message, in an entry of its own, and bundles.
        backlog.given({5: 1, 3: asked[3]}, {5: 1, 3: asked[3] * size})


@pytest.mark.parametrize("count", [1, 4, 60, 300])
def test_shards_share_by_the_weight_that_waits_in_each_in_segments(count: int) -> None:
    backlog, given = Backlog(), dict.fromkeys(range(4), 0)
    weights, sizes = {0: 10, 1: 10, 2: 40, 3: 5}, {0: 1, 1: 7, 2: 2, 3: 1}
    for _ in range(3000):
        asked = {s: n for of, n in backlog.shares(range(4), list(weights), weights, count) for s in of}
        segments = {shard: share * sizes[shard] for shard, share in asked.items()}
        backlog.given(asked, segments)
        for shard, of in segments.items():
            given[shard] += of
    shares = {shard: given[shard] / sum(given.values()) for shard in given}
    assert shares == pytest.approx({s: w / 65 for s, w in weights.items()}, abs=0.01)


def test_a_read_asks_for_all_that_it_is_to_give_also_where_shares_are_parts_of_entries() -> None:
    backlog = Backlog()
    for count in (5, 20, 11, 1, 16):
        asked = {s: n for of, n in backlog.shares(range(16), list(range(16)), {}, count) for s in of}
        assert sum(asked.values()) == count
        backlog.given(asked, asked)


def test_what_lies_ready_is_divided_among_the_shards_by_the_weight_that_waits_in_each() -> None:
    backlog = Backlog()
    assert backlog.ready_of(3, 64) == 64
    backlog.note([3], [40])
    # Alone, it has all; another has as much as if it were one of two.
    assert [backlog.ready_of(shard, 64) for shard in (3, 4)] == [64, 64]
    backlog.note(range(16), [10] * 16)
    assert {backlog.ready_of(shard, 64) for shard in range(16)} == {4}
    assert {backlog.ready_of(shard, 1) for shard in range(16)} == {1}
    # By parts of it, no less than these.
    backlog.note([3], [16])
    assert [backlog.ready_of(shard, 64) for shard in (2, 3)] == [4, 7]
    assert [backlog.ready_of(shard, 256) for shard in (2, 3)] == [16, 64]
    backlog.note([3], [10])
    # Of much, so that bundles are not small.
    assert {backlog.ready_of(shard, 1024) for shard in range(16)} == {128}
    assert {backlog.ready_of(shard, 512) for shard in range(16)} == {64}
    backlog.note(range(16), [0] * 16)
    assert backlog.ready_of(3, 64) == 64


def test_of_shards_that_share_no_more_is_read_than_lies_ready_in_proportion() -> None:
    backlog, weights = Backlog(), dict.fromkeys(range(8), 11) | dict.fromkeys(range(8, 16), 9)
    backlog.note(weights, weights.values())
    given = dict.fromkeys(weights, 0)
    for _ in range(200):
        shares = backlog.shares(range(16), list(weights), weights, 200, 32)
        asked = {s: n for of, n in shares for s in of}
        gave = {s: min(n, backlog.ready_of(s, 32)) for s, n in asked.items()}
        backlog.given(gave, gave)
        given = {s: given[s] + gave[s] for s in given}
    assert sum(given.values()) >= 200 * 31
    for shard, of in given.items():
        assert of / sum(given.values()) == pytest.approx(weights[shard] / 160, rel=0.01)


async def test_each_stream_is_told_its_part_of_what_shall_lie_ready(kit: QueueKit) -> None:
    reader = await kit.reader("w1")
    reader.ready_max = 32
    for shard in (0, 1):
        due = [msgspec.msgpack.encode(message(f"m{shard}-{n}", organisation_id=9)) for n in range(200)]
        await kit.link.call("ZADD", due_key(shard, kit.queue), *[part for one in due for part in (1, one)])
    # The two in which nothing waits are left alone.
    for marks in ([32, 32, 32, 32], [16, 16, 32, 32]):
        await reader.promote(5, 200)
        noted = await kit.link.batch(
            [("HGET", wait_key(shard, kit.queue), "mark") for shard in range(SHARDS)]
        )
        assert [int(mark) for mark in noted] == marks
    # What waits nowhere any more divides nothing.
    while await kit.waiting():
        entries = await reader.read(100, 10)
        await reader.settle(settlements(entries))
    await reader.promote(5, 200)
    noted = await kit.link.batch([("HGET", wait_key(shard, kit.queue), "mark") for shard in range(SHARDS)])
    assert [int(mark) for mark in noted] == [32] * SHARDS


@pytest.mark.parametrize("shards", [2, 16])
def test_a_shard_that_gives_little_does_not_keep_the_others_from_being_read(shards: int) -> None:
    backlog, count, others = Backlog(), 160, 0
    for _ in range(100):
        asked = {s: n for of, n in backlog.shares(range(shards), range(shards), {}, count) for s in of}
        others = sum(asked.values()) - asked[0]
        backlog.given({**asked, 0: 1}, {**asked, 0: 1})
    assert others >= count * (shards - 1) / shards / 2.5


def test_a_shard_that_had_too_little_ready_is_owed_it_as_long_as_somebody_waits_there() -> None:
    backlog, given = Backlog(), [0, 0]
    for turn in range(100):
        asked = {s: n for of, n in backlog.shares(range(2), [0, 1], {0: 10, 1: 20}, 60) for s in of}
        # Now and then the stream of the second one holds no more than that of the first.
        gave = {0: asked[0], 1: min(asked[1], 20 if turn % 4 == 0 else 60)}
        backlog.given(gave, gave)
        given = [given[shard] + gave[shard] for shard in range(2)]
    assert given[1] / given[0] == pytest.approx(2.0, abs=0.02)
    # Where nobody waits any more nothing is owed.
    backlog.shares(range(2), [1], {1: 20}, 60)
    assert {n for of, n in backlog.shares(range(2), [0, 1], {0: 10, 1: 10}, 60) for _ in of} == {30}


async def test_settling_again_counts_nothing(kit: QueueKit) -> None:
    reader = await kit.reader("w1")
    for shard in range(SHARDS):
        await kit.put(shard, message(f"a{shard}"), message(f"b{shard}", organisation_id=8, units=5))
    entries = await read_all(reader, 2 * SHARDS)
    assert await kit.held() == 7 * SHARDS
    settled = settlements(entries)
    assert await reader.settle(settled) == 2 * SHARDS
    assert await reader.settle(settled) == 0
    assert await kit.usage() == {7: (2 * SHARDS, 0), 8: (5 * SHARDS, 0)}
    assert await kit.held() == 0
    assert (await kit.waiting(), await kit.pending()) == (0, 0)
    rows = await kit.rows()
    assert sorted(row.message_id for row in rows) == names(entries)
    assert {(r.event, r.provider, r.provider_message_id, r.attempt) for r in rows} == {("sent", "p", "x1", 1)}


async def test_two_workers_settling_the_same_entry_book_it_once(kit: QueueKit) -> None:
    frozen, other = await kit.reader("w1"), await kit.reader("w2")
    await kit.put(0, message("m"))
    mine = await read_all(frozen, 1)
    theirs = await other.take_over(0, 10)
    assert names(theirs) == ["m"]
    assert await other.settle(settlements(theirs)) == 1
    assert await frozen.settle(settlements(mine, "permanent")) == 0
    assert await kit.usage() == {7: (2, 0)}
    assert [row.event for row in await kit.rows()] == ["sent"]


async def test_a_refund_releases_the_hold(kit: QueueKit) -> None:
    reader = await kit.reader("w1")
    await kit.put(0, message("m"))
    assert await reader.settle(settlements(await read_all(reader, 1), "permanent")) == 1
    assert await kit.usage() == {7: (0, 2)}
    assert await kit.held() == 0


async def test_a_retry_comes_back_when_due_with_one_attempt_more_and_its_hold(kit: QueueKit) -> None:
    reader = await kit.reader("w1")
    await kit.put(3, message("m"))
    (retry,) = settlements(await read_all(reader, 1), "temporary")
    assert await reader.settle([retry]) == 1
    assert await reader.settle([retry]) == 0
    assert await kit.due() == [(retry.due_at_us, retry.message)]
    assert await reader.promote(retry.due_at_us - 1, 10) == 0
    assert await reader.promote(retry.due_at_us, 10) == 1
    (again,) = await read_all(reader, 1)
    assert (again.message.id, again.message.attempts, again.deliveries) == ("m", 1, 1)
    assert await kit.held() == 2
    assert await kit.usage() == {}
    assert [row.event for row in await kit.rows()] == ["retrying"]


async def test_promote_moves_at_most_its_limit_a_shard(kit: QueueKit) -> None:
    reader = await kit.reader("w1")
    await kit.put(0, *(message(f"{n}") for n in range(10)))
    await reader.settle([put_off(entry, 5) for entry in await read_all(reader, 10)])
    assert [await reader.promote(5, 4) for _ in range(4)] == [4, 4, 2, 0]


async def test_entries_of_a_fenced_worker_are_taken_over_at_once(kit: QueueKit) -> None:
    dead, living = await kit.reader("w1"), await kit.reader("w2")
    for shard in range(SHARDS):
        await kit.put(shard, message(f"m{shard}"))
    await read_all(dead, SHARDS)
    assert await living.take_over(60_000, 100) == []
    await kit.fence("w1")
    taken = await living.take_over(60_000, 100)
    assert names(taken) == [f"m{shard}" for shard in range(SHARDS)]
    assert {entry.deliveries for entry in taken} == {2}
    assert await living.settle(settlements(taken)) == SHARDS
    # Once it has nothing left it is forgotten.
    await living.take_over(60_000, 100)
    consumers = await kit.link.call("XINFO", "CONSUMERS", queue_key(0, "express"), GROUP)
    assert [dict(zip(c[::2], c[1::2], strict=True))[b"name"] for c in consumers] == [b"w2"]


async def test_entries_of_a_frozen_worker_are_taken_over_after_the_idle_time(kit: QueueKit) -> None:
    frozen, living = await kit.reader("w1"), await kit.reader("w2")
    await kit.put(1, message("m"))
    await read_all(frozen, 1)
    assert await living.take_over(60_000, 100) == []
    taken: list[Entry] = []
    async with asyncio.timeout(60):
        while not taken:
            taken = await living.take_over(200, 100)
    assert names(taken) == ["m"]


@pytest.mark.parametrize("limit", [1, 10, 33])
async def test_take_over_keeps_to_its_limit_and_ends_with_all(kit: QueueKit, limit: int) -> None:
    dead, living = await kit.reader("w1"), await kit.reader("w2")
    await kit.put(0, *(message(f"a{n}") for n in range(40)))
    await kit.put(2, *(message(f"b{n}") for n in range(3)))
    await read_all(dead, 43)
    await kit.fence("w1")
    taken: list[Entry] = []
    for _ in range(100):
        some = await living.take_over(60_000, limit)
        assert len(some) <= limit + 2 * SHARDS
        taken += some
        if len(taken) == 43:
            break
    assert names(taken) == sorted([f"a{n}" for n in range(40)] + [f"b{n}" for n in range(3)])


async def test_entries_on_their_last_chance_pass_one_at_a_time_past_the_others(kit: QueueKit) -> None:
    await kit.reader("w0")
    await kit.put(0, *(message(f"s{n}") for n in range(30)))
    await kit.put(1, message("t"))
    for name in ("w1", "w2"):
        reader = await kit.reader(name)
        if name == "w1":
            await read_all(reader, 31)
        else:
            while await reader.take_over(60_000, 100):
                pass
        await kit.fence(name)
    fresh = await kit.reader("w3")
    await kit.put(0, message("young"))
    await read_all(fresh, 1)
    await kit.fence("w3")
    living = await kit.reader("w4")
    first = await living.take_over(60_000, 10)
    # The young one is not behind the thirty suspects, of which one alone was taken.
    assert sorted(entry.deliveries for entry in first) == [2, 3]
    assert "young" in names(first)
    assert await living.take_over(60_000, 10) == []
    await living.settle(settlements(first))
    seen = names(first)
    async with asyncio.timeout(60):
        while len(seen) < 32:
            some = await living.take_over(60_000, 10)
            assert len(some) == 1
            seen += names(some)
            await living.settle(settlements(some))
    assert sorted(seen) == sorted([f"s{n}" for n in range(30)] + ["t", "young"])


async def test_an_entry_that_cannot_be_read_waits_as_it_is_for_somebody_who_can(kit: QueueKit) -> None:
    reader = await kit.reader("w1")
    await kit.put_raw(2, b"\xc1 secret text")
    await kit.put(2, message("good"))
    with capture_logs() as logs:
        entries = await read_all(reader, 1)
    assert names(entries) == ["good"]
    assert await kit.dead() == []
    waiting, due_us = await kit.link.call("ZRANGE", due_key(2, kit.queue), 0, -1, "WITHSCORES")
    assert waiting == b"\xc1 secret text"
    assert int(due_us) > now_us()
    assert await kit.pending() == 1
    assert [line["log_level"] for line in logs] == ["error"]
    assert "secret" not in str(logs)
    await reader.settle(settlements(entries))
    assert [row.message_id for row in await kit.rows()] == ["good"]
    # Whoever reads it next tries again, and it is there again.
    assert await reader.promote(int(due_us), 10) == 1
    await kit.put(2, message("other"))
    assert names(await read_all(reader, 1)) == ["other"]
    assert await kit.link.call("ZRANGE", due_key(2, kit.queue), 0, -1) == [b"\xc1 secret text"]


async def test_fields_of_a_newer_version_outlive_a_retry_and_a_dead_letter(kit: QueueKit) -> None:
    reader = await kit.reader("w1")
    # Behind the time of a scheduled message, which this version knows.
    added = [now_us(), "more", {"of": [1, 2]}, None, b"\xff"]
    payloads = {}
    for name in ("again", "dead"):
        payloads[name] = [*msgspec.msgpack.decode(msgspec.msgpack.encode(message(name))), *added]
        await kit.put_raw(1, msgspec.msgpack.encode(payloads[name]))
    entries = await read_all(reader, 2)
    by_name = {entry.message.id: entry for entry in entries}
    verdict = Verdict(kind="temporary", provider="p")
    again = after_verdict(by_name["again"], verdict, now_us(), PAUSES, Random(1))
    outlived = msgspec.structs.replace(by_name["dead"], deliveries=DELIVERIES_MAX + 1)
    dead = before_sending(outlived, now_us())
    assert dead is not None
    assert await reader.settle([again, dead]) == 2
    [written] = await kit.link.call("ZRANGE", due_key(1, kit.queue), 0, -1)
    payloads["again"][Message.__struct_fields__.index("attempts")] = 1
    assert msgspec.msgpack.decode(written) == payloads["again"]
    assert [msgspec.msgpack.decode(payload) for payload in await kit.dead()] == [payloads["dead"]]


async def test_entries_whose_read_was_never_answered_are_found_again_uncounted(kit: QueueKit) -> None:
    async with Proxy.to(kit.url) as proxy:
        reader = await kit.reader("w1", url=proxy.url(kit.url))
        await kit.put(0, message("kept"))
        kept = await read_all(reader, 1)
        await kit.put(0, message("cut"))
        await kit.put(3, message("cut too"))
        proxy.truncate_after(30)
        with pytest.raises(Unavailable):
            await reader.read(100, 1000)
        assert await kit.pending() == 3
        found = await read_all(reader, 2)
        # What is in hand is not given out twice.
        assert names(found) == ["cut", "cut too"]
        assert {entry.deliveries for entry in found} == {1}
        assert await reader.settle(settlements([*kept, *found])) == 3
        assert await kit.pending() == 0


async def test_entries_whose_take_over_was_never_answered_are_found_again(kit: QueueKit) -> None:
    async with Proxy.to(kit.url) as proxy:
        dead = await kit.reader("w1")
        await kit.put(0, message("m"))
        await read_all(dead, 1)
        await kit.fence("w1")
        reader = await kit.reader("w2", url=proxy.url(kit.url), timeout_s=0.3)
        # The answers to the look at its own pending entries are empty: `*0` a shard.
        proxy.truncate_after(4 * SHARDS + 10)
        with pytest.raises(Unavailable):
            await reader.take_over(60_000, 10)
        found = await read_all(reader, 1)
        assert (names(found), found[0].deliveries) == (["m"], 2)


async def test_entries_given_to_a_dead_connection_are_found_by_the_sweep(kit: QueueKit) -> None:
    reader = await kit.reader("w1")
    await kit.put(0, message("m"))
    # As when Redis still serves a blocked read whose client has gone.
    await kit.link.call("XREADGROUP", "GROUP", GROUP, "w1", "STREAMS", queue_key(0, "express"), ">")
    assert names(await reader.take_over(0, 10)) == ["m"]
    assert await reader.take_over(0, 10) == []


async def test_dropped_entries_come_back_unless_another_has_taken_them(kit: QueueKit) -> None:
    reader, other = await kit.reader("w1"), await kit.reader("w2")
    await kit.put(0, message("mine"), message("theirs"))
    mine, theirs = sorted(await read_all(reader, 2), key=lambda entry: entry.message.id)
    await kit.link.call("XCLAIM", queue_key(0, "express"), GROUP, "w2", 0, theirs.entry_id, "JUSTID")
    reader.drop([mine, theirs])
    assert names(await reader.read(10, 50)) == ["mine"]
    assert await reader.read(10, 20) == []
    assert names(await other.take_over(0, 10)) == ["mine", "theirs"]


async def test_an_entry_taken_back_while_still_in_hand_is_not_given_out_twice(kit: QueueKit) -> None:
    reader, other = await kit.reader("w1"), await kit.reader("w2")
    await kit.put(0, message("m"))
    await read_all(reader, 1)
    assert names(await other.take_over(0, 10)) == ["m"]
    assert await reader.take_over(0, 10) == []


async def test_settling_through_an_outage_loses_and_doubles_nothing(kit: QueueKit) -> None:
    async with Proxy.to(kit.url) as proxy:
        reader = await kit.reader("w1", url=proxy.url(kit.url), timeout_s=0.5)
        for shard in range(SHARDS):
            await kit.put(shard, *(message(f"{shard}.{n}") for n in range(20)))
        settled = settlements(await read_all(reader, 20 * SHARDS))
        # Applied, but the answers are lost; then no connection at all.
        proxy.truncate_after(6)
        with pytest.raises(Unavailable):
            await reader.settle(settled)
        assert await kit.pending() == 0
        proxy.refuse()
        with pytest.raises(Unavailable):
            await reader.settle(settled)
        proxy.admit()
        assert await reader.settle(settled) == 0
        assert await kit.usage() == {7: (40 * SHARDS, 0)}
        assert len(await kit.rows()) == 20 * SHARDS


async def test_a_redis_that_lost_everything_is_made_ready_again(kit: QueueKit) -> None:
    reader = await kit.reader("w1")
    await kit.link.call("FLUSHDB")
    await kit.link.call("FUNCTION", "FLUSH")
    await kit.put(0, message("m"))
    # The first try finds no functions, and the second no groups.
    for _ in range(2):
        with pytest.raises(Unavailable):
            await reader.read(10, 50)
    assert await reader.promote(1, 10) == 0
    assert names(await read_all(reader, 1)) == ["m"]
    with capture_logs() as logs:
        await reader.beat()
    assert [line["event"] for line in logs] == ["worker was fenced, joining again"]
    assert await kit.link.call("HGETALL", holders_key(0)) == [b"w1", ANY]


async def test_a_beat_keeps_the_time_a_worker_was_last_seen(kit: QueueKit) -> None:
    reader = await kit.reader("w1")
    for s in range(SHARDS):
        await kit.link.call("HSET", holders_key(s), "w1", 77)
        assert await kit.link.call("FCALL", versioned("overdue"), 1, holders_key(s), 60_000) == [b"w1"]
    await reader.beat()
    for s in range(SHARDS):
        assert await kit.link.call("FCALL", versioned("overdue"), 1, holders_key(s), 60_000) == []
