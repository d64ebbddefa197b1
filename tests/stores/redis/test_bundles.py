"""Several messages in one entry: each is given out until it is settled, counts once, and harms no other."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import msgspec
import pytest

from engine import redis_keys as keys
from engine.bundle_format import payloads_of, record
from engine.credit.flush import Flush
from engine.delivery.settlement import DELIVERIES_MAX, before_sending, put_off
from engine.errors import Unavailable
from engine.records import Addressed, Entry, Message, Queue, Submission
from engine.stores.redis import admit_wire, settle_wire
from engine.stores.redis import queue_wire as wire
from engine.stores.redis.lua_libraries import versioned
from engine.stores.redis.queue import QueueStreams
from tests.adversity.proxy import Proxy
from tests.simulation.ready import bundled
from tests.stores.redis.kit import QueueKit, message, now_us
from tests.stores.redis.test_queue import names, read_all, settlements

_SHARD = 1


class BundleKit(QueueKit):
    """A queue to which a holder admits messages in flushes."""

    async def start(self) -> None:
        await super().start()
        self._sequence = 0
        await self.link.call("SET", keys.generation_key(_SHARD), "g")
        self._epoch = (await self.link.batch([wire.register("holder", _SHARD)]))[0]

    async def admit(self, *messages: Message, queue: Queue = "express", bundle_max: int = 50) -> None:
        """One flush, a submission for each run of messages of one organisation."""
        submissions: list[Submission] = []
        for one in messages:
            if not submissions or submissions[-1].organisation_id != one.organisation_id:
                submissions.append(
                    Submission(organisation_id=one.organisation_id, messages=[], units=0, answer=b"")
                )
            some = [*submissions[-1].messages, Addressed(queue=queue, message=one)]
            submissions[-1] = msgspec.structs.replace(
                submissions[-1], messages=some, units=sum(m.message.units for m in some)
            )
        self._sequence += 1
        flush = Flush(_SHARD, self._epoch, self._sequence, list(enumerate(submissions)), [])
        reply = await self.link.call(*admit_wire.admit("holder", flush, bundle_max=bundle_max))
        assert reply[0] == b"applied"

    async def sizes(self, queue: Queue = "express") -> list[int]:
        """How many messages each entry of the ready stream has."""
        entries = await self.link.call("XRANGE", keys.queue_key(_SHARD, queue), "-", "+")
        return [len(payloads_of(fields[1])) for _, fields in entries]

    async def counts(self) -> tuple[int, int]:
        """(messages that were given to a worker, messages that nobody was given), as Redis counts them."""
        touched = (
            *keys.line_keys(_SHARD, self.queue),
            keys.limits_key(_SHARD),
            keys.ways_key(_SHARD, self.queue),
        )
        *_, given, unread, _, _, _ = await self.link.call("FCALL_RO", versioned("backlog"), 6, *touched, 10)
        return given, unread

    async def number(self) -> int:
        """The number of the last message that was made ready."""
        return int(float(await self.link.call("HGET", keys.wait_key(_SHARD, self.queue), "number")))

    async def write_elsewhere(self) -> None:
        """As where another run of Redis was the last that wrote to the line."""
        await self.link.call("HSET", keys.wait_key(_SHARD, self.queue), "run", "f" * 40)

    async def noted(self) -> list[bytes]:
        """What is noted of bundles of which some messages are settled."""
        flat = await self.link.call("HGETALL", keys.wait_key(_SHARD, self.queue))
        return [note for name, note in zip(flat[::2], flat[1::2], strict=True) if name.startswith(b"part:")]


@pytest.fixture
async def kit(redis_url: str) -> AsyncIterator[BundleKit]:
    kit = BundleKit(redis_url)
    await kit.start()
    yield kit
    await kit.stop()


def some(count: int, organisation_id: int = 7, first: int = 0) -> list[Message]:
    return [
        message(f"{organisation_id}.{n:03}", organisation_id=organisation_id)
        for n in range(first, first + count)
    ]


def ids(entries: Sequence[Entry]) -> list[str]:
    return [entry.message.id for entry in entries]


async def test_a_flush_is_written_in_bundles_of_several_organisations(kit: BundleKit) -> None:
    await kit.link.batch([wire.refill(q, _SHARD, wire.Room(512)) for q in ("express", "normal")])
    put = some(30) + some(40, 8) + some(50, 9)
    await kit.admit(*put)
    await kit.admit(message("other", organisation_id=10, units=5), queue="normal")
    assert await kit.sizes() == [50, 50, 20]
    assert await kit.sizes("normal") == [1]
    assert await kit.counts() == (0, 120)
    entries = await read_all(await kit.reader("w"), 120)
    assert [entry.message for entry in entries] == put
    assert await kit.counts() == (120, 0)
    assert await (await kit.reader("w")).settle(settlements(entries)) == 120
    assert await kit.usage() == {7: (60, 0), 8: (80, 0), 9: (100, 0)}
    # The normal one is still there.
    assert (await kit.waiting(), await kit.pending(), await kit.held(), await kit.counts()) == (
        0,
        0,
        5,
        (0, 0),
    )


@pytest.mark.parametrize(("mark", "sizes"), [(4, [1] * 4), (16, [4] * 4), (256, [50, 10])])
async def test_a_bundle_is_a_part_of_what_lies_ready(kit: BundleKit, mark: int, sizes: list[int]) -> None:
    await kit.link.batch([wire.refill("express", _SHARD, wire.Room(mark))])
    await kit.admit(*some(60))
    assert (await kit.sizes())[: len(sizes)] == sizes
    assert sum(await kit.sizes()) in (60, mark + 1)


async def test_a_read_after_a_rest_is_given_a_bundle_and_the_next_one_the_others(kit: BundleKit) -> None:
    await kit.link.batch([wire.refill("express", _SHARD, wire.Room(512))])
    reader = await kit.reader("w")
    await kit.admit(*some(25))
    assert len(await reader.read(200, 1000)) == 25
    for _ in range(6):
        await kit.admit(*some(25))
    assert [len(await reader.read(200, 1000)) for _ in range(2)] == [50, 100]
    assert not await reader.read(200, 10)
    # Where nothing is to be found, it waits for what comes.
    reading = asyncio.create_task(reader.read(200, 30_000))
    await asyncio.sleep(0.05)
    await kit.admit(*some(3))
    assert len(await reading) == 3


async def test_a_large_message_is_alone(kit: BundleKit) -> None:
    await kit.link.batch([wire.refill("express", _SHARD, wire.Room(512))])
    large = message("large", text="x" * 40_000)
    await kit.admit(*some(3), large, *some(3, first=3))
    assert await kit.sizes() == [3, 1, 3]
    assert ids(await read_all(await kit.reader("w"), 7))[3] == "large"


async def test_an_entry_stays_until_its_last_message_is_settled_and_each_counts_once(kit: BundleKit) -> None:
    reader = await kit.reader("w")
    await kit.admit(*some(6), *some(4, 8))
    settled = settlements(await read_all(reader, 10))
    assert await reader.settle(settled[:3]) == 3
    assert await kit.noted() == [b"xxx......."]
    assert await kit.counts() == (7, 0)
    # Again, with others: only those count.
    assert await reader.settle(settled[:5]) == 2
    assert await reader.settle(settled[:5]) == 0
    assert (await kit.waiting(), await kit.pending(), await kit.held()) == (5, 1, 10)
    # As a whole, after a part.
    assert await reader.settle(settled) == 5
    assert await reader.settle(settled) == 0
    assert await reader.settle(settled[2:4]) == 0
    assert await kit.usage() == {7: (12, 0), 8: (8, 0)}
    assert len(await kit.rows()) == 20
    assert (await kit.waiting(), await kit.pending(), await kit.held(), await kit.noted()) == (0, 0, 0, [])


async def test_what_is_tried_again_or_put_off_leaves_its_bundle(kit: BundleKit) -> None:
    reader = await kit.reader("w")
    await kit.admit(*some(8))
    entries = await read_all(reader, 8)
    again = settlements(entries[:2], "temporary")
    assert await reader.settle([*again, put_off(entries[2], 5)]) == 3
    assert await kit.noted() == [b"xxx....."]
    assert sorted(m.id for _, m in await kit.due()) == ["7.000", "7.001", "7.002"]
    assert await reader.settle(settlements(entries[3:])) == 5
    assert await reader.promote(1 << 60, 10) == 3
    assert await kit.counts() == (0, 3)
    assert names(await read_all(reader, 3)) == ["7.000", "7.001", "7.002"]
    assert await kit.held() == 6


async def test_one_message_that_kills_its_workers_takes_no_other_of_its_bundle_along(kit: BundleKit) -> None:
    await kit.admit(*some(10))
    dead: list[str] = []
    workers = settled = 0
    while settled < 9 or not dead:
        workers += 1
        assert workers < 20
        reader = await kit.reader(f"w{workers}")
        # What it is given, as its sweeper and its reader give it.
        entries = [*await reader.take_over(60_000, 100), *await reader.read(100, 50)]
        ended = [s for entry in entries if (s := before_sending(entry, now_us())) is not None]
        dead += [s.entry.message.id for s in ended]
        await reader.settle(ended)
        entries = [entry for entry in entries if entry.deliveries <= DELIVERIES_MAX]
        if "7.005" not in ids(entries):
            settled += await reader.settle(settlements(entries))
            # It lives, and goes on: others may take no suspect meanwhile.
        await kit.fence(f"w{workers}")
    assert dead == ["7.005"]
    assert settled == 9
    # Given out with its bundle, alone, and as a suspect; then it is set aside.
    assert [msgspec.msgpack.decode(payload)[0] for payload in await kit.dead()] == ["7.005"]
    assert await kit.held() == 2


async def test_a_bundle_of_a_dead_worker_gives_what_is_not_settled_with_its_count(kit: BundleKit) -> None:
    dead, living = await kit.reader("w1"), await kit.reader("w2")
    await kit.admit(*some(5))
    late = settlements(await read_all(dead, 5))
    assert await dead.settle(late[1:3]) == 2
    await kit.fence("w1")
    assert await living.take_over(60_000, 100) == []
    assert (await kit.noted(), await kit.sizes(), await kit.counts()) == ([], [1, 1, 1], (0, 3))
    entries = await read_all(living, 3)
    assert ids(entries) == ["7.000", "7.003", "7.004"]
    # Each knows where it was: whether its organisation was paused since is told by that.
    assert {entry.first_id for entry in entries} == {late[0].entry.entry_id}
    assert {entry.deliveries for entry in entries} == {2}
    assert await living.settle(settlements(entries[:1])) == 1
    # The one that was thought dead wakes, and settles what it had.
    assert await dead.settle(late) == 0
    await kit.fence("w2")
    suspect = await (await kit.reader("w3")).take_over(60_000, 100)
    assert [(entry.message.id, entry.deliveries) for entry in suspect] == [("7.003", 3)]
    assert await kit.usage() == {7: (6, 0)}


async def test_a_bundle_whose_read_was_never_answered_is_found_again(kit: BundleKit) -> None:
    async with Proxy.to(kit.url) as proxy:
        reader = await kit.reader("w", url=proxy.url(kit.url))
        await kit.admit(*some(4))
        kept = await read_all(reader, 4)
        await kit.admit(*some(5, first=4))
        proxy.truncate_after(30)
        with pytest.raises(Unavailable):
            await reader.read(100, 1000)
        found = await read_all(reader, 5)
        assert ids(found) == [f"7.00{n}" for n in range(4, 9)]
        assert {entry.deliveries for entry in found} == {1}
        assert await reader.settle(settlements([*kept, *found])) == 9


async def test_what_is_dropped_of_a_bundle_comes_again_alone(kit: BundleKit) -> None:
    reader = await kit.reader("w")
    await kit.admit(*some(6))
    entries = await read_all(reader, 6)
    await reader.settle(settlements(entries[:2]))
    reader.drop(entries[3:5])
    assert ids(await reader.read(10, 50)) == ["7.003", "7.004"]
    assert await reader.read(10, 20) == []
    assert await reader.settle(settlements(entries)) == 4


async def test_unread_messages_of_a_bundle_are_ended_where_they_lie(kit: BundleKit) -> None:
    reader = await kit.reader("w")
    await kit.admit(*some(6), *some(2, 8))
    looked = await reader.unread.look(100)
    assert len(looked) == 8
    assert await reader.unread.settle(settlements(looked[2:5], "permanent")) == 3
    assert await reader.unread.settle(settlements(looked[2:5], "permanent")) == 0
    assert len(await reader.unread.look(100)) == 5
    # Whoever is given the bundle does not know it, and its settlement does not count.
    entries = await read_all(reader, 8)
    assert await reader.unread.settle(settlements(looked, "permanent")) == 0
    assert await reader.settle(settlements(entries)) == 5
    assert await kit.usage() == {7: (6, 6), 8: (4, 0)}
    await kit.admit(*some(3, 9))
    assert await reader.unread.settle(settlements(await reader.unread.look(10), "permanent")) == 3
    assert (await kit.sizes(), await kit.counts(), await kit.noted()) == ([], (0, 0), [])


async def test_a_message_of_a_bundle_that_cannot_be_read_waits_for_somebody_who_can(kit: BundleKit) -> None:
    reader = await kit.reader("w")
    packed = [msgspec.msgpack.encode(one) for one in some(2)]
    bundle = bundled(record(1, payload) for payload in (packed[0], b"\xc1 strange", packed[1]))
    await kit.put_raw(_SHARD, bundle)
    entries = await read_all(reader, 2)
    assert await kit.link.call("ZRANGE", keys.due_key(_SHARD, kit.queue), 0, -1) == [b"\xc1 strange"]
    assert await kit.noted() == [b".x."]
    assert await reader.settle(settlements(entries)) == 2
    assert (await kit.sizes(), await kit.noted()) == ([], [])


async def test_what_an_older_version_wrote_and_read_stays_in_order_and_is_counted(kit: BundleKit) -> None:
    reader, older = await kit.reader("w"), await kit.reader("older")
    await kit.put(_SHARD, *some(5))
    # An older worker has some of it in hand.
    first = await older.read(8, 50)
    await kit.admit(*some(5, first=5))
    assert await kit.counts() == (len(first), 10 - len(first))
    await kit.put(_SHARD, *some(2, first=10))
    await kit.admit(*some(5, first=12))
    rest = await read_all(reader, 17 - len(first))
    assert ids([*first, *rest]) == [m.id for m in some(17)]
    assert await kit.counts() == (17, 0)
    assert await older.settle(settlements(first)) + await reader.settle(settlements(rest)) == 17
    assert (await kit.waiting(), await kit.counts()) == (0, (0, 0))


async def test_a_bundle_that_an_older_worker_put_back_comes_as_its_messages(kit: BundleKit) -> None:
    reader = await kit.reader("w")
    await kit.admit(*some(4))
    settled = settlements(await read_all(reader, 4))
    await reader.settle(settled[1:2])
    # As an older worker does with what it has taken over and cannot read.
    stream = keys.queue_key(_SHARD, kit.queue)
    [(entry_id, fields)] = await kit.link.call("XRANGE", stream, "-", "+")
    await kit.link.batch(
        [("XACK", stream, keys.GROUP, entry_id), ("XDEL", stream, entry_id),
         ("ZADD", keys.due_key(_SHARD, kit.queue), 5, fields[1])]
    )  # fmt: skip
    assert await reader.settle(settled) == 0
    await kit.admit(*some(2, first=4))
    assert await reader.promote(5, 10) == 1
    # Without the one that is settled.
    assert (await kit.counts(), await kit.noted()) == ((0, 5), [])
    entries = await read_all(reader, 5)
    assert names(entries) == ["7.000", "7.002", "7.003", "7.004", "7.005"]
    assert await reader.settle(settlements(entries)) == 5
    assert await kit.held() == 0


async def test_entries_keep_their_order_where_the_clock_goes_back(kit: BundleKit) -> None:
    reader = await kit.reader("w")
    stream = keys.queue_key(_SHARD, kit.queue)
    # Written by a clock that was ahead.
    ahead = msgspec.msgpack.encode(some(1)[0])
    await kit.link.call("XADD", stream, f"{(now_us() // 1000) + 3_600_000}-7", "m", ahead)
    await kit.admit(*some(3, first=1))
    await kit.admit(*some(3, first=4))
    assert ids(await read_all(reader, 7)) == [m.id for m in some(7)]


async def test_what_is_unread_is_counted_right_where_the_numbers_have_moved_on(kit: BundleKit) -> None:
    await kit.link.batch([wire.refill("express", _SHARD, wire.Room(512))])
    await kit.admit(*some(100))
    await kit.reader("w")
    stream = keys.queue_key(_SHARD, kit.queue)
    read = ("XREADGROUP", "GROUP", keys.GROUP, "w", "COUNT", 1, "STREAMS", stream, ">")
    await kit.link.call(*read)
    assert await kit.counts() == (50, 50)
    before = await kit.number()
    await kit.write_elsewhere()
    assert await kit.counts() == (50, 50)
    await kit.admit(*some(30, 8))
    assert await kit.number() > before + (1 << 30)
    # Neither what the mark leaves room for nor what is shown is wrong until the next read.
    assert await kit.counts() == (50, 80)
    await kit.link.call(*read)
    assert await kit.counts() == (100, 30)
    await kit.link.call(*read)
    assert await kit.counts() == (130, 0)


async def test_where_the_numbers_have_moved_on_twice_what_is_unread_is_counted(kit: BundleKit) -> None:
    await kit.link.batch([wire.refill("express", _SHARD, wire.Room(512))])
    await kit.admit(*some(50))
    reader = await kit.reader("w")
    await read_all(reader, 50)
    for organisation_id in (8, 9):
        await kit.write_elsewhere()
        await kit.admit(*some(30, organisation_id))
    # By how much the first time is not known: of what is in hand only the entry counts.
    assert await kit.counts() == (1, 109)
    await read_all(reader, 60)
    assert await kit.counts() == (110, 0)


async def test_beside_an_older_version_each_message_has_an_entry(kit: BundleKit) -> None:
    await kit.admit(*some(5), bundle_max=1)
    assert await kit.sizes() == [1] * 5
    room = wire.Room(64, 1)
    reader = await kit.reader("w")
    entries = await read_all(reader, 5)
    back = [settle_wire.settled(put_off(entry, 5)) for entry in entries]
    await kit.link.batch([settle_wire.settle("express", "w", _SHARD, room, back)])
    await kit.link.batch([wire.promote("express", _SHARD, 5, 10, room)])
    assert await kit.sizes() == [1] * 5


async def test_a_settlement_of_thousands_of_messages_is_one_step(kit: BundleKit) -> None:
    reader: QueueStreams = await kit.reader("w")
    await kit.link.batch([wire.refill("express", _SHARD, wire.Room(1 << 30))])
    put = [one for organisation in range(1, 3001) for one in some(1, organisation)]
    await kit.admit(*put)
    reader.ready_max = 1 << 30
    entries: list[Any] = await read_all(reader, 3000)
    assert await reader.settle(settlements(entries)) == 3000
    assert (await kit.held(), await kit.waiting(), len(await kit.usage())) == (0, 0, 3000)
