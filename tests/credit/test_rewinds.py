"""A Redis that comes back without its last moments: always noticed, and never spent over.

The server here is the tests' own. It syncs its file before it answers, so cutting the file to
the length it had at a moment brings back exactly that moment.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

import asyncpg
import msgspec
import pytest

from engine import redis_keys as keys
from engine.credit.flush import Flush, Note
from engine.credit.ledger_records import BookedNote, RemainingUnits, ShardLife, StoredAnswer, StreamMark
from engine.credit.losses import goes_on
from engine.credit.records import LedgerAnswer, QuotaRequest
from engine.errors import Fenced, Unavailable
from engine.records import Addressed, Message, Submission
from engine.shards import shard_of
from engine.stores.redis.admission import RedisAdmission
from engine.stores.redis.link import RedisLink, load_functions
from engine.stores.redis.lua_libraries import versioned
from engine.stores.redis.queue_wire import Room
from engine.stores.redis.settle_wire import Settled, settle
from engine.stores.redis.usage import RedisUsage
from engine.stream_id import STREAM_START, StreamId
from supervisor.embedded.servers import Server, start_redis
from tests.credit.test_credit import SHARDS, World, accepted, drafts, eventually, render, world


class Machine:
    """A Redis with a file, and the way back to an earlier moment."""

    def __init__(self, folder: Path) -> None:
        self._files = folder / "redis" / "appendonlydir"
        self.server: Server = start_redis(folder)

    @property
    def url(self) -> str:
        return self.server.url

    def moment(self) -> dict[Path, int]:
        return {path: path.stat().st_size for path in self._files.iterdir()}

    def kill(self) -> None:
        os.kill(self.server.pid, signal.SIGKILL)

    def go_back(self, moment: dict[Path, int]) -> None:
        self.kill()
        for path, size in moment.items():
            os.truncate(path, size)
        self.server.restart()


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    machine = Machine(tmp_path)
    yield machine
    machine.server.stop(10)


@pytest.fixture
async def both(machine: Machine, books_url: str) -> AsyncIterator[World]:
    link = RedisLink(machine.url, timeout_s=5, name="test")
    await link.start()
    await load_functions(link)
    await link.close()
    async with world(machine.url, books_url) as w:
        yield w


async def closed(w: World) -> list[tuple[str, int, str]]:
    """Movements by which the books were closed: (movement, units, cause)."""
    rows = await fetch(w, "SELECT movement, units, reference FROM journal WHERE reference LIKE 'Redis %'")
    return [(row["movement"], row["units"], row["reference"]) for row in rows]


async def fetch(w: World, query: str) -> list[asyncpg.Record]:
    connection = await asyncpg.connect(w.postgres_url)
    try:
        return list(await connection.fetch(query))
    finally:
        await connection.close()


async def losses(w: World) -> int:
    return sum(row[0] for row in await fetch(w, "SELECT losses FROM shards"))


async def held(w: World, organisation_id: int, units: int) -> bool:
    return (await w.directory.balance(organisation_id)).held == units


async def served(ingest: object, organisation_id: int, count: int) -> bool:
    try:
        submitted = await ingest.submit(organisation_id, drafts(count), render=render)  # type: ignore[attr-defined]
    except Unavailable:
        return False
    return accepted(submitted) == count


async def test_what_was_lost_gives_its_units_back_with_the_cause_and_service_goes_on(
    both: World, machine: Machine
) -> None:
    await both.ledger()
    ingest, _ = await both.holder("h1")
    org = await both.organisation(1000)
    assert await served(ingest, org, 40)
    await eventually(partial(held, both, org, 40))
    moment = machine.moment()
    assert await served(ingest, org, 30)
    await eventually(partial(held, both, org, 70))
    machine.go_back(moment)
    await eventually(partial(served, ingest, org, 10))
    await eventually(partial(held, both, org, 50))
    await both.clean(lost=True)
    found = await closed(both)
    assert ("release", 30) in [movement[:2] for movement in found]
    assert all(cause.startswith("Redis went back in generation ") for _, _, cause in found)


async def test_new_entries_do_not_hide_that_others_were_lost(both: World, machine: Machine) -> None:
    draining = await both.ledger()
    ingest, _ = await both.holder("h1")
    admission = RedisAdmission(both.link, both.link, SHARDS)
    for number in range(20):
        await admission.register(f"spare{number}")
    org = await both.organisation(1000)
    # What follows needs no grant, so only usage is lost.
    assert await served(ingest, org, 1)
    await eventually(partial(held, both, org, 1))
    moment = machine.moment()
    for _ in range(5):
        assert await served(ingest, org, 1)
    await eventually(partial(held, both, org, 6))
    draining.set()
    with suppress(Unavailable):
        await admission.fence("h1")
    machine.go_back(moment)
    # With these the stream is longer than ever, and its last id far behind the books' position.
    for number in range(20):
        await eventually(partial(fenced, admission, f"spare{number}"))
    shard = shard_of(org, SHARDS)
    position = (await fetch(both, f"SELECT position FROM shards WHERE shard = {shard}"))[0][0]
    assert await both.link.call("XLEN", keys.usage_key(shard)) >= 20
    assert len(await both.link.call("XRANGE", keys.usage_key(shard), f"({position}", "+")) >= 20
    await both.ledger()
    await eventually(partial(held, both, org, 1))
    assert ("release", 5) in [movement[:2] for movement in await closed(both)]
    await both.clean(lost=True)


async def fenced(admission: RedisAdmission, name: str) -> bool:
    try:
        await admission.fence(name)
    except Unavailable:
        return False
    return True


async def test_after_a_restart_that_lost_nothing_the_ledger_looks_and_the_books_stay_open(
    both: World, machine: Machine
) -> None:
    draining = await both.ledger()
    ingest, quota = await both.holder("h1")
    org = await both.organisation(1000)
    assert await served(ingest, org, 40)
    draining.set()
    await eventually(partial(held, both, org, 40))
    machine.go_back(machine.moment())
    # Nobody has looked yet, and there is quota left.
    assert quota.credit.remaining(org) >= 1
    ingest._running.after_s = 1.0
    with pytest.raises(Unavailable):
        await ingest.submit(org, drafts(1), render=render)
    ingest._running.after_s = 5.0
    await both.ledger()
    await eventually(partial(served, ingest, org, 2))
    assert await losses(both) == 0
    # What was not answered in time was admitted all the same: one flush, sent until it was heard.
    await eventually(partial(held, both, org, 43))
    await both.clean()


async def test_a_fence_that_was_lost_lets_nobody_spend_what_others_were_granted(
    both: World, machine: Machine
) -> None:
    await both.ledger()
    org = await both.organisation(100)
    first, second = await Hand.of(both, "h1", org), await Hand.of(both, "h2", org)
    await first.ask()
    assert await first.granted() == 100
    await second.ask()
    await eventually(partial(recalled, both, first))
    moment = machine.moment()
    # The first is thought to be dead, and the second is granted all it had.
    await RedisAdmission(both.link, both.link, SHARDS).fence("h1")
    assert await second.granted() == 100
    machine.go_back(moment)
    # Of the fence nothing is known any more. Whatever they try, they cannot both spend.
    outcomes = await asyncio.gather(first.spend(), second.spend())
    assert sum(outcomes) <= 1
    await eventually(partial(looked_at, both))
    await both.clean(lost=True)


async def test_a_fence_that_was_booked_by_half_and_lost_lets_nobody_spend_what_others_were_granted(
    both: World, machine: Machine
) -> None:
    """Another ledger leads then, and it has never read the fence."""
    draining = await both.ledger()
    org = await both.organisation(100)
    first, second = await Hand.of(both, "h1", org), await Hand.of(both, "h2", org)
    while shard_of(locked := await both.organisation(100), SHARDS) != first.shard:
        pass
    await first.ask()
    await first.ask(locked)

    async def available(units: dict[int, int]) -> bool:
        rows = await fetch(both, "SELECT organisation_id, available FROM accounts")
        found = {row[0]: row[1] for row in rows}
        return all(found[o] == of for o, of in units.items())

    await eventually(partial(available, {org: 0, locked: 0}))
    moment = machine.moment()
    # The fence ends the one quota, and not the other, whose account an operator has locked.
    beside = await asyncpg.connect(both.postgres_url)
    transaction = beside.transaction()
    await transaction.start()
    await beside.execute("SELECT FROM accounts WHERE organisation_id = $1 FOR UPDATE", locked)
    await RedisAdmission(both.link, both.link, SHARDS).fence("h1")
    await eventually(partial(available, {org: 100, locked: 0}))
    draining.set()

    async def nobody_leads() -> bool:
        return not await fetch(both, "SELECT FROM pg_locks WHERE locktype = 'advisory'")

    await eventually(nobody_leads)
    await transaction.rollback()
    await beside.close()
    machine.go_back(moment)
    await both.ledger()
    # Of the fence nothing is known any more. Whatever they try, they cannot both spend.
    granted = await second.ask() and await second.granted() == 100
    outcomes = [await first.spend(), granted and await second.spend()]
    assert sum(outcomes) <= 1
    assert await closed(both)
    await both.clean(lost=True)


class Hand:
    """A holder that does as it is told, and hears of no recall."""

    def __init__(self, w: World, name: str, organisation_id: int, link: RedisLink, epoch: int) -> None:
        self.name = name
        self.shard = shard_of(organisation_id, SHARDS)
        self._organisation_id = organisation_id
        self._link = link
        self._admission = RedisAdmission(link, link, SHARDS)
        self._epoch = epoch
        self._sequence = 0

    @classmethod
    async def of(cls, w: World, name: str, organisation_id: int) -> Hand:
        link = await w.open_link()
        epochs = await RedisAdmission(link, link, SHARDS).register(name)
        return cls(w, name, organisation_id, link, epochs[shard_of(organisation_id, SHARDS)])

    async def ask(self, organisation_id: int | None = None) -> bool:
        """Ask for 100 units, of another organisation of the shard when it is named; False when fenced."""
        asked = self._organisation_id if organisation_id is None else organisation_id
        request = QuotaRequest(
            number=self._sequence + 1, organisation_id=asked, wanted=400, needed=100, waiting=100
        )
        return await self._insist([], [Note("request", msgspec.msgpack.encode(request))])

    async def granted(self) -> int:
        """The grant, when it has come."""
        inbox, after = keys.inbox_key(self.shard, self.name), "0-0"
        while True:
            reply = await self._link.call("XREAD", "BLOCK", 4000, "STREAMS", inbox, after)
            assert reply, "no grant"
            for entry_id, fields in reply[0][1]:
                answer = msgspec.msgpack.decode(fields[1], type=LedgerAnswer)
                if answer.kind == "grant":
                    return answer.units
                after = entry_id.decode()

    async def spend(self) -> bool:
        """All 100 units at once, insisting; whether they are held."""
        message = Message(
            id=f"m-{self.name}", organisation_id=self._organisation_id, to="+4915112345678", text="x",
            sender="", encoding="GSM-7", segments=1, units=100, accepted_at_us=1, expires_at_us=1 << 50,
        )  # fmt: skip
        whole = Submission(
            organisation_id=message.organisation_id,
            messages=[Addressed(queue="normal", message=message)],
            units=100,
        )
        return await self._insist([(0, whole)], [])

    async def _insist(self, submissions: list[tuple[int, Submission]], notes: list[Note]) -> bool:
        """Flush until there is an outcome; whether the flush was applied."""
        while True:
            try:
                return not isinstance(await self._flush(submissions, notes), Fenced)
            except Unavailable:
                self._sequence -= 1
                await asyncio.sleep(0.02)

    async def _flush(self, submissions: list[tuple[int, Submission]], notes: list[Note]) -> object:
        self._sequence += 1
        flush = Flush(self.shard, self._epoch, self._sequence, submissions, notes)
        return (await self._admission.admit(self.name, [flush], 5.0))[0]


async def recalled(w: World, hand: Hand) -> bool:
    return await w.link.call("XLEN", keys.inbox_key(hand.shard, hand.name)) == 2  # type: ignore[no-any-return]


async def looked_at(w: World) -> bool:
    """A ledger has looked at every shard in this run of Redis."""
    try:
        return all(life.seen_run == life.run for life in await RedisUsage(w.link, w.link, SHARDS).lives({}))
    except Unavailable:
        return False


async def test_an_answer_that_redis_has_forgotten_ends_in_a_new_generation(both: World) -> None:
    await both.ledger()
    ingest, _ = await both.holder("h1")
    org = await both.organisation(1000)
    shard = shard_of(org, SHARDS)
    assert await served(ingest, org, 1)
    # The answer is deleted from the books with what they apply after it was sent.
    assert await served(ingest, org, 1)

    async def known() -> bool:
        return (await fetch(both, f"SELECT delivered FROM shards WHERE shard = {shard}"))[0][0] > 0

    await eventually(known)
    await both.link.batch(
        [
            ("HSET", keys.usage_head_key(shard), "delivered", 0),
            ("DEL", keys.inbox_key(shard, "h1")),
        ]
    )

    async def noticed() -> bool:
        return await losses(both) >= 1

    await eventually(noticed)
    await eventually(partial(served, ingest, org, 1))
    await both.clean(lost=True)


async def test_entries_of_an_older_version_are_applied_and_the_chain_goes_on_from_them(both: World) -> None:
    draining = await both.ledger()
    org = await both.organisation(1000)
    shard = shard_of(org, SHARDS)
    draining.set()

    async def open_() -> bool:
        return len(await fetch(both, "SELECT 1 FROM shards")) == SHARDS

    await eventually(open_)
    # As it was before there were links: none in the books, none in Redis.
    await fetch(both, "UPDATE shards SET link = '', delivered = 0")
    await both.link.batch([("DEL", keys.usage_head_key(s)) for s in range(SHARDS)])
    for number in range(3):
        usage = keys.usage_key(shard)
        await both.link.call("XADD", usage, "*", "k", "fence", "h", f"old{number}", "e", 1, "d", "")
    ingest, _ = await both.holder("h1")
    await both.ledger()
    assert await served(ingest, org, 7)
    await eventually(partial(held, both, org, 7))
    assert await losses(both) == 0
    assert (await fetch(both, f"SELECT link FROM shards WHERE shard = {shard}"))[0][0] != ""
    await both.clean()


# -- one shard, from outside


@pytest.fixture
async def link(streams_url: str) -> AsyncIterator[RedisLink]:
    link = RedisLink(streams_url, timeout_s=5, name="test")
    await link.start()
    yield link
    await link.close()


async def begun(link: RedisLink) -> tuple[RedisUsage, ShardLife]:
    """One shard that lives as g1."""
    usage = RedisUsage(link, link, 1)
    life = (await usage.lives({}))[0]
    await usage.begin({0: "g1"}, life.run)
    return usage, (await usage.lives({}))[0]


async def test_a_close_that_comes_late_changes_nothing(link: RedisLink) -> None:
    usage, life = await begun(link)
    admission = RedisAdmission(link, link, 1)
    await admission.register("h1")
    assert await usage.close(life, "g2", "g1", StreamMark()) == {}
    await usage.begin({0: "g2"}, life.run)
    epoch = (await admission.register("h1"))[0]
    with pytest.raises(Unavailable):
        await usage.close(life, "g3", "g1", StreamMark())
    assert await link.call("GET", keys.generation_key(0)) == b"g2"
    assert await admission.beat("h1", [(epoch, 0)])
    # Nor does a beginning of the life before, or one seen in another run of the server.
    with pytest.raises(Unavailable):
        await usage.begin({0: "g1"}, life.run)
    with pytest.raises(Unavailable):
        await usage.begin({0: "g2"}, "another")
    assert await link.call("GET", keys.generation_key(0)) == b"g2"


async def test_closing_again_keeps_what_was_settled_in_between(link: RedisLink) -> None:
    usage, life = await begun(link)
    note = BookedNote("g1", StreamId(9, 0), 3)
    await usage.send([], {}, {0: note})
    await usage.close(life, "g2", "g1", StreamMark())
    # The next ledger tells by it who went back.
    assert (await usage.lives({}))[0].note == note
    # A worker settles a message of 5 units meanwhile.
    await link.call("SET", keys.held_key(0), 5)
    await link.call("HSET", keys.held_by_key(0), 7, 5)
    stream = keys.queue_key(0, "normal")
    await link.call("XGROUP", "CREATE", stream, keys.GROUP, "0", "MKSTREAM")
    entry_id = await link.call("XADD", stream, "*", "m", b"x")
    await link.call("XREADGROUP", "GROUP", keys.GROUP, "w1", "STREAMS", stream, ">")
    captured = settle("normal", "w1", 0, Room(4), [Settled(entry_id, 0, 1, "captured", 7, 5)])
    assert await link.call(*captured) == [1, 0]
    again = (await usage.lives({}))[0]
    assert again.generation == "closing:g2"
    assert await usage.close(again, "g3", "g1", StreamMark(StreamId(5, 0), "of g1")) == {
        7: RemainingUnits(5, 0)
    }
    await usage.begin({0: "g3"}, life.run)
    entries = await usage.read({0: STREAM_START}, 10, 1)
    assert [(e.kind, e.follows) for e in entries] == [("settle", "g3")]


async def test_a_shard_knows_its_mark_when_everything_was_trimmed_and_not_what_it_never_had(
    link: RedisLink,
) -> None:
    usage, _ = await begun(link)
    admission = RedisAdmission(link, link, 1)
    for name in ("h1", "h2", "h3"):
        await admission.register(name)
        await admission.fence(name)
    entries = await usage.read({0: STREAM_START}, 10, 1)
    marks = [StreamMark(), *[StreamMark(e.position, e.link) for e in entries]]
    for mark in marks:
        assert goes_on(mark, (await usage.lives({0: mark}))[0])
    other = StreamMark(entries[1].position, entries[0].link)
    assert not goes_on(other, (await usage.lives({0: other}))[0])
    await usage.trim({0: entries[-1].position})
    assert await usage.read({0: STREAM_START}, 10, 1) == []
    assert goes_on(marks[-1], (await usage.lives({0: marks[-1]}))[0])
    assert not goes_on(marks[-2], (await usage.lives({0: marks[-2]}))[0])


async def test_answers_are_put_once_in_the_order_of_their_rows_whoever_sends_them(link: RedisLink) -> None:
    usage, _ = await begun(link)
    inbox = keys.inbox_key(0, "h1")

    async def rows() -> list[bytes]:
        return [fields[1] for _, fields in await link.call("XRANGE", inbox, "-", "+")]

    def answers(*numbers: int) -> list[StoredAnswer]:
        return [StoredAnswer(n, 0, "h1", b"%d" % n) for n in numbers]

    await usage.send(answers(1, 2), {})
    await usage.send(answers(1, 2, 3), {})
    assert await rows() == [b"1", b"2", b"3"]
    # A ledger that was frozen knows of less; one that knows of more than is there finds it out.
    await usage.send(answers(2), {0: 1})
    assert await rows() == [b"1", b"2", b"3"]
    with pytest.raises(Unavailable):
        await usage.send(answers(9), {0: 8})
    assert await rows() == [b"1", b"2", b"3"]
    assert (await usage.lives({}))[0].delivered == 3


async def test_a_holder_that_was_heard_further_than_redis_remembers_is_told_at_its_next_heartbeat(
    link: RedisLink,
) -> None:
    await begun(link)
    admission = RedisAdmission(link, link, 1)
    epoch = (await admission.register("h1"))[0]
    for sequence in (1, 2):
        await admission.admit("h1", [Flush(0, epoch, sequence, [], [])], 5.0)
    assert await admission.beat("h1", [(epoch, 1)])
    assert await admission.beat("h1", [(epoch, 2)])
    assert not await admission.beat("h1", [(epoch, 3)])
    assert not await admission.beat("h1", [(epoch - 1, 2)])


async def test_no_epoch_comes_again_when_redis_has_forgotten_it(link: RedisLink) -> None:
    admission = RedisAdmission(link, link, 1)
    first = (await admission.register("h1"))[0]
    await link.call("FLUSHALL")
    await load_functions(link)
    assert (await admission.register("h1"))[0] > first


async def used(link: RedisLink, flushes: int) -> None:
    """A holder's flushes, each with one message of 2 units, of organisations 1 to 7 in turn."""
    admission = RedisAdmission(link, link, 1)
    epoch = (await admission.register("h1"))[0]
    for n in range(1, flushes + 1):
        message = Message(
            id=f"m{n}", organisation_id=1 + n % 7, to="+1", text="x", sender="", encoding="GSM-7",
            segments=1, units=2, accepted_at_us=1, expires_at_us=2,
        )  # fmt: skip
        queue = "express" if n % 2 else "normal"
        given = Submission(
            organisation_id=message.organisation_id,
            messages=[Addressed(queue=queue, message=message, due_at_us=n % 3)],  # type: ignore[arg-type]
            units=2,
        )
        await admission.admit("h1", [Flush(0, epoch, n, [(1, given)], [])], 5.0)


async def test_a_shard_is_closed_by_what_was_used_however_much_that_is_and_no_call_reads_all(
    link: RedisLink,
) -> None:
    usage, life = await begun(link)
    await used(link, 1750)
    await link.call("CONFIG", "RESETSTAT")
    left = await usage.close(life, "g2", "g1", StreamMark())
    assert left == {org: RemainingUnits(500, 500) for org in range(1, 8)}
    # The usage came page by page, and no queue was read.
    info = (await link.call("INFO", "commandstats")).decode()
    calls = dict(line.split(":calls=") for line in info.splitlines() if ":calls=" in line)
    assert int(calls["cmdstat_xrange"].split(",")[0]) == 1 + 4 + 1
    assert "cmdstat_zrange" not in calls


async def test_units_of_the_version_before_which_kept_their_sum_alone_are_counted_once(
    link: RedisLink,
) -> None:
    usage, life = await begun(link)
    await used(link, 70)
    by = await link.call("HGETALL", keys.held_by_key(0))
    await link.call("DEL", keys.held_by_key(0))
    await usage.prepare()
    assert sorted(await link.call("HGETALL", keys.held_by_key(0))) == sorted(by)
    assert await link.call("GET", keys.held_key(0)) == b"140"
    # And where no ledger had the time to do so, by the close.
    await link.call("DEL", keys.held_by_key(0))
    left = await usage.close(life, "g2", "g1", StreamMark())
    assert left == {org: RemainingUnits(20, 20) for org in range(1, 8)}


async def test_what_is_settled_between_the_two_steps_of_a_close_counts(link: RedisLink) -> None:
    usage, _ = await begun(link)
    await used(link, 7)
    stream = keys.queue_key(0, "normal")
    await link.call("FCALL", versioned("make_group"), 1, stream)
    reply = await link.call("XREADGROUP", "GROUP", keys.GROUP, "w1", "STREAMS", stream, ">")
    [(entry_id, _)] = reply[0][1]
    # The ledger that sealed the shard dies; nothing of its books is known here.
    names = await link.call("HKEYS", keys.holders_key(0))
    sealed = [keys.generation_key(0), keys.holders_key(0), keys.usage_key(0), keys.usage_head_key(0)]
    for name in map(bytes.decode, names):
        sealed += [keys.holder_key(0, name), keys.inbox_key(0, name)]
    seal = ("FCALL", versioned("seal"), len(sealed), *sealed, "g1", "g2", "g1", "5-0", "elsewhere", *names)
    assert await link.call(*seal) is not None
    captured = settle("normal", "w1", 0, Room(4), [Settled(entry_id, 0, 1, "captured", 7, 2)])
    assert await link.call(*captured) == [1, 0]
    again = (await usage.lives({}))[0]
    left = await usage.close(again, "g3", "g1", StreamMark(StreamId(5, 0), "elsewhere"))
    assert sum(of.held for of in left.values()) == 14
    entries = await usage.read({0: STREAM_START}, 10, 1)
    assert [(e.kind, e.follows, msgspec.msgpack.decode(e.data)) for e in entries] == [
        ("settle", "g3", [7, 2, 0])
    ]
