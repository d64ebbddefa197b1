"""The audit on real stores: its three answers, and with a store away, behind or written by others."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Iterator

import asyncpg
import msgspec
import pytest

from engine.credit.laws import Audit, Check
from engine.errors import Unavailable
from engine.redis_keys import activity_key, held_key, moved_key, queue_key, usage_key
from engine.shards import shard_of
from engine.stores.postgres.audit_books import AuditBooks
from engine.stores.redis.link import load_functions
from tests.activity.world import blob_of, make_row
from tests.credit.audit_world import LAWS, Audited, Stores, audited, broken, given, not_checked, verdicts
from tests.credit.test_credit import SHARDS, eventually

# What cannot be checked when a store is away.
NEEDS = {
    "postgres": {"conservation", "quotas", "journal", "held", "activity", "checkpoints", "unbooked"},
    "redis": {"held", "queues", "activity"},
    "clickhouse": {"activity"},
}


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stores]:
    stores = Stores(tmp_path_factory.mktemp("audited"))
    yield stores
    stores.stop()


@pytest.fixture
async def engine(stores: Stores) -> AsyncIterator[Audited]:
    async with audited(stores) as engine:
        yield engine


async def test_all_laws_are_checked_and_the_past_is_closed_once_a_day(engine: Audited) -> None:
    await engine.organisations(6, 10)
    first = await engine.reader.audit()
    assert verdicts(first) == dict.fromkeys(LAWS, "clean"), first
    assert (first.verdict, first.clean, first.closed_shards, first.activity_rows) == (
        "clean",
        True,
        SHARDS,
        60,
    )
    # The ledger may have booked more since.
    assert 6 <= first.journal_rows <= (await engine.books("SELECT count(*) FROM journal"))[0][0]
    second = await engine.reader.audit()
    assert (second.verdict, second.closed_shards, second.activity_rows) == ("clean", 0, 0)
    # Whatever has come since is added to what was closed.
    await engine.organisations(2, 5)
    third = await engine.reader.audit()
    assert (third.verdict, third.closed_shards, third.activity_rows) == ("clean", 0, 10)
    assert third.totals["topped_up"] == 8000
    full = await engine.reader.audit(full=True)
    assert (full.verdict, full.full, full.activity_rows) == ("clean", True, 70)
    assert full.closed_shards == SHARDS


async def test_audits_under_load_are_clean(engine: Audited) -> None:
    made = await engine.organisations(4, 1, units=100_000)
    sent, stopping = asyncio.Event(), asyncio.Event()

    async def customer(organisation_id: int) -> None:
        while not stopping.is_set():
            await engine.send(organisation_id, 5)
            sent.set()
            await asyncio.sleep(0.005)

    async with asyncio.TaskGroup() as customers:
        for organisation_id in made:
            customers.create_task(customer(organisation_id))
        for full in (False, False, True, False, False):
            # There was traffic between any two of them.
            sent.clear()
            await sent.wait()
            audit = await engine.reader.audit(full=full)
            assert audit.clean, audit
        stopping.set()


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("name", list(NEEDS))
async def test_a_store_that_is_away_costs_the_laws_that_need_it_and_no_others(
    engine: Audited, name: str, frozen: bool
) -> None:
    await engine.organisations(3, 5)
    if frozen:
        engine.stores.freeze(name)
    else:
        engine.stores.kill(name)
    try:
        audit = await given(engine.reader.audit(timeout_s=30))
    finally:
        if frozen:
            engine.stores.thaw(name)
        else:
            engine.stores.start_again(name)
    assert not_checked(audit) == NEEDS[name], audit
    assert broken(audit) == set()
    assert (audit.verdict, audit.clean) == ("not_checked", False)
    assert bool(audit.totals) == (name != "postgres")
    for check in audit.checks:
        assert bool(check.advice) == (check.verdict != "clean")

    async def clean() -> bool:
        try:
            return (await engine.reader.audit()).clean
        except Unavailable:
            return False

    await eventually(clean)


async def test_with_nothing_to_look_at_there_is_no_verdict(engine: Audited) -> None:
    engine.stores.freeze("postgres")
    engine.stores.freeze("redis")
    try:
        with pytest.raises(Unavailable, match=r"PostgreSQL.*Redis") as e:
            await engine.reader.audit(timeout_s=20)
        assert e.value.detail.count("PostgreSQL cannot serve") == 1
        assert e.value.detail.count("Redis cannot be asked") == 1
    finally:
        engine.stores.thaw("postgres")
        engine.stores.thaw("redis")


async def test_a_store_that_freezes_in_the_middle_costs_no_more_than_the_deadline(engine: Audited) -> None:
    await engine.organisations(3, 5)
    # Whoever reads the accounts waits for this lock, as for a server that has stopped.
    blocker = await asyncpg.connect(engine.world.postgres_url)
    await blocker.execute("BEGIN; LOCK TABLE quotas IN ACCESS EXCLUSIVE MODE")
    audit = await given(engine.reader.audit(timeout_s=2))
    await blocker.close()
    assert not_checked(audit) == {"conservation", "quotas", "journal", "held", "activity", "unbooked"}
    assert "--timeout" in audit.checks[0].advice


async def test_an_archiver_far_behind_leaves_the_activity_of_its_shard_unchecked(engine: Audited) -> None:
    [organisation_id] = await engine.organisations(1, 5)
    await engine.end_archiver()
    shard = shard_of(organisation_id, SHARDS)
    rows = [make_row(n, organisation_id=organisation_id, event="retrying") for n in range(5_001)]
    await eventually(lambda: _added(engine, shard, blob_of(rows)))
    audit = await engine.reader.audit()
    assert not_checked(audit) == {"activity"}
    assert f"Not checked in shards {shard}: more activity waits" in audit.checks[5].detail


async def _added(engine: Audited, shard: int, blob: bytes) -> bool:
    return bool(await engine.link.call("XADD", activity_key(shard), "*", "b", blob))


async def test_a_ledger_far_behind_leaves_what_it_would_book_unchecked(engine: Audited) -> None:
    [organisation_id] = await engine.organisations(1, 5)
    await engine.end_writers()
    shard = shard_of(organisation_id, SHARDS)

    async def still() -> bool:
        return (await engine.reader.audit()).clean

    await eventually(still)
    [(link,)] = await engine.books("SELECT link FROM shards WHERE shard = $1", shard)
    empty = msgspec.msgpack.encode([])
    entry = ("XADD", usage_key(shard), "*", "k", "usage", "h", "h1", "e", 1, "d", empty, "p", link)
    await engine.link.batch([entry] * 2_001)
    audit = await engine.reader.audit()
    assert not_checked(audit) == {"held", "activity"}
    assert broken(audit) == set()


async def test_however_many_messages_wait_and_come_they_are_all_counted(engine: Audited) -> None:
    """The world of this test has no workers, so what is sent waits."""
    made = [await engine.world.organisation(100_000) for _ in range(3)]
    for organisation_id in made * 3:
        await engine.send(organisation_id, 800)
    sending = asyncio.create_task(_send_on(engine, made[0]))
    for full in (False, True):
        audit = await engine.reader.audit(full=full)
        assert verdicts(audit)["queues"] == "clean", audit
        assert _check(audit, "queues").checked == SHARDS
    sending.cancel()
    await asyncio.wait([sending])
    # One message is taken away by somebody.
    shard = shard_of(made[1], SHARDS)
    await engine.link.call("XTRIM", queue_key(shard, "normal"), "MAXLEN", 0)
    audit = await engine.reader.audit()
    assert broken(audit) == {"queues"}
    assert f"shard {shard} by +" in _check(audit, "queues").detail
    # Without PostgreSQL the law is judged as well.
    engine.stores.freeze("postgres")
    try:
        audit = await given(engine.reader.audit(timeout_s=30))
    finally:
        engine.stores.thaw("postgres")
    assert broken(audit) == {"queues"}


async def test_messages_that_cannot_be_counted_in_time_or_without_disturbance_leave_their_law_unchecked(
    engine: Audited,
) -> None:
    [organisation_id] = [await engine.world.organisation(100_000)]
    await engine.send(organisation_id, 2_400)
    shard = shard_of(organisation_id, SHARDS)
    # Another process counts the shard.
    await engine.link.call("RPUSH", moved_key(shard), "somebody")
    audit = await engine.reader.audit(timeout_s=1.0)
    assert "queues" in not_checked(audit)
    assert broken(audit) == set()
    assert f"Not checked in shards {shard}: the time was over" in _check(audit, "queues").detail
    assert "--timeout" in _check(audit, "queues").advice
    audit = await engine.reader.audit()
    assert not_checked(audit) == {"queues"}
    assert "another audit counts" in _check(audit, "queues").detail
    await engine.link.call("DEL", moved_key(shard))
    assert (await engine.reader.audit()).clean


async def _send_on(engine: Audited, organisation_id: int) -> None:
    while True:
        await engine.send(organisation_id, 5)
        await asyncio.sleep(0.005)


def _check(audit: Audit, name: str) -> Check:
    return next(check for check in audit.checks if check.name == name)


BREACHES = {
    "quotas": ("postgres", "INSERT INTO quotas VALUES ('nobody', {o}, 3)"),
    "journal": ("postgres", "UPDATE journal SET units = units + 1"
                            " WHERE organisation_id = {o} AND movement = 'hold'"),
    "held": ("redis", "INCRBY"),
    "activity": ("clickhouse", "INSERT INTO activity (organisation_id, event, units, shard, stream_ms)"
                               " VALUES ({o}, 'sent', 7, {s}, 1)"),
}  # fmt: skip


@pytest.mark.parametrize("law", list(BREACHES))
async def test_what_others_write_is_found(engine: Audited, law: str) -> None:
    [organisation_id, _] = await engine.organisations(2, 5)
    store, step = BREACHES[law]
    shard = shard_of(organisation_id, SHARDS)
    step = step.format(o=organisation_id, s=shard)
    if store == "postgres":
        await engine.books(step)
    elif store == "clickhouse":
        engine.activity(step)
    else:
        await engine.link.call("INCRBY", held_key(shard), 2)
    audit = await engine.reader.audit()
    # The sum in Redis is between two laws; what the journal says of holds, too.
    expected = {"held": {"held", "queues"}, "journal": {"journal", "activity"}}.get(law, {law})
    assert broken(audit) == expected, audit
    assert audit.verdict == "not_clean"
    assert audit.closed_shards == SHARDS - 1
    check = next(c for c in audit.checks if c.name == law)
    where = f"shard {shard} by" if law == "held" else f"organisation {organisation_id} "
    assert where in check.detail
    assert check.broken == 1
    if law == "journal":
        assert "its last row is" in check.detail
    if law != "activity":
        engine.stores.freeze("clickhouse")
        try:
            worse = await engine.reader.audit(timeout_s=20)
        finally:
            engine.stores.thaw("clickhouse")
        assert (worse.verdict, not_checked(worse)) == ("not_clean", {"activity"})


async def test_audits_at_once_share_one_and_its_result(engine: Audited) -> None:
    await engine.organisations(2, 5)
    found = await asyncio.gather(*(engine.reader.audit() for _ in range(6)))
    # The first has its own; those who came meanwhile the one that began after they had asked.
    assert len({id(audit) for audit in found}) <= 2
    assert all(audit.clean for audit in found)
    # Another process waits for its turn, and then finds the chain whole.
    both = await asyncio.gather(
        engine.another_reader().audit(full=True), engine.another_reader().audit(full=True)
    )
    assert all(audit.clean for audit in both)
    numbers = await engine.books("SELECT max(number), count(*) FROM audit_checkpoints GROUP BY shard")
    assert {tuple(row) for row in numbers} == {(3, 3)}


async def test_an_audit_that_does_not_end_holds_others_up_no_longer_than_they_wish(engine: Audited) -> None:
    await engine.organisations(1, 5)
    other = await asyncpg.connect(engine.world.postgres_url)
    await other.execute(f"SELECT pg_advisory_lock({0x736D7375})")
    audit = await given(engine.reader.audit(timeout_s=2))
    await other.close()
    assert not_checked(audit) == NEEDS["postgres"]
    assert "another audit is under way since 2" in audit.checks[0].detail
    assert "when the other one has ended" in audit.checks[0].advice


async def test_who_waits_for_another_audit_is_told_until_when_at_most(engine: Audited) -> None:
    other = await AuditBooks.connect(engine.world.postgres_url, 5.0, 60.0)
    assert await other.take_turn(1.0) == ""
    audit = await given(engine.reader.audit(timeout_s=2))
    assert re.search(
        r"another audit is under way since \S+ \S+ UTC and ends by \S+ \S+ UTC at the latest\.",
        audit.checks[0].detail,
    )
    # In the same process, while the first waits for that one.
    first = asyncio.create_task(engine.reader.audit(timeout_s=30))
    await asyncio.sleep(0)
    with pytest.raises(Unavailable, match=r"^Another audit is under way since \S+ \S+ UTC and ends by "):
        await engine.reader.audit(timeout_s=0.2)
    first.cancel()
    await asyncio.wait([first])
    other.close()


async def test_an_audit_whose_caller_has_gone_lets_the_next_one_go_on(engine: Audited) -> None:
    await engine.organisations(1, 5)
    # The table is locked, so that the first audit stays in one statement.
    locker = await asyncpg.connect(engine.world.postgres_url)
    locked = locker.transaction()
    await locked.start()
    await locker.execute("LOCK TABLE audit_sums IN ACCESS EXCLUSIVE MODE")
    audit = asyncio.create_task(engine.reader.audit(timeout_s=500))
    waits = (
        "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND application_name LIKE $1"
    )
    async with asyncio.timeout(60):
        while not (await engine.books(waits, "smsengine audit%"))[0][0]:  # noqa: ASYNC110 - no event for it
            await asyncio.sleep(0.01)
    audit.cancel()
    await asyncio.wait([audit])
    # The server finds out while the statement still waits for the table, and lets the turn go.
    books = await AuditBooks.connect(engine.world.postgres_url, 5.0, 60.0)
    assert await books.take_turn(20.0) == ""
    books.close()
    await locked.rollback()
    await locker.close()
    assert (await given(engine.reader.audit(timeout_s=60))).clean


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE audit_sums SET held = held + 1, granted = granted - 1 WHERE organisation_id = {o}",
        "UPDATE audit_checkpoints SET stream_ms = stream_ms - 1 WHERE shard = {s}",
        "DELETE FROM audit_sums WHERE organisation_id = {o}",
    ],
)
async def test_a_checkpoint_that_was_changed_is_noticed_and_replaced_by_a_full_audit(
    engine: Audited, change: str
) -> None:
    [organisation_id] = await engine.organisations(1, 5)
    assert (await engine.reader.audit()).clean
    await engine.books(change.format(o=organisation_id, s=shard_of(organisation_id, SHARDS)))
    audit = await engine.reader.audit()
    assert "checkpoints" in broken(audit)
    full = await engine.reader.audit(full=True)
    assert broken(full) == {"checkpoints"}
    assert full.closed_shards == SHARDS
    assert (await engine.reader.audit()).clean


async def test_months_of_activity_that_were_dropped_stay_in_the_sums(engine: Audited) -> None:
    [organisation_id] = await engine.organisations(1, 5)
    assert (await engine.reader.audit()).clean
    engine.activity("TRUNCATE TABLE activity")
    await engine.send(organisation_id, 3)
    await engine.settled()
    audit = await engine.reader.audit()
    assert (audit.verdict, audit.activity_rows) == ("clean", 3)
    assert broken(await engine.reader.audit(full=True)) == {"activity"}


async def test_after_redis_lost_data_the_difference_is_taken_up_once_and_then_compared_from(
    engine: Audited,
) -> None:
    [organisation_id] = await engine.organisations(1, 5)
    assert (await engine.reader.audit()).clean
    # As a Redis leaves it that went back: rows are there twice, and the ledger has counted the loss.
    shard = shard_of(organisation_id, SHARDS)
    columns = "organisation_id, event, units, shard, stream_ms"
    double = f"INSERT INTO activity ({columns}) VALUES ({{}}, 'accepted', 2, {{}}, {{}})"
    uncharged = double.replace("accepted", "sent").replace("2", "3")
    [(ms,)] = engine.activity(f"SELECT max(stream_ms) FROM activity WHERE shard = {shard}")
    engine.activity(double.format(organisation_id, shard, ms))
    await engine.send(organisation_id, 1)
    await engine.settled()
    [(ms,)] = engine.activity(f"SELECT max(stream_ms) FROM activity WHERE shard = {shard}")
    engine.activity(uncharged.format(organisation_id, shard, ms))
    await engine.books("UPDATE shards SET losses = losses + 1, lost_at = now()")
    early = await engine.reader.audit()
    assert (not_checked(early), early.closed_shards) == ({"activity"}, 0)
    # Places of before the loss may still turn up for a while; then it is long enough ago.
    await engine.books("UPDATE shards SET lost_at = now() - interval '1 minute'")
    taken = await engine.reader.audit()
    assert (not_checked(taken), broken(taken), taken.closed_shards) == ({"activity"}, set(), SHARDS)
    await engine.send(organisation_id, 4)
    await engine.settled()
    after = await engine.reader.audit()
    assert after.clean, after
    # It says for ever what was sent and not charged.
    assert (early.uncharged_units, taken.uncharged_units, after.uncharged_units) == (3, 3, 3)
    # What is wrong from then on is found.
    [(ms,)] = engine.activity(f"SELECT max(stream_ms) FROM activity WHERE shard = {shard}")
    engine.activity(double.format(organisation_id, shard, ms))
    assert broken(await engine.reader.audit()) == {"activity"}
    full = await engine.reader.audit(full=True)
    assert (not_checked(full), full.closed_shards) == ({"activity"}, 0)


async def test_an_emptied_redis_is_not_checked_and_no_reason_to_end(engine: Audited) -> None:
    await engine.organisations(1, 5)
    # Whoever asks Redis for a function that is not there loads all again, and the audit would not notice.
    await engine.end_writers()
    await engine.link.call("FUNCTION", "FLUSH")
    audit = await engine.reader.audit()
    await load_functions(engine.link)
    assert not_checked(audit) == NEEDS["redis"]
    assert "Redis cannot be asked" in audit.checks[4].detail
