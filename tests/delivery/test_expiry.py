"""A message ends when its validity is over, whether or not anybody could send it, or read it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

import pytest

from engine.delivery import lane, sweeper
from engine.delivery.settlement import before_sending
from engine.records import Entry, Settlement
from engine.routing.records import Route
from engine.stores.redis.put_off import PutOffEntries
from tests.delivery.carrier import Carrier
from tests.delivery.test_worker import fill, settled
from tests.delivery.test_worker_routes import plan, working
from tests.stores.redis.kit import SHARDS, QueueKit, message, now_us

# Longer than it takes a worker to begin, shorter than a test waits.
_VALID_US = 1_000_000


@pytest.fixture
async def kit(redis_url: str) -> AsyncIterator[QueueKit]:
    kit = QueueKit(redis_url)
    await kit.start()
    yield kit
    await kit.stop()


async def put(kit: QueueKit, count: int, **changes: object) -> None:
    """Messages that are valid for a second, over all shards."""
    expires = now_us() + _VALID_US
    for n in range(count):
        await kit.put(n % SHARDS, message(f"m{n}", expires_at_us=expires, **changes))


def ended(unread: Sequence[Entry]) -> list[Settlement]:
    return [s for entry in unread if (s := before_sending(entry, now_us())) is not None]


async def test_messages_expire_while_every_provider_is_paused(kit: QueueKit) -> None:
    carriers = [Carrier("a"), Carrier("b")]
    await put(kit, 20)
    await kit.put(0, message("stays"))
    async with working(kit, carriers, plan(paused=("a", "b"))):
        async with asyncio.timeout(60):
            while len(await kit.rows()) < 20:  # noqa: ASYNC110 - Redis has no event for it
                await asyncio.sleep(0.01)
        assert (await kit.waiting(), await kit.pending(), await kit.due()) == (1, 0, [])
    assert {(r.event, r.code) for r in await kit.rows()} == {("expired", "validity")}
    assert await kit.usage() == {7: (0, 40)}
    assert await kit.held() == 2
    assert [c.submitted for c in carriers] == [[], []]


async def test_messages_expire_whose_only_provider_is_paused_while_others_flow(kit: QueueKit) -> None:
    a, b = Carrier("a"), Carrier("b")
    routes = (Route(prefix="", providers=("a",)), Route(prefix="+98", providers=("b",)))
    # Put off many times, for longer and longer: they wait in the due sets for the most part.
    await put(kit, 800)
    await kit.put(0, message("flows", to="+441234567890"))
    async with working(kit, [a, b], plan(*routes, paused=("b",))):
        await settled(kit, 801)
    assert await kit.due() == []
    assert [m.id for m in a.submitted] == ["flows"]
    assert await kit.usage() == {7: (2, 1600)}


async def test_messages_expire_deep_in_a_backlog_that_nobody_reads(
    kit: QueueKit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweeper, "_LOOK_S", 0.01)
    monkeypatch.setattr(sweeper, "_LOOK_MAX", 40)
    await fill(kit, 400)
    await put(kit, 20)
    async with working(kit, [Carrier("a")], plan(paused=("a",))):
        async with asyncio.timeout(60):
            while await kit.waiting() > 400:  # noqa: ASYNC110 - Redis has no event for it
                await asyncio.sleep(0.01)
        assert len(await kit.rows()) == 20
    assert await kit.usage() == {7: (0, 40)}


async def test_a_look_goes_on_where_the_last_ended_and_begins_again(kit: QueueKit) -> None:
    reader = await kit.reader("w1")
    await kit.put(0, *(message(f"{n}") for n in range(10)))
    # An equal share of 4 for each shard is one; what the others have not needed goes to the one.
    looks = [[e.message.id for e in await reader.unread.look(4)] for _ in range(4)]
    assert looks == [["0", "1", "2", "3"], ["4", "5", "6", "7"], ["8", "9"], ["0", "1", "2", "3"]]
    taken = await reader.read(4 * SHARDS, 1000)
    assert [e.message.id for e in taken] == ["0", "1", "2", "3"]
    assert {e.message.id for e in await reader.unread.look(40)} == {"4", "5", "6", "7", "8", "9"}


async def test_what_a_worker_was_given_meanwhile_stays_with_it(kit: QueueKit) -> None:
    sweeping, sending = await kit.reader("w1"), await kit.reader("w2")
    await kit.put(0, *(message(f"{n}", expires_at_us=1) for n in range(3)))
    settlements = ended(await sweeping.unread.look(100))
    given = await sending.read(2 * SHARDS, 1000)
    assert [e.message.id for e in given] == ["0", "1"]
    # Only the third counts, and once, however often it is settled.
    assert [await sweeping.unread.settle(settlements) for _ in range(2)] == [1, 0]
    assert (await kit.waiting(), await kit.pending()) == (2, 2)
    assert await sending.settle(ended(given)) == 2
    assert await kit.usage() == {7: (0, 6)}
    assert await kit.held() == 0


async def test_two_that_sweep_at_once_end_a_message_once(kit: QueueKit) -> None:
    one, other = await kit.reader("w1"), await kit.reader("w2")
    for shard in range(SHARDS):
        await kit.put(shard, *(message(f"{shard}.{n}", expires_at_us=1) for n in range(25)))
    both = [ended(await reader.unread.look(1000)) for reader in (one, other)]
    assert [len(settlements) for settlements in both] == [100, 100]
    counted = await asyncio.gather(one.unread.settle(both[0]), other.unread.settle(both[1]))
    assert sum(counted) == 100
    assert len(await kit.rows()) == 100
    assert await kit.usage() == {7: (0, 200)}


async def test_a_message_is_put_off_to_its_expiry_at_most(
    kit: QueueKit, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As beside a version that does not know ways. Turns of a lane that has sent nothing are then a minute
    # apart.
    monkeypatch.setattr(PutOffEntries, "allowed", False)
    monkeypatch.setattr(lane, "UNKNOWN_RATE", 1 / 60)
    expires = now_us() + 300_000_000
    await kit.put(0, *(message(f"m{n}", expires_at_us=expires) for n in range(20)))
    carriers = [Carrier("a"), Carrier("b")]
    routes = (Route(prefix="", providers=("a",)), Route(prefix="+98", providers=("b",)))
    async with working(kit, carriers, plan(*routes, paused=("b",))):
        async with asyncio.timeout(60):
            while len(due := await kit.due()) < 20:  # noqa: ASYNC110 - Redis has no event for it
                await asyncio.sleep(0.01)
    assert max(at_us for at_us, _ in due) == expires
