"""How long a scheduled message took to be sent counts from when it was due, wherever that is shown."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator

import pytest

from engine.activity.blocks import block_of
from engine.activity.records import ActivityEntry
from engine.activity.reports import Group, Quantiles, ReportQuery
from engine.activity.row import row_of
from engine.credit.flush import Admitted, Flush
from engine.receipts.ports import Recording
from engine.records import ActivityRow, Addressed, Submission, due_at_us_of
from engine.redis_keys import generation_key
from engine.shards import shard_of
from engine.stores.clickhouse.reports import ClickHouseReports
from engine.stores.redis.admission import RedisAdmission
from engine.stores.redis.receipt_stream import RedisReceiptStream
from engine.stream_id import StreamId
from tests.activity.world import blob_of, new_world
from tests.delivery.carrier import Carrier
from tests.delivery.test_worker import settled, working
from tests.stores.redis.kit import SHARDS, QueueKit, message, now_us

SHARD = shard_of(7, SHARDS)
AHEAD_US, LATE_US = 3_600_000_000, 2_000_000
# Each is a report that is read from other counts: by the quarter of an hour, by the minute, from the rows.
GROUPS: tuple[tuple[Group, ...], ...] = (("queue",), ("minute",), ("reference",))


@pytest.fixture
async def kit(redis_url: str) -> AsyncIterator[QueueKit]:
    kit = QueueKit(redis_url)
    await kit.start()
    yield kit
    await kit.stop()


async def admit(kit: QueueKit, *addressed: Addressed) -> None:
    admission = RedisAdmission(kit.link, kit.link, SHARDS)
    await kit.link.call("SET", generation_key(SHARD), "g")
    epoch = (await admission.register("holder"))[SHARD]
    submission = Submission(organisation_id=7, messages=[*addressed], units=2 * len(addressed))
    answer = await admission.admit("holder", [Flush(SHARD, epoch, 1, [(0, submission)], [])], 5.0)
    assert answer == [Admitted(1, {})]


def scheduled(kit: QueueKit, count: int) -> list[Addressed]:
    """Messages that were accepted an hour before they were due, which was two seconds ago."""
    due_at_us = now_us() - LATE_US
    return [
        Addressed(
            queue=kit.queue, due_at_us=due_at_us,
            message=message(f"s{n}", accepted_at_us=due_at_us - AHEAD_US, reference="later"),
        )
        for n in range(count)
    ]  # fmt: skip


def sent(rows: list[ActivityRow]) -> list[ActivityRow]:
    return [row for row in rows if row.event == "sent"]


async def test_it_counts_from_when_it_was_due_in_the_histogram_and_in_every_report(
    kit: QueueKit, clickhouse_url: str
) -> None:
    addressed = scheduled(kit, 5)
    await admit(kit, *addressed, Addressed(queue=kit.queue, message=message("at once", reference="now")))
    # All are retried once, and some of them are together in an entry by then.
    first, second = Carrier("first", lambda _: "temporary"), Carrier("second")
    async with working(await kit.reader("w1"), first, second) as running:
        await settled(kit, 3 * 6)
        await running.drain()
    rows = await kit.rows()
    times = running.worker.times
    ages_us = {row.message_id: row.at_us - max(row.accepted_at_us, row.due_at_us) for row in sent(rows)}
    assert {row.message_id: row.due_at_us for row in sent(rows)} == {
        "at once": 0, **{of.message.id: of.due_at_us for of in addressed},
    }  # fmt: skip
    assert sum(times.counts) == 6
    assert times.sum_s == pytest.approx(sum(ages_us.values()) / 1e6)
    assert 5 * LATE_US / 1e6 <= times.sum_s < 60
    async with new_world(kit.url, clickhouse_url) as world:
        entry = ActivityEntry(shard=0, id=StreamId(1, 0), blob=blob_of(rows))
        await world.store.insert(block_of([entry])[0], "token")
        reader = ClickHouseReports(world.clickhouse_url)
        until_s = (int(time.time()) // 900 + 2) * 900
        for group_by in GROUPS:
            query = ReportQuery(from_s=until_s - 8 * 900, until_s=until_s, group_by=group_by)
            found = [r.sent_after_ms for r in (await reader.summary(query)).rows]
            # None for a group of which nothing was sent.
            longest = max(of.p99 for of in found if isinstance(of, Quantiles))
            assert longest == pytest.approx(max(ages_us.values()) / 1000, rel=0.01), group_by
        await reader.close()


async def test_it_keeps_its_time_when_it_is_sent_again_after_its_receipt(kit: QueueKit) -> None:
    [one] = scheduled(kit, 1)
    await admit(kit, one)
    reader = await kit.reader("w1")
    assert await reader.promote(now_us(), 10) == 1
    [entry] = await reader.read(10, 1000)
    assert due_at_us_of(entry.message) == one.due_at_us
    stream = RedisReceiptStream(kit.link, kit.link, SHARDS)
    await stream.begin("token", [SHARD])
    row = row_of(entry.message, "s0", kit.queue, "retrying", now_us(), provider_message_id="x")
    again = [(kit.queue, now_us(), entry.message)]
    await stream.record({SHARD: "token"}, 1, {SHARD: Recording([row], again, {SHARD})})
    assert await reader.promote(now_us(), 10) == 1
    [once_more] = await reader.read(10, 1000)
    assert once_more.message == entry.message
