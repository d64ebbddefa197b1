"""Messages that are put off in a real Redis: in lists of their own, with turns, counted and found."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Sequence
from random import Random
from typing import Any

import msgspec
import pytest

from engine import redis_keys as keys
from engine.activity.records import CampaignPlace
from engine.credit.flush import Flush
from engine.delivery.ports import Recall
from engine.delivery.settlement import RetryPauses, after_verdict, put_back, put_off_in
from engine.limits.records import LimitRow, ShardLimits
from engine.organisations import Limits
from engine.records import Addressed, Entry, Message, Submission, Verdict
from engine.shards import shard_of
from engine.stores.redis import admit_wire
from engine.stores.redis import queue_wire as wire
from engine.stores.redis.cancels import RedisCancels
from engine.stores.redis.limits import RedisLimits
from engine.stores.redis.lua_libraries import versioned
from engine.stores.redis.queue import QueueStreams
from engine.stores.redis.waiting import waiting
from tests.stores.redis.kit import SHARDS, QueueKit, message, now_us

SHARD = shard_of(7, SHARDS)
WAY = "3 slow,other"
PAUSES = RetryPauses(first_us=1000, max_us=1000)


class PutOffKit(QueueKit):
    """What waits put off in one shard."""

    queue = "normal"

    async def put_off(self, reader: QueueStreams, *messages: Message, way: str = WAY) -> list[Entry]:
        """Put messages on the queue, read them, and put them off."""
        await self.put(SHARD, *messages)
        entries = await self.read(reader, len(messages))
        assert await reader.settle([put_off_in(entry, way) for entry in entries]) == len(messages)
        return entries

    async def read(self, reader: QueueStreams, count: int) -> list[Entry]:
        found: list[Entry] = []
        while len(found) < count and (more := await reader.read(count, 50)):
            found += more
        return found

    async def recalled(
        self, reader: QueueStreams, count: int, segments: int = 1 << 30, way: str = ""
    ) -> list[Entry]:
        """What a recall brings of a way, or of each, as it is read."""
        await reader.promote(0, 10)
        waiting = [of for of in reader.put_off.waiting if way in ("", of.way)]
        asks = [Recall(of.shard, of.number, of.way, count, segments) for of in waiting]
        moved = sum(messages for messages, _ in await reader.put_off.recall(asks))
        return await self.read(reader, moved)

    async def fields(self) -> dict[bytes, bytes]:
        flat = await self.link.call("HGETALL", keys.wait_key(SHARD, "normal"))
        return dict(zip(flat[::2], flat[1::2], strict=True))

    async def turns(self) -> list[bytes]:
        found: list[bytes] = await self.link.call("ZRANGE", keys.ways_key(SHARD, "normal"), 0, -1)
        return [turn[10:] for turn in found]

    async def backlog(self) -> Any:
        touched = (
            *keys.line_keys(SHARD, "normal"), keys.limits_key(SHARD), keys.ways_key(SHARD, "normal"),
        )  # fmt: skip
        return await self.link.call("FCALL_RO", versioned("backlog"), len(touched), *touched, 100)

    async def limit(self, *rows: LimitRow) -> None:
        limits = RedisLimits(self.link, SHARDS, lambda _: SHARD)
        known = (await limits.in_force())[SHARD].version
        await limits.put([ShardLimits(SHARD, known, known + "x", True, list(rows))])


@pytest.fixture
async def kit(redis_url: str) -> AsyncIterator[PutOffKit]:
    kit = PutOffKit(redis_url)
    await kit.start()
    yield kit
    await kit.stop()


def of(organisation_id: int, count: int, first: int = 0, **changes: Any) -> list[Message]:
    """Messages of one segment."""
    return [
        message(f"{organisation_id}-{first + n:05}", organisation_id=organisation_id, segments=1, **changes)
        for n in range(count)
    ]


def ids(entries: Sequence[Entry]) -> list[str]:
    return [entry.message.id for entry in entries]


async def test_what_is_put_off_comes_back_in_order_and_says_what_it_waited_for(kit: PutOffKit) -> None:
    reader = await kit.reader("w")
    await kit.put_off(reader, *of(7, 300))
    assert (await kit.waiting(), await kit.due(), await kit.pending()) == (0, [], 0)
    found = await kit.recalled(reader, 100)
    assert ids(found) == [f"7-{n:05}" for n in range(100)]
    assert {(entry.way, entry.deliveries) for entry in found} == {(WAY, 1)}
    # Nobody had room for ten of them: they are in front of the others again.
    await reader.settle([put_off_in(entry, WAY) for entry in found[90:]])
    assert ids(await kit.recalled(reader, 256)) == [f"7-{n:05}" for n in range(90, 300)]


async def test_organisations_share_what_is_recalled_by_their_weights_and_who_comes_later_is_served_now(
    kit: PutOffKit,
) -> None:
    reader = await kit.reader("w")
    await kit.limit(LimitRow(8, Limits(weight=2.0), paused=False))
    await kit.put_off(reader, *of(7, 100), *of(8, 100))
    found = await kit.recalled(reader, 60)
    assert Counter(entry.message.organisation_id for entry in found) == {7: 20, 8: 40}
    await kit.put_off(reader, *of(9, 1))
    assert 9 in {entry.message.organisation_id for entry in await kit.recalled(reader, 4)}


async def test_who_comes_in_small_portions_gets_no_more_than_its_share(kit: PutOffKit) -> None:
    reader = await kit.reader("w")
    await kit.put_off(reader, *of(7, 200))
    found: Counter[int] = Counter()
    for n in range(50):
        await kit.put_off(reader, *of(8, 2, 2 * n))
        found.update(entry.message.organisation_id for entry in await kit.recalled(reader, 2))
    assert found[7] == pytest.approx(50, abs=2)


async def test_a_way_of_which_nothing_is_left_leaves_nothing_behind(kit: PutOffKit) -> None:
    reader = await kit.reader("w")
    await kit.put_off(reader, *of(7, 20), *of(8, 3), *of(9, 1))
    await kit.put_off(reader, *of(7, 2), way="3 other")
    await reader.promote(0, 10)
    while reader.put_off.waiting:
        await kit.recalled(reader, 5)
    assert set(await kit.fields()) <= {b"mark", b"moment", b"number", b"run", b"bundled"}
    assert await kit.turns() == []


async def test_a_recall_takes_no_more_segments_than_it_asks_for(kit: PutOffKit) -> None:
    reader = await kit.reader("w")
    await kit.put_off(reader, *[message(f"{n:03}", segments=3) for n in range(20)])
    assert len(await kit.recalled(reader, 20, 7)) == 3


async def test_a_paused_organisation_stays_where_it_is_and_goes_on_in_its_turn(kit: PutOffKit) -> None:
    reader = await kit.reader("w")
    await kit.put_off(reader, *of(7, 10), *of(8, 10))
    await kit.limit(LimitRow(7, Limits(), paused=True))
    assert {entry.message.organisation_id for entry in await kit.recalled(reader, 20)} == {8}
    await kit.put_off(reader, *of(7, 1, 10))
    assert await kit.recalled(reader, 20) == []
    assert [of.weight for of in reader.put_off.waiting] == [0]
    row = (await kit.backlog())[3][0]
    assert (row[0], row[1], row[6], row[7]) == (7, 11, 1, 11)
    await kit.limit()
    assert ids(await kit.recalled(reader, 20)) == [f"7-{n:05}" for n in range(11)]


async def test_what_is_put_off_is_counted_by_organisation_with_what_waits_behind_the_stream(
    kit: PutOffKit,
) -> None:
    reader = await kit.reader("w")
    oldest = now_us() - 60_000_000
    await kit.put_off(reader, *of(7, 30, accepted_at_us=oldest), *of(8, 5))
    assert await waiting(kit.link, ["normal"], SHARDS) == {"normal": 0}
    messages, _, _, rows, _, _, put_off, *_ = await kit.backlog()
    assert (messages, put_off) == (35, 35)
    assert sorted((row[0], row[1], row[2], row[7]) for row in rows) == [(7, 30, 30, 30), (8, 5, 5, 5)]
    assert {row[3] for row in rows if row[0] == 7} == {oldest}
    limits = RedisLimits(kit.link, SHARDS, lambda _: SHARD)
    assert [backlog.messages for backlog in await limits.backlogs([7, 8, 9])] == [30, 5, 0]
    # Of what is recalled, and not put off again, it is said when the rest will have left.
    found = await kit.recalled(reader, 20)
    await reader.settle([put_off_in(entry, WAY) for entry in found[15:]])
    assert [(row[0], row[1], row[4]) for row in (await kit.backlog())[3]] == [(7, 20, 10)]


async def test_what_another_plan_puts_off_elsewhere_has_not_left_and_hides_nothing_that_does(
    kit: PutOffKit,
) -> None:
    reader = await kit.reader("w")
    await kit.put_off(reader, *of(7, 30), *of(8, 30))
    # As after a change of the plan: all of a way is recalled, a little at a time, and goes to another one.
    for _ in range(6):
        found = await kit.recalled(reader, 10, way=WAY)
        assert {entry.way for entry in found} == {WAY}
        await reader.settle([put_off_in(entry, "4 other") for entry in found])
        assert [row[4] for row in (await kit.backlog())[3]] == [0, 0]
        assert (await kit.backlog())[2] == 0
    await kit.recalled(reader, 1, way=WAY)
    ways = (await kit.fields())[b"ways"]
    assert b"4 other" in ways
    assert WAY.encode() not in ways
    await kit.recalled(reader, 20, way="4 other")
    assert sorted((row[0], row[1], row[4]) for row in (await kit.backlog())[3]) == [(7, 20, 10), (8, 20, 10)]
    assert (await kit.backlog())[2] == 20


async def test_what_left_lately_is_known_when_all_that_waits_has_gone_to_another_way(kit: PutOffKit) -> None:
    reader = await kit.reader("w")
    await kit.put_off(reader, *of(7, 40), *of(8, 40))
    await sent(reader, await kit.recalled(reader, 20))
    while found := await kit.recalled(reader, 8, way=WAY):
        await reader.settle([put_off_in(entry, "4 other") for entry in found])
        assert await left(kit) == {7: 10, 8: 10}
    assert WAY.encode() not in (await kit.fields())[b"ways"]
    assert (await kit.backlog())[2] == 20
    # The first way had them from turns: what was put off of these has not left.
    await sent(reader, await kit.recalled(reader, 10))
    assert await left(kit) == {7: 15, 8: 15}


async def test_what_is_between_two_plans_has_not_left_until_it_is_sent(kit: PutOffKit) -> None:
    reader = await kit.reader("w")
    await kit.put_off(reader, *of(7, 40), *of(8, 2))
    await sent(reader, await kit.recalled(reader, 4))
    assert await left(kit) == {7: 2}
    # By another plan; half of it lies ready in bundles, and half is in the hand of a worker.
    await reader.promote(0, 10)
    asks = [Recall(of.shard, of.number, of.way, 20, 1 << 30, 4) for of in reader.put_off.waiting]
    assert await reader.put_off.recall(asks) == [(20, 20)]
    found = await kit.read(reader, 10)
    assert await left(kit) == {7: 2}
    await sent(reader, found[:4])
    await reader.settle([put_off_in(entry, "4 other") for entry in found[4:]])
    assert await left(kit) == {7: 6}
    assert (await kit.backlog())[2] == 8


async def test_what_comes_back_when_its_way_is_over_is_counted_where_that_was_handed_on(
    kit: PutOffKit,
) -> None:
    reader = await kit.reader("w")
    await kit.put_off(reader, *of(7, 30))
    first = await kit.recalled(reader, 10, way=WAY)
    await reader.settle([put_off_in(entry, "4 other") for entry in first[:1]])
    await sent(reader, first[1:5])
    rest = await kit.recalled(reader, 30, way=WAY)
    await kit.recalled(reader, 1, way=WAY)
    assert WAY.encode() not in (await kit.fields())[b"ways"]
    await reader.settle([put_off_in(entry, "4 other") for entry in (*first[5:], *rest)])
    assert await left(kit) == {7: 4}
    assert (await kit.backlog())[2] == 4


@pytest.mark.parametrize("others", [0, 40])
async def test_what_turns_moved_and_nobody_put_off_has_left_also_when_its_list_is_over(
    kit: PutOffKit, others: int
) -> None:
    reader = await kit.reader("w")
    # With others the line goes on when the list of 7 is over.
    await let_in(kit, reader, *of(9, 8), *of(7, 20), *of(8, others))
    own = 0
    while own < 20:
        (entry,) = await kit.read(reader, 1)
        own += entry.message.organisation_id == 7
        if entry.message.organisation_id == 7 and own % 2:
            await reader.settle([put_off_in(entry, WAY)])
        else:
            await sent(reader, [entry])
    waiting = (await kit.backlog())[6]
    assert waiting == 10
    assert b"7" not in await kit.fields()
    # All of 7 but what was there before a turn.
    assert (await left(kit))[7] in (9, 10)
    # Of the line, that of 9 too, which waits no more.
    assert sum((await left(kit)).values()) <= (await kit.backlog())[2] <= sum((await left(kit)).values()) + 8


@pytest.mark.parametrize("way", [WAY, "4 other"])
async def test_what_turns_moved_and_was_put_off_by_a_plan_that_is_over_has_not_left(
    kit: PutOffKit, way: str
) -> None:
    reader = await kit.reader("w")
    await let_in(kit, reader, *of(7, 60))
    first = await kit.read(reader, 8)
    await sent(reader, first)
    while (await kit.backlog())[6] < 24:
        await reader.settle([put_off_in(entry, WAY) for entry in await kit.read(reader, 1)])
    recalled, kept = 0, 5
    await reader.promote(0, 10)
    asks = [Recall(of.shard, of.number, of.way, 100, 1 << 30) for of in reader.put_off.waiting]
    ((moved, _),) = await reader.put_off.recall(asks)
    found: list[Entry] = []
    while sum(entry.way == WAY for entry in found) < moved:
        found += await kit.read(reader, 1)
    for entry in found:
        recalled += entry.way == WAY
        if entry.way == WAY and recalled <= kept:
            await sent(reader, [entry])
        else:
            await reader.settle([put_off_in(entry, way)])
    asks = [Recall(of.shard, of.number, of.way, 0, 1 << 30) for of in asks]
    await reader.put_off.recall(asks)
    assert (WAY.encode() in (await kit.fields())[b"ways"]) == (way == WAY)
    assert b"7" in await kit.fields()
    # What lies ready has left its list too; the first ones were in none.
    told = await kit.backlog()
    most = len(first) + kept + told[5]
    assert most - 5 <= (await left(kit))[7] <= most
    assert most - 5 <= told[2] <= most


async def test_what_is_left_behind_the_stream_keeps_what_left_when_nothing_is_put_off_any_more(
    kit: PutOffKit,
) -> None:
    reader = await kit.reader("w")
    await let_in(kit, reader, *of(7, 60))
    while (await kit.backlog())[6] < 24:
        await reader.settle([put_off_in(entry, WAY) for entry in await kit.read(reader, 1)])
    await sent(reader, [entry for entry in await kit.recalled(reader, 100, way=WAY) if entry.way])
    before = (await left(kit))[7], (await kit.backlog())[2]
    await kit.recalled(reader, 1, way=WAY)
    assert b"ways" not in await kit.fields()
    assert ((await left(kit))[7], (await kit.backlog())[2]) == before
    assert 24 <= before[0] <= 24 + 4 + 1


async def test_what_a_worker_gives_back_has_not_left(kit: PutOffKit) -> None:
    reader = await kit.reader("w")
    # That of 9 fills the ready stream, so all of 7 has waited.
    await let_in(kit, reader, *of(9, 8), *of(7, 30))
    given_back = 0
    for _ in range(6):
        own = [entry for entry in await kit.read(reader, 4) if entry.message.organisation_id == 7]
        await reader.settle([put_back(entry) for entry in own])
        given_back += len(own)
        assert await waiting_and_left(kit, 7) == 30
        # One is sent, and the others are put off.
        found = await kit.read(reader, 4)
        await sent(reader, found[:1])
        await reader.settle([put_off_in(entry, WAY) for entry in found[1:]])
        assert await waiting_and_left(kit, 7) == 30
    assert given_back > 20


async def test_what_is_given_back_when_its_list_is_over_has_not_left(kit: PutOffKit) -> None:
    reader = await kit.reader("w")
    await let_in(kit, reader, *of(9, 8), *of(7, 12))
    in_hand: list[Entry] = []
    while b"7" in await kit.fields():
        found = await kit.read(reader, 2)
        in_hand += [entry for entry in found if entry.message.organisation_id == 7][:1]
        rest = [entry for entry in found if entry not in in_hand]
        await reader.settle([put_off_in(entry, WAY) for entry in rest])
    assert len(in_hand) > 2
    for _ in range(3):
        await reader.settle([put_back(entry) for entry in in_hand])
        assert await waiting_and_left(kit, 7) == 12
        in_hand = await kit.read(reader, 4)
    await sent(reader, in_hand)
    assert await waiting_and_left(kit, 7) == 12


async def waiting_and_left(kit: PutOffKit, organisation: int) -> int:
    """The segments of an organisation that wait, and those that left its backlog lately."""
    (row,) = [row for row in (await kit.backlog())[3] if row[0] == organisation]
    return int(row[2] + row[4])


async def let_in(kit: PutOffKit, reader: QueueStreams, *messages: Message) -> None:
    """Let messages into a line whose ready stream holds four."""
    reader.ready_max = 4
    await reader.promote(0, 10)
    packer = msgspec.msgpack.Encoder().encode
    due = [x for n, m in enumerate(messages) for x in (100 + n, packer(m))]
    await kit.link.call("ZADD", keys.due_key(SHARD, "normal"), *due)
    await reader.promote(100 + len(messages), len(messages))


async def sent(reader: QueueStreams, entries: Sequence[Entry]) -> None:
    """As a provider has taken them."""
    accepted = Verdict(kind="accepted", provider="other", provider_message_id="x")
    found = [after_verdict(entry, accepted, now_us(), PAUSES, Random(1)) for entry in entries]
    assert await reader.settle(found) == len(entries)


async def left(kit: PutOffKit) -> dict[int, int]:
    """The segments that left backlogs lately, by organisation."""
    return {row[0]: row[4] for row in (await kit.backlog())[3]}


async def test_what_is_tried_and_put_off_hides_nothing_that_leaves(kit: PutOffKit) -> None:
    reader = await kit.reader("w")
    await kit.put_off(reader, *of(7, 30, attempts=1))
    await kit.recalled(reader, 10)
    assert [(row[1], row[4]) for row in (await kit.backlog())[3]] == [(20, 10)]


async def test_the_audit_counts_what_is_put_off(kit: PutOffKit) -> None:
    reader = await kit.reader("w")
    await kit.put_off(reader, *of(7, 30), *of(8, 5))
    places = [
        of(SHARD, q)
        for of in (keys.queue_key, keys.due_key, keys.dead_key, keys.wait_key)
        for q in ("express", "normal")
    ]
    touched = (*places, keys.activity_key(SHARD), keys.usage_key(SHARD), keys.usage_head_key(SHARD))
    reply = await kit.link.call(
        "FCALL",
        versioned("cut"),
        12,
        *touched,
        keys.held_key(SHARD),
        "0-0",
        "",
        1000,
        1000,
        1000,
    )
    assert reply[3:5] == [35, 70]


async def test_what_is_put_off_expires_where_it_lies(kit: PutOffKit) -> None:
    reader = await kit.reader("w")
    soon = now_us() + 50_000
    await kit.put_off(reader, *of(7, 3), *of(8, 2, expires_at_us=soon), *of(7, 3, 3, expires_at_us=soon))
    while now_us() < soon:
        pass
    # A look goes through a few chunks only.
    while await reader.promote(0, 10) or sum(of.messages for of in reader.put_off.waiting) > 3:
        found = await reader.unread.look(100)
    found = await reader.unread.look(100)
    assert sorted(ids(found)) == ["7-00003", "7-00004", "7-00005", "8-00000", "8-00001"]
    assert ids(await kit.read(reader, 5)) == ids(found)
    assert ids(await kit.recalled(reader, 10)) == ["7-00000", "7-00001", "7-00002"]


@pytest.mark.parametrize("count", [1, 40, 3000])
async def test_a_message_that_is_put_off_is_canceled_in_one_step(kit: PutOffKit, count: int) -> None:
    reader = await kit.reader("w")
    for first in range(0, count, 500):
        await kit.put_off(reader, *of(7, min(500, count - first), first))
    one = f"7-{count // 2:05}"
    assert await canceled(kit, one, one, 1) == {one}
    assert (await kit.backlog())[0] == count - 1
    assert one not in ids(await kit.recalled(reader, 256))
    assert await kit.held() == 2 * (count - 1)


async def test_all_of_a_batch_that_is_put_off_in_two_ways_is_canceled(kit: PutOffKit) -> None:
    reader = await kit.reader("w")
    for first in range(0, 3000, 500):
        await kit.put_off(reader, *of(7, 250, first))
        await kit.put_off(reader, *of(7, 250, first + 250), way="3 other")
    found = await canceled(kit, "7-00000", "7-02499", 2500, far=True)
    assert found == {f"7-{n:05}" for n in range(2500)}
    assert await kit.recalled(reader, 1) != []
    assert (await kit.backlog())[0] == 500 - 2


async def test_a_campaign_that_is_put_off_is_canceled_and_no_other(kit: PutOffKit) -> None:
    reader = await kit.reader("w")
    for way in (WAY, "3 other"):
        for n, reference in enumerate(("spring", "autumn", "spring-2")):
            messages = [message(f"{way[2]}{n}{m:04}", segments=1, reference=reference) for m in range(400)]
            await kit.put_off(reader, *messages, way=way)
    cancels = RedisCancels(kit.link, SHARDS, now_us)
    place: CampaignPlace | None = CampaignPlace(queue="normal")
    count = 0
    while place is not None:
        step = await cancels.cancel_campaign(7, "spring", place)
        count, place = count + len(step.found.canceled), step.next
    assert count == 1600
    assert (await kit.backlog())[0] == 800
    left = [*await kit.recalled(reader, 256), *await kit.recalled(reader, 256)]
    assert {entry.message.reference for entry in left} == {"autumn"}


@pytest.mark.parametrize("bundled", [1, 40])
async def test_what_is_recalled_and_nobody_has_read_is_canceled_and_the_rest_keeps_its_place(
    kit: PutOffKit, bundled: int
) -> None:
    reader = await kit.reader("w")
    await kit.put_off(reader, *of(7, 40))
    reader.ready_max = 160 if bundled > 1 else 4
    await reader.promote(0, 10)
    asks = [Recall(of.shard, of.number, of.way, 40, 1 << 30) for of in reader.put_off.waiting]
    assert sum(messages for messages, _ in await reader.put_off.recall(asks)) == 40
    assert await kit.link.call("XLEN", keys.queue_key(SHARD, "normal")) == 40 // bundled
    assert await canceled(kit, "7-00003", "7-00005", 3) == {"7-00003", "7-00004", "7-00005"}
    assert await kit.held() == 2 * 37
    left = await kit.read(reader, 37)
    assert {entry.way for entry in left} == {WAY}
    # Put off once more, it comes before what has not been recalled yet.
    await reader.settle([put_off_in(entry, WAY) for entry in left])
    await kit.put_off(reader, *of(7, 2, 40))
    assert ids(await kit.recalled(reader, 256)) == [f"7-{n:05}" for n in range(42) if not 3 <= n <= 5]


async def canceled(kit: PutOffKit, first: str, last: str, count: int, *, far: bool = False) -> set[str]:
    cancels = RedisCancels(kit.link, SHARDS, now_us)
    found = await cancels.cancel("normal", 7, first, last, count, near=first, due_at_us=[], far=far)
    return found.canceled


async def test_what_an_older_version_put_off_on_the_due_set_comes_and_may_be_put_off_again(
    kit: PutOffKit,
) -> None:
    reader = await kit.reader("w")
    packer = msgspec.msgpack.Encoder().encode
    due = [x for n, m in enumerate(of(7, 40)) for x in (100 + n, packer(m))]
    await kit.link.call("ZADD", keys.due_key(SHARD, "normal"), *due)
    assert await reader.promote(120, 500) == 21
    entries = await kit.read(reader, 21)
    assert {entry.way for entry in entries} == {""}
    await reader.settle([put_off_in(entry, WAY) for entry in entries])
    assert ids(await kit.recalled(reader, 256)) == [f"7-{n:05}" for n in range(21)]
    assert await reader.promote(200, 500) == 19


async def test_putting_off_and_recalling_go_on_while_redis_is_full_and_take_no_memory(
    kit: PutOffKit,
) -> None:
    reader = await kit.reader("w")
    count = 3000
    await kit.put(SHARD, *of(7, count))
    entries = await kit.read(reader, count)

    async def used() -> int:
        info = (await kit.link.call("INFO", "memory")).decode()
        return int(info.partition("used_memory_dataset:")[2].partition("\r")[0])

    before = await used()
    await kit.link.call("CONFIG", "SET", "maxmemory", "1mb")
    try:
        for first in range(0, count, 500):
            await reader.settle([put_off_in(entry, WAY) for entry in entries[first : first + 500]])
        # A message in an entry of its own takes as much, and it was in the hand of a worker too.
        assert await used() - before <= 20 * count
        waiting = (await kit.backlog())[6]
        assert waiting == count
        found = [entry for _ in range(20) for entry in await kit.recalled(reader, 256)]
        assert ids(found) == [f"7-{n:05}" for n in range(count)]
    finally:
        await kit.link.call("CONFIG", "SET", "maxmemory", "0")


async def test_who_admits_messages_is_told_what_is_put_off_of_their_organisations(kit: PutOffKit) -> None:
    reader = await kit.reader("w")
    await kit.put_off(reader, *of(7, 30))
    await kit.link.call("SET", keys.generation_key(SHARD), "g1")
    epoch = await kit.link.call(*wire.register("h", SHARD))
    messages = [Addressed(queue="normal", message=m) for m in of(7, 1, 30)]
    submission = Submission(organisation_id=7, messages=messages, units=2)
    reply = await kit.link.call(*admit_wire.admit("h", Flush(SHARD, epoch, 1, [(0, submission)], [])))
    assert (reply[0], reply[3]) == (b"applied", [7, 30])
