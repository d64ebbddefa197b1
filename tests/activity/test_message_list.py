"""Lists of messages and batches, on a real stream and a real table."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from engine.activity.batches import Batches
from engine.activity.blocks import block_of
from engine.activity.message_list import MessageLists
from engine.activity.records import ActivityEntry, MessageFilter
from engine.batches import Batch, batch_from, batch_of
from engine.errors import Unavailable
from engine.ids import MessageIds
from engine.records import Event
from engine.redis_keys import activity_key
from engine.shards import shard_of
from engine.stores.clickhouse import message_list
from engine.stores.clickhouse.activity import ClickHouseActivityStore
from engine.stores.clickhouse.message_list import ClickHouseMessageList
from engine.stores.redis.archive_progress import RedisArchiveProgress
from engine.stream_id import StreamId
from tests.activity.world import SHARDS, T0, World, blob_of, make_row, new_world

ACME, OTHER = 1000, 1001
MINUTE_US = 60_000_000


class Listed:
    """What is archived, and what is asked for."""

    def __init__(self, world: World) -> None:
        self.world = world
        store = ClickHouseMessageList(world.store)
        progress = RedisArchiveProgress(world.stream._link, SHARDS)
        self.lists = MessageLists(store, progress, SHARDS, lambda: T0 + 100 * MINUTE_US)
        self.batches = Batches(progress, store, SHARDS)
        self.ids = MessageIds(3, 7)
        self.blocks = 0

    def rows(
        self, at_us: int, *stories: Sequence[Event], organisation: int = ACME, **fields: Any
    ) -> list[Any]:
        """The rows of messages that were accepted together, by the events of each."""
        names = self.ids.make(at_us // 1000, len(stories))
        return [
            make_row(
                0, message_id=name, organisation_id=organisation, accepted_at_us=at_us, at_us=at_us + n,
                event=event, units=2, **fields,
            )
            for name, events in zip(names, stories, strict=True)
            for n, event in enumerate(events)
        ]  # fmt: skip

    async def archive(self, rows: Sequence[Any]) -> list[str]:
        """Store rows; the ids of their messages, in order."""
        self.blocks += 1
        entry = ActivityEntry(shard=0, id=StreamId(T0 // 1000, self.blocks), blob=blob_of(list(rows)))
        await self.world.store.insert(block_of([entry])[0], f"block {self.blocks}")
        return list(dict.fromkeys(row.message_id for row in rows))

    async def page(self, limit: int = 100, before: str = "", organisation: int = ACME, **wanted: Any) -> Any:
        page = await self.lists.page(organisation, MessageFilter(**wanted), before, limit)
        return [m.id for m in page.messages], page.next

    async def all(self, limit: int, **wanted: Any) -> list[str]:
        """All pages."""
        found: list[str] = []
        page, before = await self.page(limit, **wanted)
        while True:
            found += page
            if before is None:
                return found
            page, before = await self.page(limit, before, **wanted)


@pytest.fixture
async def listed(redis_url: str, clickhouse_url: str) -> AsyncIterator[Listed]:
    async with new_world(redis_url, clickhouse_url) as world:
        yield Listed(world)


async def test_pages_are_newest_first_and_do_not_move_when_more_comes(listed: Listed) -> None:
    sent: tuple[Event, ...] = ("accepted", "sent")
    old = await listed.archive(listed.rows(T0, *[sent] * 5))
    new = await listed.archive(listed.rows(T0 + MINUTE_US, *[sent] * 5))
    await listed.archive(listed.rows(T0, sent, organisation=OTHER))
    first, cursor = await listed.page(4)
    assert first == new[:0:-1]
    await listed.archive(listed.rows(T0 + 2 * MINUTE_US, *[sent] * 5))
    second, cursor = await listed.page(4, cursor)
    assert second == [new[0], *old[:1:-1]]
    assert await listed.page(4, cursor) == (old[1::-1], None)
    # Of another organisation there is no more than its own.
    assert len((await listed.page(organisation=OTHER))[0]) == 1


async def test_each_filter_lets_its_own_messages_through(listed: Listed) -> None:
    stories: list[tuple[Event, ...]] = [
        ("accepted",), ("scheduled",), ("accepted", "sent"), ("accepted", "sent", "delivered"),
        ("accepted", "retrying", "failed"), ("scheduled", "canceled"),
    ]  # fmt: skip
    one = await listed.archive(listed.rows(T0, *stories, reference="campaign 'x'"))
    two = await listed.archive(listed.rows(T0 + MINUTE_US, *stories, queue="express", to="+15550001111"))
    for status, place in (("accepted", 0), ("scheduled", 1), ("sent", 2), ("delivered", 3), ("failed", 4),
                          ("canceled", 5)):  # fmt: skip
        assert await listed.all(1, status=status) == [two[place], one[place]], status
    assert await listed.all(4, reference="campaign 'x'") == one[::-1]
    assert await listed.all(4, to="+15550001111") == two[::-1]
    assert await listed.all(4, queue="express", status="sent") == [two[2]]
    assert await listed.all(4, since_us=T0 + 1) == two[::-1]
    assert await listed.all(4, until_us=T0 + MINUTE_US) == one[::-1]
    assert await listed.all(4, batch=batch_from(one[1], 1, 3)) == one[2::-1]


async def test_a_list_says_up_to_when_it_knows_everything(listed: Listed) -> None:
    page = await listed.lists.page(ACME, MessageFilter(), "", 10)
    assert page.as_of[:19] == "2026-11-22T10:05:58"
    key = activity_key(shard_of(ACME, SHARDS))
    await listed.world.redis.xadd(key, {b"b": blob_of(listed.rows(T0, ("accepted",)))}, id=f"{T0 // 1000}-0")
    page = await listed.lists.page(ACME, MessageFilter(), "", 10)
    # Two seconds before the oldest entry that is not archived.
    assert page.as_of[:19] == "2026-11-22T08:25:58"


async def test_a_list_that_takes_too_long_advises_a_shorter_time(
    listed: Listed, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = await listed.archive(listed.rows(T0, *[("accepted",)] * 8))
    monkeypatch.setattr(message_list, "_QUERY_S", 0.2)
    monkeypatch.setattr(message_list, "_PATIENCE_S", 60.0)
    slow = message_list._MATCHING + " AND sleepEachRow(0.1) = 0"
    monkeypatch.setattr(message_list, "_MATCHING", slow)
    with pytest.raises(Unavailable) as ended:
        await listed.page()
    assert ended.value.public == (
        "ClickHouse has ended a query that took too long;"
        " a list of a shorter time (`since`, `until`) is found faster."
    )
    with pytest.raises(Unavailable, match=r"that took too long\.$"):
        await listed.page(batch=batch_from(names[0], 0, 8))


async def test_a_list_without_clickhouse_says_that_it_is_away_and_advises_no_shorter_time(
    listed: Listed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(message_list, "_QUERY_S", 0.2)
    monkeypatch.setattr(message_list, "_PATIENCE_S", 0.2)
    with socket.socket() as away, socket.socket() as frozen:
        for one in (away, frozen):
            one.bind(("127.0.0.1", 0))
        # Connections are made, and nobody ever answers.
        frozen.listen()
        for server, sentence in (
            (away, "ClickHouse cannot be reached: nothing listens there."),
            (frozen, "ClickHouse gives no answer within 0.4 s."),
        ):
            store = ClickHouseActivityStore(f"http://127.0.0.1:{server.getsockname()[1]}")
            lists = MessageLists(ClickHouseMessageList(store), listed.lists._progress, SHARDS, lambda: T0)
            with pytest.raises(Unavailable) as failed:
                await lists.page(ACME, MessageFilter(), "", 10)
            assert failed.value.public == sentence
            assert failed.value.retry_after >= 1
            await store.close()


@pytest.mark.parametrize("archived", [True, False])
async def test_a_batch_tells_how_far_it_is_before_and_after_it_is_archived(
    listed: Listed, archived: bool
) -> None:
    rows = listed.rows(T0, ("accepted",), ("accepted", "sent"), ("accepted", "expired"))
    key = activity_key(shard_of(ACME, SHARDS))
    await listed.world.redis.xadd(key, {b"b": blob_of(rows)}, id=f"{T0 // 1000}-0")
    if archived:
        await listed.archive(rows)
    names = list(dict.fromkeys(row.message_id for row in rows))
    batch = batch_from(names[1], 1, 5)
    assert batch_of(batch.id) == batch
    progress = await listed.batches.progress(ACME, batch)
    assert progress is not None
    assert (progress.messages, progress.statuses) == (3, {"accepted": 1, "sent": 1, "expired": 1})
    assert (progress.units, progress.over) == ({"held": 2, "captured": 2, "released": 2}, False)
    assert await listed.batches.progress(OTHER, batch) is None
    assert await listed.batches.progress(ACME, batch_from(names[2], 0, 1)) is not None


def test_what_is_no_id_of_a_batch_is_none() -> None:
    good = Batch("01a202a3-c111-7fd3-92d4-ffffffffffff", "01a202a3-c111-7fd3-92d4-ffffffffffff", 1)
    assert batch_of(good.id) == good
    for text in (
        "",
        good.first,
        good.id[:-1] + "0",
        good.id[:-1] + "2",
        good.id[:-1] + "1001",
        good.id + "\n",
    ):
        assert batch_of(text) is None
