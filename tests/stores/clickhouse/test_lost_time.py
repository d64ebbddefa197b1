"""What the events say of a lost time: every message that was charged in it, once, however old it is."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from engine.activity.blocks import block_of
from engine.activity.records import ActivityEntry
from engine.credit.rebuilding import Recorded
from engine.credit.uncharged import LostMessages
from engine.records import Event
from engine.stores.clickhouse.lost_time import LostTime
from engine.stream_id import StreamId
from tests.activity.world import T0, World, blob_of, make_row, new_world

DAY_MS = 86_400_000
# The lost time ends here.
NOW_MS = T0 // 1000
ORGANISATION = 1000


@pytest.fixture
async def world(redis_url: str, clickhouse_url: str) -> AsyncIterator[World]:
    async with new_world(redis_url, clickhouse_url) as world:
        yield world


Story = tuple[int, int, dict[Event, int], int]


async def record(world: World, *stories: Story) -> None:
    """Store events of messages of shard 0: number of the message, when it was accepted, its events with
    their times in the stream (milliseconds), the units that these have."""
    entries = []
    for message, accepted_ms, events, units in stories:
        for event, at_ms in events.items():
            row = make_row(
                0, message_id=f"m{message}", accepted_at_us=accepted_ms * 1000, at_us=at_ms * 1000,
                event=event, organisation_id=ORGANISATION, units=units,
            )  # fmt: skip
            entries.append(ActivityEntry(shard=0, id=StreamId(at_ms, message), blob=blob_of([row])))
    await world.store.insert(block_of(entries)[0], "one")


async def recorded(world: World, from_ms: int) -> Any:
    return await LostTime(world.store).recorded(0, from_ms, NOW_MS, 20)


async def test_a_message_that_was_scheduled_weeks_ahead_counts_in_the_time_in_which_it_was_sent(
    world: World,
) -> None:
    accepted_ms = NOW_MS - 37 * DAY_MS
    await record(world, (1, accepted_ms, {"scheduled": accepted_ms, "sent": NOW_MS - 1000}, 2))
    assert await recorded(world, NOW_MS - 5000) == {ORGANISATION: Recorded(2, 0, 1)}


async def test_all_counts_since_a_backup_in_which_the_shard_had_no_usage(world: World) -> None:
    times = [NOW_MS - age_days * DAY_MS for age_days in (1, 20, 100)]
    await record(world, *((n, ms, {"accepted": ms, "sent": ms + 5}, 2) for n, ms in enumerate(times)))
    assert await recorded(world, 0) == {ORGANISATION: Recorded(6, 0, 3)}


async def test_a_message_that_was_sent_again_after_a_receipt_counts_with_the_units_that_it_was_charged(
    world: World,
) -> None:
    since_ms = NOW_MS - 5000
    stories: list[Story] = []
    for n in range(20):
        stories.append((n, since_ms, {"accepted": since_ms + 1, "sent": since_ms + 2}, 3))
        # It is not charged again: these have no units.
        stories.append((n, since_ms, {"retrying": since_ms + 3, "sent": since_ms + 4}, 0))
    # One was charged before, and is only sent again in this time; the receipt tells its units.
    stories.append((50, since_ms - 99, {"sent": since_ms - 9, "undelivered": since_ms + 1}, 7))
    stories.append((50, since_ms - 99, {"sent": since_ms + 2}, 0))
    await record(world, *stories)
    found = await recorded(world, since_ms)
    assert (found[ORGANISATION].captured, found[ORGANISATION].released) == (60, 0)
    # Nor is it one that a loss of Redis has sent twice.
    lost = await LostTime(world.store).lost(0, since_ms, NOW_MS, 20)
    assert lost == {ORGANISATION: LostMessages(0, 0, 20, 60, 0)}


async def test_what_failed_and_what_has_not_ended_is_not_charged(world: World) -> None:
    since_ms = NOW_MS - 5000
    ends: list[tuple[Event, int]] = [
        ("failed", 2), ("outcome_unknown_released", 3), ("outcome_unknown", 5), ("retrying", 9)
    ]  # fmt: skip
    await record(
        world,
        *((n, since_ms, {"accepted": since_ms + 1, end: since_ms + 2}, u) for n, (end, u) in enumerate(ends)),
    )
    assert await recorded(world, since_ms) == {ORGANISATION: Recorded(5, 5, 1)}
