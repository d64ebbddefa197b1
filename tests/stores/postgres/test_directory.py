"""The directory against a real PostgreSQL, also one that goes away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest

from engine import api_keys
from engine.errors import ConfigError, Refusal, Unavailable
from engine.organisations import Balance
from engine.records import IdempotentCall
from engine.shards import shard_of
from engine.stores.postgres.api_key_book import ApiKeyBook
from engine.stores.postgres.directory import UNITS_MAX, Directory
from engine.stores.postgres.pool import Pool
from tests.adversity.proxy import Proxy
from tests.postgres_databases import database

SHARDS = 16


@pytest.fixture(scope="module")
async def url(postgres_url: str) -> AsyncIterator[str]:
    async with database(postgres_url, "directory_store") as url:
        yield url


@pytest.fixture(scope="module")
async def directory(url: str) -> AsyncIterator[Directory]:
    directory = await Directory.connect(url, shards=SHARDS)
    yield directory
    await directory.close()


@pytest.fixture(scope="module")
async def books(url: str) -> AsyncIterator[Any]:
    """A connection of the test's own, to look at the rows."""
    connection = await asyncpg.connect(url)
    yield connection
    await connection.close()


def once(key: str, fingerprint: bytes = b"same") -> IdempotentCall:
    return IdempotentCall(scope="test", key=key, fingerprint=fingerprint)


async def test_an_organisation_comes_with_its_account_and_key(directory: Directory, books: Any) -> None:
    made = await directory.create_organisation("Acme")
    presented = api_keys.bearer_key(f"Bearer {made.api_key}")
    assert presented is not None
    key_id, secret = presented
    [known] = (await directory.credentials([key_id])).values()
    assert (known.organisation_id, known.secret_sha256) == (made.id, api_keys.digest(secret))
    shard = await books.fetchval("SELECT shard FROM accounts WHERE organisation_id = $1", made.id)
    assert shard == shard_of(made.id, SHARDS)
    assert await directory.exists(made.id)
    assert not await directory.exists(made.id + 10**6)


async def test_no_secret_is_in_the_database(directory: Directory, books: Any) -> None:
    made = await directory.create_organisation("Secretive", once("secretive"))
    key = await ApiKeyBook(directory.pool).create(made.id, once("secretive key"))
    for table in ("organisations", "api_keys", "idempotency"):
        rows = await books.fetch(f"SELECT t::text AS row FROM {table} t")
        kept = "".join(row["row"] for row in rows)
        for api_key in (made.api_key, key.api_key):
            secret = api_key.split("_", 2)[2]
            assert secret not in kept
            assert secret.encode().hex() not in kept


async def test_a_top_up_is_booked_in_the_account_and_the_journal(directory: Directory, books: Any) -> None:
    made = await directory.create_organisation("Booked")
    for units in (100, 23):
        await directory.top_up(made.id, units, f"invoice {units}")
        await directory.top_up(made.id, units, f"invoice {units}")
    account = await books.fetchrow("SELECT * FROM accounts WHERE organisation_id = $1", made.id)
    assert (account["topped_up"], account["available"]) == (123, 123)
    journal = await books.fetch("SELECT * FROM journal WHERE organisation_id = $1 ORDER BY id", made.id)
    assert [
        (j["movement"], j["debit"], j["credit"], j["units"], j["reference"], j["shard"], j["position"])
        for j in journal
    ] == [
        ("top-up", "payments", "available", 100, "invoice 100", None, None),
        ("top-up", "payments", "available", 23, "invoice 23", None, None),
    ]


async def test_concurrent_top_ups_all_count(directory: Directory) -> None:
    made = await directory.create_organisation("Busy")
    same = [directory.top_up(made.id, 1000, "same") for _ in range(8)]
    others = [directory.top_up(made.id, 1, f"other {i}") for i in range(8)]
    added = [was_added for _, was_added in await asyncio.gather(*same, *others)]
    assert sum(added[:8]) == 1
    assert all(added[8:])
    assert (await directory.balance(made.id)).posted == 1008


async def test_the_same_reference_of_two_organisations_are_two_top_ups(directory: Directory) -> None:
    for name in ("One", "Two"):
        made = await directory.create_organisation(name)
        assert (await directory.top_up(made.id, 5, "shared"))[1]


async def test_the_balance_counts_quota_as_available(directory: Directory, books: Any) -> None:
    made = await directory.create_organisation("Spread")
    await directory.top_up(made.id, 100, "r")
    await books.execute(
        "UPDATE accounts SET available = 50, granted = 30, held = 15, captured = 5"
        " WHERE organisation_id = $1",
        made.id,
    )
    assert await directory.balance(made.id) == Balance(posted=95, held=15, available=80)
    again, added = await directory.top_up(made.id, 100, "r")
    assert not added
    assert again.balance == Balance(posted=95, held=15, available=80)


async def test_units_have_their_bounds(directory: Directory, books: Any) -> None:
    made = await directory.create_organisation("Rich")
    for units in (0, -1, UNITS_MAX + 1, 2**63, 2**70):
        with pytest.raises(Refusal, match=r"`units` must be from 1 to 1000000000000000\."):
            await directory.top_up(made.id, units, "r")
    await directory.top_up(made.id, UNITS_MAX, "most")
    await books.execute(
        "UPDATE accounts SET topped_up = $2, available = $2 WHERE organisation_id = $1", made.id, 2**63 - 1
    )
    with pytest.raises(Refusal) as refused:
        await directory.top_up(made.id, 1, "too much")
    assert refused.value.field == "units"
    # Undone whole: the reference is free.
    assert await books.fetchval("SELECT count(*) FROM top_ups WHERE reference = 'too much'") == 0


async def test_an_unknown_organisation_is_refused(directory: Directory) -> None:
    for call in (
        directory.top_up(10**15, 5, "r"),
        directory.balance(10**15),
        ApiKeyBook(directory.pool).create(10**15),
        ApiKeyBook(directory.pool).keys(10**15),
        ApiKeyBook(directory.pool).revoke(10**15, 1),
    ):
        with pytest.raises(Refusal) as refused:
            await call
        assert refused.value.code == "not_found"


async def test_a_revoked_key_is_no_credential(directory: Directory) -> None:
    made = await directory.create_organisation("Turned")
    key = await ApiKeyBook(directory.pool).create(made.id)
    assert set(await directory.credentials([key.id])) == {key.id}
    await ApiKeyBook(directory.pool).revoke(made.id, key.id)
    [revoked, first] = await ApiKeyBook(directory.pool).keys(made.id)
    assert (revoked.id, first.revoked_at) == (key.id, None)
    assert revoked.revoked_at is not None
    await ApiKeyBook(directory.pool).revoke(made.id, key.id)
    assert (await ApiKeyBook(directory.pool).keys(made.id))[0].revoked_at == revoked.revoked_at
    assert set(await directory.credentials([key.id, first.id, 10**17])) == {first.id}


async def test_a_repetition_waits_for_the_first_and_yields_to_it(
    directory: Directory, url: str, books: Any
) -> None:
    # Another process is in the middle of the same request.
    other = await asyncpg.connect(url)
    transaction = other.transaction()
    await transaction.start()
    await other.execute(
        "INSERT INTO idempotency (scope, key, fingerprint, status, answer) VALUES"
        " ('test', 'race', 'same', 201, '{\"organisation_id\":7,\"key_id\":8}')"
    )
    second = asyncio.create_task(directory.create_organisation("Race", once("race")))
    async with asyncio.timeout(60):
        waits = (
            "SELECT count(*) FROM pg_stat_activity"
            " WHERE wait_event_type = 'Lock' AND query LIKE '%INTO idempotency%'"
        )
        while not await books.fetchval(waits):
            assert not second.done()
        await transaction.commit()
        with pytest.raises(Refusal, match="made key 8 of organisation 7"):
            await second
    await other.close()


async def test_a_repetition_goes_ahead_when_the_first_is_undone(directory: Directory, url: str) -> None:
    other = await asyncpg.connect(url)
    transaction = other.transaction()
    await transaction.start()
    await other.execute(
        "INSERT INTO idempotency (scope, key, fingerprint, status, answer)"
        " VALUES ('test', 'undone', 'x', 201, '')"
    )
    second = asyncio.create_task(directory.create_organisation("Goes ahead", once("undone")))
    await transaction.rollback()
    assert (await second).name == "Goes ahead"
    await other.close()


async def test_old_idempotency_keys_are_swept(directory: Directory, books: Any) -> None:
    await directory.create_organisation("Old", once("old"))
    await books.execute("UPDATE idempotency SET at = now() - interval '31 days' WHERE key = 'old'")
    await directory.create_organisation("New", once("new"))
    assert await books.fetchval("SELECT count(*) FROM idempotency WHERE key = 'old'") == 0
    await directory.create_organisation("Old again", once("old"))


async def test_a_lost_answer_to_a_top_up_is_safe_to_repeat(url: str, directory: Directory) -> None:
    made = await directory.create_organisation("Cut off")
    async with Proxy.to(url) as proxy:
        far = await Directory.connect(proxy.url(url), shards=SHARDS, timeout_s=2)
        lost_after_the_commit = 0
        # Cut everywhere, in steps shorter than the answer to a COMMIT.
        for answer_bytes in range(1, 5_000, 16):
            proxy.truncate_after(answer_bytes)
            try:
                await far.top_up(made.id, 10, f"at {answer_bytes}")
            except Unavailable:
                before = await directory.balance(made.id)
                _, added = await directory.top_up(made.id, 10, f"at {answer_bytes}")
                assert (await directory.balance(made.id)).posted == before.posted + 10 * added
                lost_after_the_commit += not added
            else:
                break
        assert lost_after_the_commit > 0
        await far.close()


async def test_a_postgres_that_is_away_hangs_or_comes_back(url: str, directory: Directory) -> None:
    made = await directory.create_organisation("Away")
    async with Proxy.to(url) as proxy:
        far = await Directory.connect(proxy.url(url), shards=SHARDS, timeout_s=0.3)
        proxy.refuse()
        for call in (far.exists(1), far.balance(made.id), far.credentials([1]), far.top_up(made.id, 1, "r")):
            with pytest.raises(Unavailable):
                await call
        proxy.admit()
        assert await far.exists(made.id)
        proxy.stall()
        async with asyncio.timeout(60):
            with pytest.raises(Unavailable):
                await far.balance(made.id)
        proxy.flow()
        async with asyncio.timeout(60):
            assert (await far.balance(made.id)).posted == 0
        await far.close()


async def test_a_busy_pool_answers_unavailable_in_time(url: str, books: Any) -> None:
    narrow = await Directory.connect(url, shards=SHARDS, timeout_s=0.3, connections_max=1)
    made = await narrow.create_organisation("Narrow")
    async with books.transaction():
        await books.execute("SELECT FROM accounts WHERE organisation_id = $1 FOR UPDATE", made.id)
        asked = [narrow.top_up(made.id, 1, f"r{i}") for i in range(5)]
        async with asyncio.timeout(60):
            outcomes = await asyncio.gather(*asked, return_exceptions=True)
    assert all(isinstance(o, Unavailable) for o in outcomes)
    assert (await narrow.balance(made.id)).posted == 0
    await narrow.close()


async def test_who_is_frozen_in_a_transaction_keeps_its_locks_for_the_time_out_only(
    url: str, directory: Directory, books: Any
) -> None:
    made = await directory.create_organisation("Frozen")
    pool = await Pool.connect(url, timeout_s=0.3)
    lock = "SELECT FROM accounts WHERE organisation_id = $1 FOR UPDATE"

    async def freeze() -> None:
        async with pool.transaction() as connection:
            await connection.execute(lock, made.id)
            # Nothing comes from the one above meanwhile: granted once PostgreSQL has ended it.
            await books.execute(lock, made.id, timeout=10)
            await connection.execute(lock, made.id)

    with pytest.raises(Unavailable):
        await freeze()
    await pool.close()


async def test_a_caller_that_gives_up_leaves_nothing_behind(directory: Directory, books: Any) -> None:
    made = await directory.create_organisation("Patience")
    async with books.transaction():
        await books.execute("SELECT FROM accounts WHERE organisation_id = $1 FOR UPDATE", made.id)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await directory.top_up(made.id, 9, "given up")
    assert (await directory.top_up(made.id, 9, "given up"))[1]


@pytest.mark.parametrize("url", ["", "mysql://x", "postgresql://h:port/db", "localhost:5432"])
async def test_another_url_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match=r"postgres\.url must be"):
        await Directory.connect(url, shards=SHARDS)


async def test_a_database_that_is_not_set_up_is_told_so(postgres_url: str) -> None:
    bare = await Directory.connect(postgres_url.rpartition("/")[0] + "/template1", shards=SHARDS)
    with pytest.raises(Unavailable, match="not set up"):
        await bare.balance(1)
    await bare.close()
    nowhere = await Directory.connect(postgres_url.rpartition("/")[0] + "/no_such_database", shards=SHARDS)
    with pytest.raises(Unavailable):
        await nowhere.exists(1)
    await nowhere.close()
