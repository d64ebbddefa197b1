"""A dead letter is replayed or dropped once, and its units are held until it ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from random import Random

import msgspec
import pytest

from engine.delivery.dead_letters import DeadLetter, DeadLetterId
from engine.delivery.settlement import DELIVERIES_MAX, before_sending
from engine.errors import Refusal
from engine.records import Entry
from engine.redis_keys import dead_key
from engine.stores.redis.audit_cut import instant_of
from engine.stores.redis.dead_letters import RedisDeadLetters
from engine.stores.redis.link import RedisLink
from tests.stores.redis.kit import SHARDS, QueueKit, message, now_us


@pytest.fixture
async def kit(redis_url: str) -> AsyncIterator[QueueKit]:
    kit = QueueKit(redis_url)
    await kit.start()
    yield kit
    await kit.stop()


def letters_of(kit: QueueKit, link: RedisLink | None = None) -> RedisDeadLetters:
    return RedisDeadLetters(
        link or kit.link, SHARDS, lambda organisation_id: organisation_id % SHARDS, now_us
    )


async def set_aside(kit: QueueKit, entries: list[Entry]) -> None:
    """As a worker does with what other workers died with."""
    reader = await kit.reader("w-last", join=False)
    dead = [
        before_sending(msgspec.structs.replace(entry, deliveries=DELIVERIES_MAX + 1), now_us())
        for entry in entries
    ]
    assert await reader.settle([settlement for settlement in dead if settlement]) == len(entries)


async def dead(kit: QueueKit, count: int, **changes: object) -> list[DeadLetter]:
    """So many dead letters of organisation 7."""
    name = f"w{now_us()}"
    reader = await kit.reader(name)
    await kit.put(3, *[message(f"m{n}", **changes) for n in range(count)])
    await set_aside(kit, await reader.read(count, 1000))
    return await letters_of(kit).page(None, None, None, 1000)


async def held_by_messages(kit: QueueKit) -> tuple[int, int]:
    """(units that the audit counts in the messages of all shards, units held)."""
    cuts = [(await instant_of(kit.link, shard, None, 10)).cut for shard in range(SHARDS)]
    return sum(cut.recount or 0 for cut in cuts), sum(cut.held for cut in cuts)


async def test_a_replayed_message_is_in_its_queue_as_if_nobody_had_tried_it(kit: QueueKit) -> None:
    (letter,) = await dead(kit, 1, unknown_sends=2, tried=("p",), attempts=4)
    assert await letters_of(kit).replay(DeadLetterId.parse(letter.id)) == letter
    assert await kit.dead() == []
    reader = await kit.reader("w2")
    assert await reader.promote(now_us(), 10) == 1
    (entry,) = await reader.read(1, 1000)
    sent = entry.message
    assert (entry.deliveries, sent.unknown_sends, sent.tried, sent.attempts) == (1, 0, (), 4)
    assert before_sending(entry, now_us()) is None
    assert await held_by_messages(kit) == (2, 2)
    row = (await kit.rows())[-1]
    assert (row.event, row.code, row.attempt, row.message_id) == ("retrying", "replayed", 4, "m0")
    assert await kit.usage() == {}


async def test_a_dropped_message_has_failed_and_its_units_are_released(kit: QueueKit) -> None:
    (letter,) = await dead(kit, 1)
    assert await letters_of(kit).drop(DeadLetterId.parse(letter.id)) == letter
    assert await held_by_messages(kit) == (0, 0)
    assert await kit.usage() == {7: (0, 2)}
    row = (await kit.rows())[-1]
    assert (row.event, row.code, row.message_id) == ("failed", "dropped", "m0")
    assert (await kit.dead(), await kit.due(), await kit.waiting()) == ([], [], 0)


@pytest.mark.parametrize("first", ["replay", "drop"])
async def test_what_is_called_again_finds_nothing_and_changes_nothing(kit: QueueKit, first: str) -> None:
    (letter,) = await dead(kit, 1)
    letters, letter_id = letters_of(kit), DeadLetterId.parse(letter.id)
    await getattr(letters, first)(letter_id)
    before = (await kit.held(), len(await kit.rows()), await kit.due(), await kit.usage())
    for again in (letters.replay, letters.drop, letters.letter):
        with pytest.raises(Refusal) as refused:
            await again(letter_id)
        assert refused.value.status == 404
    assert (await kit.held(), len(await kit.rows()), await kit.due(), await kit.usage()) == before


async def test_a_message_without_units_is_dropped_too(kit: QueueKit) -> None:
    (letter,) = await dead(kit, 1, units=0)
    await letters_of(kit).drop(DeadLetterId.parse(letter.id))
    assert (await kit.held(), await kit.dead()) == (0, [])


async def test_one_whose_validity_is_over_can_only_be_dropped(kit: QueueKit) -> None:
    (letter,) = await dead(kit, 1, expires_at_us=now_us() - 1)
    assert letter.expired
    letters, letter_id = letters_of(kit), DeadLetterId.parse(letter.id)
    with pytest.raises(Refusal, match="can only be dropped") as refused:
        await letters.replay(letter_id)
    assert (refused.value.status, refused.value.code) == (409, "validity_over")
    assert (await letters.drop(letter_id)).expired
    assert await kit.held() == 0


async def test_one_that_cannot_be_read_is_listed_and_stays(kit: QueueKit) -> None:
    await kit.link.call("XADD", dead_key(1, "normal"), "5-1", "m", b"\xc1 no message")
    letters = letters_of(kit)
    (letter,) = await letters.page(None, None, None, 10)
    assert (letter.id, letter.readable, letter.dead_at) == (
        "normal.1.5-1", False, "1970-01-01T00:00:00.005000Z"
    )  # fmt: skip
    assert await letters.page(None, 1, None, 10) == []
    for step in (letters.replay, letters.drop):
        with pytest.raises(Refusal) as refused:
            await step(DeadLetterId("normal", 1, DeadLetterId.parse(letter.id).entry_id))
        assert (refused.value.status, refused.value.code) == (409, "unreadable")
    assert await letters.page("normal", None, None, 10) == [letter]


async def test_pages_have_every_dead_letter_once_and_neither_text_nor_number(kit: QueueKit) -> None:
    packed = msgspec.msgpack.Encoder().encode
    of, numbers = (3, 7, 11), Random(1)
    for queue in ("express", "normal"):
        for n in range(30):
            organisation = numbers.choice(of)
            one = message(f"{queue} {n}", organisation_id=organisation)
            await kit.link.call("XADD", dead_key(organisation % SHARDS, queue), "*", "m", packed(one))  # type: ignore[arg-type]
    letters = letters_of(kit)
    for queue, organisation in ((None, None), ("express", None), (None, 7), ("normal", 11), (None, 2)):
        found: list[DeadLetter] = []
        after = None
        while page := await letters.page(queue, organisation, after, 7):  # type: ignore[arg-type]
            found += page
            after = DeadLetterId.parse(page[-1].id)
        ids = [letter.id for letter in found]
        assert len(set(ids)) == len(ids)
        assert {letter.queue for letter in found} <= ({queue} if queue else {"express", "normal"})
        assert {letter.organisation_id for letter in found} <= ({organisation} if organisation else set(of))
        if organisation is None:
            assert len(found) == (30 if queue else 60)
    every = await letters.page(None, None, None, 100)
    assert len([1 for letter in every if letter.organisation_id == 7]) == len(
        await letters.page(None, 7, None, 100)
    )
    shown = msgspec.json.encode(every).decode()
    assert "Your code" not in shown
    assert "+989***" in shown
    assert "121234567" not in shown


@pytest.mark.parametrize("text", ["", "normal", "normal.1", "normal.1.5", "slow.1.5-1", "normal.-1.5-1",
                                  "normal.1.5-1-1", f"normal.1.{1 << 64}-0", "normal.٣.5-1"])  # fmt: skip
def test_what_is_no_id_is_told_from_one(text: str) -> None:
    with pytest.raises(ValueError):
        DeadLetterId.parse(text)


async def test_the_id_of_another_engines_shard_is_not_found(kit: QueueKit) -> None:
    with pytest.raises(Refusal) as refused:
        await letters_of(kit).letter(DeadLetterId.parse("normal.99.5-1"))
    assert refused.value.status == 404


@pytest.mark.parametrize("seed", range(4))
async def test_units_are_conserved_when_replays_drops_and_takeovers_race(kit: QueueKit, seed: int) -> None:
    """Three operators end what they see, some calls are cut off, workers die with what was replayed,
    and their heirs set it aside anew."""
    rng, count = Random(seed), 60
    await dead(kit, count)
    links = [RedisLink(kit.url, timeout_s=5, name=f"operator {n}") for n in range(3)]
    ended: list[tuple[str, str]] = []
    refused: set[int] = set()

    async def operate(link: RedisLink) -> None:
        letters = letters_of(kit, link)
        for _ in range(40):
            for letter in await letters.page(None, None, None, 8):
                verb = "drop" if rng.random() < 0.3 else "replay"
                call = asyncio.create_task(getattr(letters, verb)(DeadLetterId.parse(letter.id)))
                if rng.random() < 0.2:
                    await asyncio.sleep(0)
                    call.cancel()
                try:
                    await call
                    ended.append((verb, letter.id))
                except Refusal as e:
                    refused.add(e.status)
                except asyncio.CancelledError:
                    continue

    async def work(name: str) -> None:
        for n in range(12):
            own = f"{name}-{n}"
            reader = await kit.reader(own)
            await reader.promote(now_us(), 20)
            await reader.read(5, 10)
            # It dies with them; the next one takes over and sets aside.
            await kit.fence(own)
            heir = await kit.reader(f"{own}-heir")
            taken = await heir.take_over(1 << 40, 20)
            settlements = [
                before_sending(msgspec.structs.replace(entry, deliveries=DELIVERIES_MAX + 1), now_us())
                for entry in taken
            ]
            await heir.settle([settlement for settlement in settlements if settlement])
            held, recount = await held_by_messages(kit)
            assert held == recount

    try:
        await asyncio.gather(*[operate(link) for link in links], work("a"), work("b"))
    finally:
        for link in links:
            await link.close()
    assert refused <= {404}
    assert len(ended) == len(set(ended)) == len({letter_id for _, letter_id in ended}), "ended once each"
    rows = await kit.rows()
    dropped = sum(row.code == "dropped" for row in rows)
    recount, held = await held_by_messages(kit)
    captured, released = (await kit.usage()).get(7, (0, 0))
    assert recount == held == 2 * (count - dropped)
    assert (captured, released) == (0, 2 * dropped)
    assert sum(row.code == "replayed" for row in rows) >= sum(verb == "replay" for verb, _ in ended)
    assert dropped > 0
