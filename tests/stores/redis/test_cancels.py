"""Messages are canceled where they wait, with their units, and nowhere else."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any

import msgspec
import pytest

from engine import message_format
from engine import redis_keys as keys
from engine.activity.campaigns import CanceledCampaign, cancel_campaign, place_of
from engine.activity.row import row_of
from engine.credit.flush import Flush
from engine.ids import MessageIds
from engine.records import ActivityRow, Addressed, Message, Submission
from engine.shards import shard_of
from engine.stores.redis import admit_wire
from engine.stores.redis import queue_wire as wire
from engine.stores.redis.cancels import RedisCancels
from engine.stores.redis.link import RedisLink
from tests.conftest import own_database
from tests.stores.redis.kit import FAR_FUTURE_US, message, now_us

_DATABASE = 8
_SHARDS = 4
ORGANISATION = 7
SHARD = shard_of(ORGANISATION, _SHARDS)
# Everything in one shard lies ready up to here.
MARK = 128


class Waiting:
    """A shard of a real Redis, and what waits in its queue `normal`."""

    def __init__(self, link: RedisLink) -> None:
        self.link = link
        self.cancels = RedisCancels(link, _SHARDS, now_us)
        self.ids = MessageIds(5, 0)
        self._epoch = 0
        self._flushes = 0

    async def begin(self) -> None:
        await self.link.call("SET", keys.generation_key(SHARD), "g1")
        self._epoch = (await self.link.batch([wire.register("holder", SHARD)]))[0]
        await self.link.batch([wire.make_group("normal", SHARD)])

    async def admit(
        self, count: int, *, due_at_us: int = 0, at_us: int | None = None, reference: str = ""
    ) -> list[Message]:
        """Messages of two units each, accepted together."""
        at_us = (now_us() if at_us is None else at_us) // 1000 * 1000
        some = [
            message(name, accepted_at_us=at_us, organisation_id=ORGANISATION, reference=reference)
            for name in self.ids.make(at_us // 1000, count)
        ]
        await self.put(some, due_at_us)
        return some

    async def put(self, some: Sequence[Message], due_at_us: int = 0) -> None:
        """Let messages of one organisation in."""
        submission = Submission(
            organisation_id=some[0].organisation_id,
            messages=[Addressed(queue="normal", message=m, due_at_us=due_at_us) for m in some],
            units=2 * len(some),
        )
        self._flushes += 1
        flush = Flush(SHARD, self._epoch, self._flushes, [(0, submission)], [])
        assert (await self.link.batch([admit_wire.admit("holder", flush)]))[0][0] == b"applied"

    async def cancel(
        self, some: Sequence[Message], *, due_at_us: Sequence[int] = (), far: bool = False
    ) -> Any:
        first, last = some[0].id, some[-1].id
        return await self.cancels.cancel(
            "normal", ORGANISATION, first, last, len(some), near=first, due_at_us=due_at_us, far=far
        )

    async def cancel_campaign(self, campaign: str, cursor: str = "") -> list[CanceledCampaign]:
        """Each call of a walk until its end."""
        calls = []
        while True:
            place = place_of(cursor)
            assert place is not None
            calls.append(await cancel_campaign(self.cancels, ORGANISATION, campaign, place))
            if calls[-1].next is None:
                return calls
            cursor = calls[-1].next

    async def read(self, count: int = 1000) -> list[str]:
        """The ids of the messages that a worker is given."""
        reply = (await self.link.batch([wire.read("normal", "worker", [SHARD], count, None)]))[0]
        raw = [entry for _, entries in reply or () for entry in wire.fields_of(entries)]
        return [entry.message.id for entry in wire.decoded(SHARD, "normal", raw)[0]]

    async def read_all(self) -> list[str]:
        """The same until nothing waits; nothing is settled."""
        found: list[str] = []
        while True:
            await self.link.batch([wire.refill("normal", SHARD, wire.Room(MARK))])
            more = await self.read()
            if not more:
                return found
            found += more

    async def held(self) -> int:
        by = await self.link.call("HGET", keys.held_by_key(SHARD), ORGANISATION)
        held = int(await self.link.call("GET", keys.held_key(SHARD)) or 0)
        assert held == int(by or 0)
        return held

    async def events(self) -> list[tuple[str, str]]:
        entries = await self.link.call("XRANGE", keys.activity_key(SHARD), "-", "+")
        rows = [row for _, fields in entries for row in msgspec.msgpack.decode(fields[1])]
        return [(row[4], row[2]) for row in rows if row[4] == "canceled"]


@pytest.fixture
async def waiting(redis_url: str) -> AsyncIterator[Waiting]:
    async with own_database(redis_url, _DATABASE) as link:
        waiting = Waiting(link)
        await waiting.begin()
        yield waiting


def ids(some: Sequence[Message]) -> list[str]:
    return [m.id for m in some]


async def test_a_message_in_a_bundle_is_canceled_and_the_others_are_sent(waiting: Waiting) -> None:
    some = await waiting.admit(30)
    found = await waiting.cancel(some[10:11])
    assert found.canceled == {some[10].id}
    assert await waiting.held() == 58
    assert await waiting.events() == [("canceled", some[10].id)]
    assert sorted(await waiting.read_all()) == ids(some[:10] + some[11:])
    # Again there is none; what a worker has is told apart.
    found = await waiting.cancel(some[10:12])
    assert (found.canceled, found.in_hand) == (set(), {some[11].id})
    assert await waiting.held() == 58


async def test_what_a_worker_has_in_hand_is_left_alone(waiting: Waiting) -> None:
    some = await waiting.admit(40)
    given = await waiting.read(1)
    found = await waiting.cancel(some)
    assert found.in_hand == set(given)
    assert found.canceled == set(ids(some)) - set(given)
    assert await waiting.held() == 2 * len(given) > 0
    assert await waiting.read_all() == []


async def test_one_of_many_that_are_due_at_one_instant_is_found(waiting: Waiting) -> None:
    due_at_us = now_us() + 3_600_000_000
    before = await waiting.admit(3, due_at_us=due_at_us - 1)
    some = [m for _ in range(5) for m in await waiting.admit(400, due_at_us=due_at_us)]
    await waiting.admit(3, due_at_us=due_at_us + 1)
    for m in (some[0], some[777], some[-1]):
        # All that is not due then is not looked at.
        assert len(await waiting.cancel([m], due_at_us=[due_at_us - 1])) == 0
        assert (await waiting.cancel([m], due_at_us=[due_at_us])).canceled == {m.id}
    assert len((await waiting.cancel(some[:400], due_at_us=[due_at_us])).canceled) == 399
    assert (await waiting.cancel(before[:1], far=True)).canceled == set()
    assert await waiting.held() == 2 * (2006 - 3 - 399)
    assert await waiting.link.call("ZCARD", keys.due_key(SHARD, "normal")) == 2006 - 3 - 399


async def test_messages_of_an_older_version_are_found_beside_ours_that_are_due_at_the_same_instant(
    waiting: Waiting,
) -> None:
    due_at_us, due = now_us() + 3_600_000_000, keys.due_key(SHARD, "normal")
    some = await waiting.admit(300, due_at_us=due_at_us)
    # As a version that does not write the time into the message has put them there.
    ours = await waiting.link.call("ZRANGE", due, 0, -1)
    older = [message_format.packed(msgspec.msgpack.decode(payload, type=Message)) for payload in ours[::2]]
    assert {payload[0] for payload in ours} == {0xDC}
    assert {payload[0] for payload in older} == {0x9F}
    await waiting.link.call("ZREM", due, *ours[::2])
    await waiting.link.call("ZADD", due, *(part for payload in older for part in (due_at_us, payload)))
    for m in (some[0], some[1], some[150], some[-2], some[-1]):
        assert (await waiting.cancel([m], due_at_us=[due_at_us])).canceled == {m.id}
    assert len((await waiting.cancel(some, due_at_us=[due_at_us])).canceled) == 295
    assert await waiting.link.call("ZCARD", due) == await waiting.held() == 0


async def test_a_message_that_was_put_off_until_an_unknown_time_is_found(waiting: Waiting) -> None:
    some = await waiting.admit(3, due_at_us=now_us() + 30_000_000)
    assert (await waiting.cancel(some[1:2])).canceled == set()
    assert (await waiting.cancel(some[1:2], far=True)).canceled == {some[1].id}


@pytest.mark.parametrize("paused", [False, True])
async def test_a_message_is_found_in_a_long_list(waiting: Waiting, paused: bool) -> None:
    if paused:
        limited = (
            keys.wait_key(SHARD, "normal"),
            f"limits:{ORGANISATION}",
            "1 paused",
            "limited",
            1,
            "paused",
            1,
        )
        await waiting.link.call("HSET", *limited)
    at_us = now_us()
    some = [m for n in range(20) for m in await waiting.admit(100, at_us=at_us + 1000 * n)]
    for m in (some[300], some[1000], some[1999], some[1500]):
        assert (await waiting.cancel([m])).canceled == {m.id}
    # All of one that came together.
    assert len((await waiting.cancel(some[700:800])).canceled) == 100
    # The last ones, and then more come.
    assert len((await waiting.cancel(some[1990:2000], far=True)).canceled) == 9
    more = await waiting.admit(5)
    gone = {message_id for _, message_id in await waiting.events()}
    left = [m for m in some if m.id not in gone] + more
    assert await waiting.held() == 2 * len(left)
    parked = await waiting.link.call("HGET", keys.wait_key(SHARD, "normal"), "parked")
    assert int(parked or 0) == (len(left) if paused else 0)
    assert await waiting.read_all() == ([] if paused else ids(left))


async def test_a_list_that_is_canceled_to_the_last_leaves_no_turn_behind(waiting: Waiting) -> None:
    some = await waiting.admit(1000)
    ready = await waiting.read()
    found = await waiting.cancel(some, far=True)
    assert len(found.canceled) + len(found.in_hand) == 1000
    assert found.in_hand == set(ready)
    left = await waiting.link.call("HGETALL", keys.wait_key(SHARD, "normal"))
    assert set(left[::2]) <= {b"bundled", b"number", b"run", b"mark"}
    assert await waiting.link.call("EXISTS", keys.line_keys(SHARD, "normal")[2]) == 0


async def test_a_list_of_which_every_message_has_expired_holds_up_nobody(waiting: Waiting) -> None:
    await waiting.link.batch([wire.refill("normal", SHARD, wire.Room(4))])
    over = [message(name, organisation_id=ORGANISATION, expires_at_us=1) for name in waiting.ids.make(1, 2)]
    other = [
        message(name, organisation_id=ORGANISATION + _SHARDS, expires_at_us=FAR_FUTURE_US)
        for name in waiting.ids.make(2, 30)
    ]
    for some in (other, over):
        await waiting.put(some)
    # A worker has made room, which nobody has filled yet.
    given = await waiting.read()
    await waiting.link.batch([wire.sift("normal", SHARD, b"0", 1000, wire.Room(4))], timeout_s=5)
    assert sorted(given + await waiting.read_all()) == sorted(ids(over + other))


async def test_what_is_recorded_is_the_row_that_every_other_end_has(waiting: Waiting) -> None:
    at_us = now_us() // 1000 * 1000
    (name,) = waiting.ids.make(at_us // 1000, 1)
    one = message(
        name, organisation_id=ORGANISATION, accepted_at_us=at_us, reference="r" * 40, attempts=1,
        callback_url="https://example.com/x",
    )  # fmt: skip
    await waiting.put([one])
    await waiting.cancel([one])
    entries = await waiting.link.call("XRANGE", keys.activity_key(SHARD), "-", "+")
    (row,) = msgspec.msgpack.decode(entries[-1][1][1], type=list[ActivityRow])
    expected = row_of(one, name, "normal", "canceled", row.at_us, attempt=1)
    assert row == expected
    assert row.at_us >= at_us
    # All fields but the last two: the text, which only an acceptance has, and how receipts name an attempt.
    assert len(msgspec.msgpack.decode(entries[-1][1][1])[0]) == len(ActivityRow.__struct_fields__) - 2


async def test_a_campaign_is_canceled_wherever_it_waits_and_nothing_else_is(
    waiting: Waiting,
) -> None:
    at_us = now_us()
    some, others = [], []
    for due_at_us in (0, at_us + 3_600_000_000, at_us + 7_200_000_000):
        for n in range(3):
            some += await waiting.admit(40, due_at_us=due_at_us, reference=("spring", f"spring-{n}")[n % 2])
            others += await waiting.admit(30, due_at_us=due_at_us, reference=("springs", "", "sprin")[n])
    given = set(await waiting.read(1))
    (call,) = await waiting.cancel_campaign("spring")
    in_hand = given & {m.id for m in some}
    assert call.canceled == len(some) - len(in_hand) > 300
    assert call.units == 2 * call.canceled
    assert call.not_canceled == ({"being_sent": len(in_hand)} if in_hand else {})
    assert {i for _, i in await waiting.events()} == {m.id for m in some} - in_hand
    assert await waiting.held() == 2 * (len(others) + len(in_hand))
    assert set(await waiting.read_all()) | given == in_hand | {m.id for m in others[:90]}
    assert await waiting.link.call("ZCARD", keys.due_key(SHARD, "normal")) == 180
    # Again there is none.
    (call,) = await waiting.cancel_campaign("spring")
    assert (call.canceled, call.units) == (0, 0)


async def test_a_campaign_that_is_due_at_one_instant_is_found_beside_others_that_come(
    waiting: Waiting,
) -> None:
    due_at_us = now_us() + 3_600_000_000
    some = [m for _ in range(3) for m in await waiting.admit(700, due_at_us=due_at_us, reference="spring")]
    found, place = 0, place_of("")
    while place is not None:
        step = await waiting.cancels.cancel_campaign(ORGANISATION, "spring", place)
        found, place = found + len(step.found.canceled), step.next
        # In front of what is still to be looked at, and behind it.
        await waiting.admit(9, due_at_us=due_at_us - 1)
        await waiting.admit(9, due_at_us=due_at_us + 1)
        await waiting.admit(9, due_at_us=due_at_us)
    assert found == len(some)


@pytest.mark.parametrize(("name", "bound"), [("_CANCELED_MAX", 100), ("_CALL_S", 0.0)])
async def test_a_call_cancels_so_many_or_takes_so_long_and_the_next_goes_on(
    waiting: Waiting, monkeypatch: pytest.MonkeyPatch, name: str, bound: float
) -> None:
    monkeypatch.setattr(f"engine.activity.campaigns.{name}", bound)
    for _ in range(8):
        await waiting.admit(400, reference="spring:x")
    await waiting.admit(900, due_at_us=now_us() + 3_600_000_000, reference="spring")
    calls = await waiting.cancel_campaign("spring")
    assert len(calls) > 3
    assert max(call.canceled for call in calls) < 1500
    assert sum(call.canceled for call in calls) == 4100
    assert await waiting.held() == 0
    assert await waiting.read_all() == []


@pytest.mark.parametrize(
    "cursor", ["x", "normal", "normal:due:1", "normal:due:+inf:0:", "slow:ready", "normal:list:-1"]
)
def test_a_cursor_that_is_no_next_is_none(cursor: str) -> None:
    assert place_of(cursor) is None
