"""A cancel takes messages out of ready bundles. Others keep their order, and what is paused is not sent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from engine import redis_keys as keys
from engine.activity.campaigns import cancel_campaign, place_of
from engine.delivery.pauses import Pauses
from engine.delivery.settlement import put_back
from engine.limits.records import LimitRow
from engine.organisations import Limits
from engine.records import Entry, Message
from engine.stores.redis.audit_cut import instant_of
from engine.stores.redis.cancels import RedisCancels
from engine.stores.redis.queue import QueueStreams
from engine.stream_id import StreamId
from tests.stores.redis.kit import SHARDS, now_us
from tests.stores.redis.test_give_back import _sent, let_in, recall
from tests.stores.redis.test_put_off import SHARD, WAY, PutOffKit, ids, of
from tests.stores.redis.test_put_off import kit as kit

PAUSED = LimitRow(8, Limits(), True)
RESUMED = LimitRow(8, Limits(), False)


def mixed(count: int, organisations: Sequence[int] = (7, 8, 9)) -> list[Message]:
    """Messages of several organisations by turns; one in four of organisation 7 is of a campaign."""
    some = [of(o, count) for o in organisations]
    some[0] = [m for n in range(count) for m in of(7, 1, n, reference="spring" if n % 4 == 1 else "")]
    return [m for turn in zip(*some, strict=True) for m in turn]


async def admitted(kit: PutOffKit, *messages: Message, bundle: int = 5, mark: int = 40) -> None:
    """Messages come by the door of the line, with their units."""
    await let_in(kit, *messages, bundle=bundle, mark=mark)
    await kit.link.call("INCRBY", keys.held_key(SHARD), sum(m.units for m in messages))
    await hold(kit, messages)


async def put_off(kit: PutOffKit, reader: QueueStreams, messages: Sequence[Message]) -> None:
    """Messages are put off, with their units."""
    await kit.put_off(reader, *messages)
    await hold(kit, messages)


async def hold(kit: PutOffKit, messages: Sequence[Message]) -> None:
    """Count the units of messages for their organisations."""
    by = keys.held_by_key(SHARD)
    await kit.link.batch([("HINCRBY", by, m.organisation_id, m.units) for m in messages])


async def cancel(kit: PutOffKit, name: str) -> Any:
    cancels = RedisCancels(kit.link, SHARDS, now_us)
    organisation_id = int(name.partition("-")[0])
    return await cancels.cancel("normal", organisation_id, name, name, 1, near=name, due_at_us=(), far=False)


async def cancel_all(kit: PutOffKit, how: str, names: Sequence[str]) -> int:
    """Cancel these messages of organisation 7, or its campaign; how many were canceled."""
    if how == "ids":
        return sum([len((await cancel(kit, name)).canceled) for name in names])
    place, cancels = place_of(""), RedisCancels(kit.link, SHARDS, now_us)
    assert place is not None
    return (await cancel_campaign(cancels, 7, "spring", place)).canceled


async def books_agree(kit: PutOffKit) -> int:
    """The units that the shard holds, which are those of all messages that are there."""
    cut = (await instant_of(kit.link, SHARD, None, 10)).cut
    assert cut.recount == cut.held == await kit.held()
    by = await kit.link.call("HVALS", keys.held_by_key(SHARD))
    assert sum(map(int, by)) == cut.held
    return cut.held


async def stream(kit: PutOffKit) -> list[Any]:
    entries: list[Any] = await kit.link.call("XRANGE", keys.queue_key(SHARD, "normal"), "-", "+")
    return entries


async def pauses(kit: PutOffKit) -> Pauses:
    """As workers know them."""
    notes = (await kit.link.call("HGET", keys.limits_key(SHARD), "paused") or b"").split()
    return Pauses({int(note.split(b":")[0]): StreamId.parse(note.split(b":")[2]) for note in notes})


async def work(kit: PutOffKit, reader: QueueStreams, first: Sequence[Entry] = ()) -> list[str]:
    """Send all that is given out and not to be held, after `first`; what was sent, in order."""
    reader.ready_max = 40
    sent: list[str] = []
    more = list(first)
    while more or (more := await reader.read(7, 50)):
        paused = await pauses(kit)
        await reader.settle([put_back(e) if paused.hold(e) else _sent(e) for e in more])
        sent += ids([e for e in more if not paused.hold(e)])
        more = []
    return sent


def all_of(sent: Sequence[str], organisation_id: int) -> list[str]:
    return [name for name in sent if name.startswith(f"{organisation_id}-")]


def numbered(organisation_id: int, count: int, without: Sequence[str] = ()) -> list[str]:
    return [name for name in (f"{organisation_id}-{n:05}" for n in range(count)) if name not in without]


@pytest.mark.parametrize("how", ["ids", "campaign"])
@pytest.mark.parametrize("bundle", [1, 5, 10])
async def test_all_others_keep_their_order(kit: PutOffKit, bundle: int, how: str) -> None:
    reader = await kit.reader("w")
    await admitted(kit, *mixed(60), bundle=bundle)
    hand = await reader.read(9, 50)
    wanted = [m.id for m in mixed(60) if m.reference and m.id not in ids(hand)]
    assert await cancel_all(kit, how, wanted) == len(wanted) > 10
    assert await books_agree(kit) == 2 * (180 - len(wanted))
    sent = await work(kit, reader, hand)
    for organisation in (7, 8, 9):
        assert all_of(sent, organisation) == numbered(organisation, 60, wanted)
    assert (await kit.waiting(), await kit.pending(), await books_agree(kit)) == (0, 0, 0)
    assert int((await kit.fields()).get(b"bundled", 0)) == 0


@pytest.mark.parametrize("how", ["ids", "campaign"])
async def test_what_is_paused_is_not_sent_for_it_and_goes_on_in_order(kit: PutOffKit, how: str) -> None:
    reader = await kit.reader("w")
    await admitted(kit, *mixed(20))
    hand = await reader.read(5, 50)
    wanted = [m.id for m in mixed(20) if m.reference and m.id not in ids(hand)]
    await kit.limit(PAUSED)
    assert await cancel_all(kit, how, wanted) == len(wanted) > 3
    assert await cancel_all(kit, how, wanted) == 0
    sent = await work(kit, reader, hand)
    assert all_of(sent, 8) == []
    for organisation in (7, 9):
        assert all_of(sent, organisation) == numbered(organisation, 20, wanted)
    assert await books_agree(kit) == 40
    await kit.limit(RESUMED)
    assert await work(kit, reader) == numbered(8, 20)
    assert await books_agree(kit) == 0


async def test_what_is_paused_and_was_canceled_beside_is_not_sent_by_who_takes_it_over(
    kit: PutOffKit,
) -> None:
    dead, reader = await kit.reader("dead"), await kit.reader("w")
    await admitted(kit, *mixed(10))
    await kit.limit(PAUSED)
    assert (await cancel(kit, "7-00001")).canceled
    assert len(await dead.read(29, 50)) == 29
    await kit.fence("dead")
    taken: list[Entry] = await reader.take_over(0, 50)
    sent = await work(kit, reader, taken)
    assert sorted(sent) == numbered(7, 10, ["7-00001"]) + numbered(9, 10)
    await kit.limit(RESUMED)
    assert await work(kit, reader) == numbered(8, 10)
    assert await books_agree(kit) == 0


async def test_what_was_resumed_meanwhile_is_sent(kit: PutOffKit) -> None:
    reader = await kit.reader("w")
    await kit.limit(PAUSED)
    # A worker that has not heard that it goes on.
    old = await pauses(kit)
    await kit.limit(RESUMED)
    await admitted(kit, *mixed(5))
    assert (await cancel(kit, "7-00002")).canceled
    assert not any(old.hold(entry) for entry in await reader.read(50, 50))


async def test_what_was_recalled_keeps_its_order_and_what_it_waited_for(kit: PutOffKit) -> None:
    reader = await kit.reader("w")
    await put_off(kit, reader, mixed(20))
    assert await recall(reader, 30) == 30
    await admitted(kit, *of(9, 10, 20))
    await kit.limit(PAUSED)
    assert (await cancel(kit, "7-00003")).canceled
    found = [(e.message.id, e.way) for e in await reader.read(100, 50)]
    recalled = [(m.id, WAY) for m in mixed(10) if m.id != "7-00003"]
    assert found == [*recalled, *((m.id, "") for m in of(9, 10, 20))]
    await books_agree(kit)


async def test_what_is_paused_and_was_recalled_goes_back_to_its_way(kit: PutOffKit) -> None:
    reader = await kit.reader("w")
    await put_off(kit, reader, mixed(10))
    await recall(reader, 100)
    await kit.limit(PAUSED)
    assert (await cancel(kit, "7-00003")).canceled
    sent = await work(kit, reader)
    assert all_of(sent, 7) + all_of(sent, 9) == numbered(7, 10, ["7-00003"]) + numbered(9, 10)
    assert [m.id for m in await kit.put_off_messages()] == numbered(8, 10)
    await kit.limit(RESUMED)
    assert ids(await kit.recalled(reader, 100)) == numbered(8, 10)


async def test_what_was_in_the_hand_of_a_worker_that_died_says_so_still(kit: PutOffKit) -> None:
    dead, reader = await kit.reader("dead"), await kit.reader("w")
    await admitted(kit, *of(8, 5), *of(7, 10))
    assert ids(await dead.read(5, 50)) == numbered(8, 5)
    await kit.fence("dead")
    assert await reader.take_over(0, 10) == []
    await admitted(kit, *of(9, 10))
    await kit.limit(PAUSED)
    assert (await cancel(kit, "7-00002")).canceled
    paused, found = await pauses(kit), await reader.read(100, 50)
    assert ids(found) == [*numbered(7, 10, ["7-00002"]), *numbered(8, 5), *numbered(9, 10)]
    assert {(e.message.id, e.deliveries) for e in found if paused.hold(e)} == {
        (name, 2) for name in numbered(8, 5)
    }
    await books_agree(kit)


async def test_what_the_sweeper_has_ended_of_a_bundle_does_not_come_again(kit: PutOffKit) -> None:
    reader = await kit.reader("w")
    await admitted(kit, *mixed(10))
    looked = await reader.unread.look(1000)
    over = [entry for entry in looked if entry.message.id in ("7-00000", "8-00002", "9-00004")]
    assert await reader.unread.settle([_sent(entry) for entry in over]) == 3
    assert (await cancel(kit, "7-00000")).canceled == set()
    assert (await cancel(kit, "7-00001")).canceled
    await books_agree(kit)
    sent = await work(kit, reader)
    gone = ["7-00000", "8-00002", "9-00004", "7-00001"]
    assert sent == [m.id for m in mixed(10) if m.id not in gone]
    assert await books_agree(kit) == 0


async def test_a_bundle_of_which_all_are_canceled_moves_nothing(kit: PutOffKit) -> None:
    await kit.reader("w")
    await admitted(kit, *of(7, 5, reference="spring"), *of(8, 5))
    before = await stream(kit)
    assert await cancel_all(kit, "campaign", ()) == 5
    assert await stream(kit) == before[1:]


async def test_there_is_room_for_as_many_as_were_canceled(kit: PutOffKit) -> None:
    reader = await kit.reader("w")
    await admitted(kit, *mixed(60))
    hand = await reader.read(10, 50)
    [wanted] = [m.id for m in mixed(60)[20:] if m.organisation_id == 7][:1]
    before = await kit.waiting()
    assert (await cancel(kit, wanted)).canceled
    # Those in hand do not count, and the next of a list comes for the one that is gone.
    assert len(hand) == 10
    assert await kit.waiting() - 10 == 40 >= before - 10


async def test_a_stream_that_is_too_long_to_be_written_again_keeps_what_is_paused(kit: PutOffKit) -> None:
    reader = await kit.reader("w")
    long = [*mixed(4), *of(9, 9000, 4)]
    await admitted(kit, *long, bundle=50, mark=10_000)
    before = await stream(kit)
    await kit.limit(PAUSED)
    assert (await cancel(kit, "7-00001")).canceled
    # The step is short: only what is left of one bundle is written.
    assert (await stream(kit))[:-1] == before[1:]
    assert await kit.held() == 2 * (len(long) - 1)
    reader.ready_max = 10_000
    found: list[Entry] = []
    while more := await reader.read(1000, 50):
        found += more
    paused = await pauses(kit)
    assert {e.message.organisation_id for e in found if paused.hold(e)} == {8}
    assert sorted(ids(found)) == sorted(m.id for m in long if m.id != "7-00001")
