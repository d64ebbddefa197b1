"""What an event means is decided once: settlement, Redis, the audit and the history all follow the table."""

from __future__ import annotations

from collections.abc import AsyncIterator
from random import Random
from typing import get_args

import msgspec
import pytest

from engine.activity.blocks import block_of
from engine.activity.history import describe
from engine.activity.records import ActivityEntry
from engine.activity.row import row_of
from engine.credit.flush import Admitted, Flush
from engine.credit.laws import NO_UNITS, Units, units_by_event, units_of_usage
from engine.delivery.settlement import (
    DELIVERIES_MAX,
    RetryPauses,
    UnknownOutcomes,
    after_verdict,
    before_sending,
    unroutable,
)
from engine.lifecycle import (
    EVENTS,
    Charge,
    ChargeEffect,
    EntryEffect,
    MessageEvent,
    SettlementOutcome,
    outcome_of,
    status_after,
)
from engine.receipts.ports import Recording
from engine.records import ActivityRow, Addressed, Entry, Settlement, Submission, Verdict
from engine.redis_keys import generation_key, usage_key
from engine.shards import shard_of
from engine.stores.redis.admission import RedisAdmission
from engine.stores.redis.cancels import RedisCancels
from engine.stores.redis.receipt_stream import RedisReceiptStream
from engine.stores.redis.usage import usage_entry
from engine.stream_id import StreamId
from tests.activity.world import blob_of, make_row, new_world
from tests.stores.redis.kit import FAR_FUTURE_US, SHARDS, QueueKit, message, now_us

SHARD = shard_of(7, SHARDS)
UNITS = 2
CHARGES: dict[ChargeEffect, Charge] = {
    "holds": "held",
    "leaves": "held",
    "captures": "captured",
    "releases": "released",
}
# What each outcome is in terms of the table; the table says which event has which.
OUTCOMES: dict[SettlementOutcome, tuple[ChargeEffect, EntryEffect]] = {
    "captured": ("captures", "done"),
    "released": ("releases", "done"),
    "retry": ("leaves", "due"),
    "dead": ("leaves", "dead"),
}


@pytest.fixture
async def kit(redis_url: str) -> AsyncIterator[QueueKit]:
    kit = QueueKit(redis_url)
    await kit.start()
    yield kit
    await kit.stop()


def settlement_with(event: MessageEvent, entry: Entry) -> Settlement:
    """A settlement that the engine makes of `entry` in the situation that `event` stands for."""
    now = now_us()
    verdict = Verdict(kind="temporary", provider="p", code="1")
    if event == "dead":
        found = before_sending(msgspec.structs.replace(entry, deliveries=DELIVERIES_MAX + 1), now)
        assert found is not None
        return found
    if event == "expired":
        found = before_sending(entry, FAR_FUTURE_US)
        assert found is not None
        return found
    if event == "failed":
        return unroutable(entry, now)
    pauses = RetryPauses(first_us=1000, max_us=1000)
    if event in ("outcome_unknown", "outcome_unknown_released"):
        once = UnknownOutcomes(sends_max=1, charged=event == "outcome_unknown")
        verdict = msgspec.structs.replace(verdict, kind="unknown")
        return after_verdict(entry, verdict, now, pauses, Random(1), unknown=once)
    if event == "sent":
        verdict = msgspec.structs.replace(verdict, kind="accepted")
    return after_verdict(entry, verdict, now, pauses, Random(1))


async def admit(kit: QueueKit, due_at_us: int) -> None:
    admission = RedisAdmission(kit.link, kit.link, SHARDS)
    await kit.link.call("SET", generation_key(SHARD), "g")
    epoch = (await admission.register("holder"))[SHARD]
    addressed = Addressed(queue=kit.queue, message=message("m", units=UNITS), due_at_us=due_at_us)
    submission = Submission(organisation_id=7, messages=[addressed], units=UNITS)
    assert await admission.admit("holder", [Flush(SHARD, epoch, 1, [(0, submission)], [])], 5.0) == [
        Admitted(1, {})
    ]


async def record_receipt(kit: QueueKit, event: MessageEvent) -> None:
    stream = RedisReceiptStream(kit.link, kit.link, SHARDS)
    await stream.begin("token", [SHARD])
    row = row_of(message("m", units=UNITS), "m", kit.queue, event, now_us())
    await stream.record({SHARD: "token"}, 1, {SHARD: Recording([row], [], {SHARD})})


async def booked(kit: QueueKit) -> Units:
    """What Redis has told the ledger, units."""
    entries = [
        usage_entry(SHARD, entry_id, fields)
        for entry_id, fields in await kit.link.call("XRANGE", usage_key(SHARD), "-", "+")
    ]
    return units_of_usage(entries).get(7, NO_UNITS)


async def place(kit: QueueKit) -> EntryEffect:
    """Where the one message is."""
    found: list[EntryEffect] = ["stays"] * await kit.waiting()
    found += ["due"] * len(await kit.due())
    found += ["dead"] * len(await kit.dead())
    assert len(found) <= 1
    return found[0] if found else "done"


async def happen(kit: QueueKit, event: MessageEvent) -> list[ActivityRow]:
    """Let `event` happen to a message as it does in the engine; the rows that were recorded."""
    meaning = EVENTS[event]
    await admit(kit, FAR_FUTURE_US if event == "scheduled" else 0)
    if event == "canceled":
        [row] = await kit.rows()
        found = await RedisCancels(kit.link, SHARDS, now_us).cancel(
            kit.queue, row.organisation_id, row.message_id, row.message_id, 1,
            near=row.message_id, due_at_us=(), far=False,
        )  # fmt: skip
        assert found.canceled == {row.message_id}
    elif meaning.charge != "holds" and meaning.entry != "stays":
        reader = await kit.reader("worker")
        (entry,) = await reader.read(10, 1000)
        settlement = settlement_with(event, entry)
        assert OUTCOMES[settlement.outcome] == meaning[1:]
        assert await reader.settle([settlement]) == 1
    elif meaning.charge != "holds":
        await record_receipt(kit, event)
    return await kit.rows()


def test_the_table_names_every_event() -> None:
    assert set(EVENTS) == set(get_args(MessageEvent))


def test_every_event_holds_settles_or_changes_nothing() -> None:
    for event, meaning in EVENTS.items():
        if meaning.charge == "holds" or meaning == (meaning.status, "leaves", "stays"):
            with pytest.raises(ValueError, match=f'"{event}" settles no entry'):
                outcome_of(event)
        else:
            assert OUTCOMES[outcome_of(event)] == meaning[1:]


@pytest.mark.parametrize("event", get_args(MessageEvent))
async def test_settlement_redis_audit_and_history_agree_on_every_event(
    kit: QueueKit, event: MessageEvent
) -> None:
    meaning = EVENTS[event]
    rows = await happen(kit, event)
    assert rows[-1].event == event
    admitted = rows[0]
    # Redis: what is booked, what is held, and where the entry is.
    moved = units_by_event(event, UNITS)
    assert await booked(kit) == (UNITS, moved.captured, moved.released)
    assert await kit.held() == UNITS - moved.captured - moved.released
    assert await place(kit) == meaning.entry
    # The audit: the recorded events account for exactly that.
    counted = [units_by_event(row.event, row.units) for row in rows]
    assert tuple(map(sum, zip(*counted, strict=True))) == await booked(kit)
    # The history.
    view = describe(rows)
    assert view.charge == CHARGES[meaning.charge]
    assert admitted.event in ("accepted", "scheduled")
    assert view.status == status_after(EVENTS[admitted.event].status, event)
    assert describe(rows[-1:]).status == meaning.status


async def test_clickhouse_counts_every_event_as_the_table_says(redis_url: str, clickhouse_url: str) -> None:
    # Powers of two, so that each sum says which events are in it.
    rows = [make_row(n, organisation_id=7, event=event, units=1 << n) for n, event in enumerate(EVENTS)]
    counted = [units_by_event(row.event, row.units) for row in rows]
    async with new_world(redis_url, clickhouse_url) as world:
        entry = ActivityEntry(shard=0, id=StreamId(1, 0), blob=blob_of(rows))
        await world.store.insert(block_of([entry])[0], "token")
        units, count = await world.store.units_between(0, StreamId(0, 0), StreamId(2, 0), 5)
    assert count == len(EVENTS)
    assert units == {7: tuple(map(sum, zip(*counted, strict=True)))}
