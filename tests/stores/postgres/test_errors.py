"""One table says what PostgreSQL's errors mean; a real server makes them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import suppress
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from engine.errors import Broken, ConfigError, EngineError, Misfit, Unavailable
from engine.stores.postgres.errors import BY_STATE, Remedy, judged, translated
from engine.stores.postgres.ledger import PostgresLedger
from engine.stores.postgres.pool import Pool
from supervisor.embedded.servers import start_all
from tests.postgres_databases import database

# What a pooler sends to whom it does not serve: an error of the protocol (its log says which).
POOLER = (
    "server login has been failing, try again later (server_login_retry)",
    "no more connections allowed (max_client_conn)",
    "query_wait_timeout",
    "protocol_violation",
)


@pytest.fixture(scope="module")
async def url(postgres_url: str) -> AsyncIterator[str]:
    async with database(postgres_url, "errors_store") as url:
        yield url


@pytest.fixture
async def connection(url: str) -> AsyncIterator[Any]:
    connection = await asyncpg.connect(url, command_timeout=10)
    yield connection
    connection.terminate()


async def met(call: Awaitable[object]) -> tuple[EngineError, str | None]:
    """The engine's error that a call ends in, and the state of the one behind it."""
    try:
        with translated(in_full=True):
            await call
    except EngineError as e:
        return e, getattr(e.__cause__, "sqlstate", None)
    raise AssertionError("no error")


def test_every_error_that_asyncpg_knows_is_judged_by_its_own_state_or_its_class() -> None:
    known = [e for e in vars(asyncpg.exceptions).values() if isinstance(e, type)]
    errors = [e for e in known if issubclass(e, asyncpg.PostgresError) and e.sqlstate]
    judgements = {e.sqlstate: judged(e("x"))[0] for e in errors}
    for state, remedy in judgements.items():
        rule = BY_STATE.get(state) or BY_STATE.get(state[:2])
        assert remedy is (rule[0] if rule else Remedy.END), state
    # Each line of the table speaks of an error that exists.
    assert all(any(state.startswith(line) for state in judgements) for line in BY_STATE)


@pytest.mark.parametrize(
    ("state", "remedy"),
    [
        ("08006", Remedy.WAIT), ("08P01", Remedy.WAIT), ("40001", Remedy.WAIT), ("40P01", Remedy.WAIT),
        ("53100", Remedy.WAIT), ("53300", Remedy.WAIT), ("25006", Remedy.WAIT), ("55P03", Remedy.WAIT),
        ("57014", Remedy.WAIT), ("57P01", Remedy.WAIT), ("57P03", Remedy.WAIT), ("26000", Remedy.WAIT),
        ("58030", Remedy.WAIT), ("25P03", Remedy.WAIT), ("0A000", Remedy.WAIT),
        ("28P01", Remedy.MEND), ("28000", Remedy.MEND), ("3D000", Remedy.MEND), ("42501", Remedy.MEND),
        ("42P01", Remedy.MEND), ("57P04", Remedy.MEND),
        ("23514", Remedy.END), ("22003", Remedy.REFUSE), ("22P05", Remedy.REFUSE),
        ("40002", Remedy.END), ("42601", Remedy.END),
        ("XX001", Remedy.END),
    ],
)  # fmt: skip
def test_the_table_says_who_must_act(state: str, remedy: Remedy) -> None:
    error = asyncpg.PostgresError.new({"C": state, "M": "as the server said", "S": "ERROR"})
    assert judged(error)[0] is remedy


@pytest.mark.parametrize(
    ("error", "remedy"),
    [
        (ConnectionRefusedError(111, "refused"), Remedy.WAIT),
        (TimeoutError(), Remedy.WAIT),
        (asyncpg.InterfaceError("connection is closed"), Remedy.WAIT),
        (asyncpg.exceptions.ProtocolError("bytes out of step"), Remedy.WAIT),
        (asyncpg.exceptions._base.UnknownPostgresError("no state"), Remedy.WAIT),
        (asyncpg.ClientConfigurationError("no URL"), Remedy.MEND),
        (asyncpg.exceptions._base.DataError("too large"), Remedy.REFUSE),
    ],
)
def test_what_is_no_error_of_the_server_is_judged_too(error: Exception, remedy: Remedy) -> None:
    kinds = {Remedy.WAIT: Unavailable, Remedy.MEND: ConfigError, Remedy.END: Broken, Remedy.REFUSE: Misfit}
    assert judged(error)[0] is remedy
    with pytest.raises(kinds[remedy]), translated():
        raise error


def test_what_callers_may_read_names_the_code_and_not_what_the_server_said() -> None:
    error = asyncpg.PostgresError.new({"C": "08P01", "M": "no such user: sms", "S": "FATAL"})
    with pytest.raises(Unavailable, match=r"\(08P01\)\.$"), translated():
        raise error
    with pytest.raises(Unavailable, match=r"no such user: sms\.$"), translated(in_full=True):
        raise error


async def test_a_deadlock_passes(url: str, connection: Any) -> None:
    await connection.execute("CREATE TABLE IF NOT EXISTS pair (id int PRIMARY KEY)")
    await connection.execute("INSERT INTO pair VALUES (1), (2) ON CONFLICT DO NOTHING")
    other = await asyncpg.connect(url, command_timeout=10)
    for one in (connection, other):
        await one.execute("BEGIN")
        await one.execute("SET LOCAL deadlock_timeout = '50ms'")
    await connection.execute("SELECT FROM pair WHERE id = 1 FOR UPDATE")
    await other.execute("SELECT FROM pair WHERE id = 2 FOR UPDATE")

    async def lock(one: Any, row: int) -> str:
        try:
            with translated():
                await one.execute(f"SELECT FROM pair WHERE id = {row} FOR UPDATE")
        except Unavailable as e:
            await one.execute("ROLLBACK")
            return str(e)
        return ""

    states = await asyncio.gather(lock(connection, 2), lock(other, 1))
    await other.close()
    assert sorted(map(bool, states)) == [False, True]
    assert "40P01" in "".join(states)


async def test_a_statement_a_lock_and_a_write_that_are_not_had_in_time_pass(
    url: str, connection: Any
) -> None:
    await connection.execute("SET statement_timeout = '50ms'")
    error, state = await met(connection.execute("SELECT pg_sleep(10)"))
    assert (type(error), state) == (Unavailable, "57014")
    await connection.execute("SET statement_timeout = 0")
    other = await asyncpg.connect(url)
    async with other.transaction():
        await other.execute("LOCK TABLE accounts")
        await connection.execute("SET lock_timeout = '20ms'")
        error, state = await met(connection.execute("SELECT FROM accounts"))
        assert (type(error), state) == (Unavailable, "55P03")
    await other.close()
    await connection.execute("SET default_transaction_read_only = on")
    error, state = await met(connection.execute("INSERT INTO organisations (name) VALUES ('x')"))
    assert (type(error), state) == (Unavailable, "25006")


async def test_a_ledger_whose_server_takes_no_writes_waits(url: str, connection: Any) -> None:
    """As after a failover to a standby: until now this ended the process."""
    ledger = PostgresLedger(url, timeout_s=5)
    assert await ledger.lead()
    assert ledger._connection is not None
    await ledger._connection.execute("SET default_transaction_read_only = on")
    with pytest.raises(Unavailable, match="25006"):
        await ledger.open_shards("g", [0])
    await ledger.resign()


async def test_a_session_that_an_administrator_ends_passes(url: str, connection: Any) -> None:
    victim = await asyncpg.connect(url)
    sleeping = asyncio.create_task(met(victim.execute("SELECT pg_sleep(600)")))
    pid = victim.get_server_pid()
    active = "SELECT FROM pg_stat_activity WHERE pid = $1 AND state = 'active'"
    async with asyncio.timeout(60):
        while not await connection.fetch(active, pid):  # noqa: ASYNC110 - the server does not tell
            await asyncio.sleep(0.01)
    await connection.execute("SELECT pg_terminate_backend($1)", pid)
    error, state = await sleeping
    assert isinstance(error, Unavailable)
    # The client may see that the connection ends before it sees why.
    assert state in ("57P01", "08003")


async def test_too_many_connections_pass_and_a_wrong_password_is_the_operators(
    url: str, connection: Any
) -> None:
    await connection.execute("DROP ROLE IF EXISTS narrow")
    await connection.execute("CREATE ROLE narrow LOGIN PASSWORD 'narrow' CONNECTION LIMIT 1")
    place = url.rpartition("@")[2]
    only = await asyncpg.connect(f"postgresql://narrow:narrow@{place}")
    error, state = await met(asyncpg.connect(f"postgresql://narrow:narrow@{place}"))
    assert (type(error), state) == (Unavailable, "53300")
    await only.close()
    error, state = await met(asyncpg.connect(f"postgresql://narrow:wrong@{place}"))
    assert (type(error), state) == (ConfigError, "28P01")
    await connection.execute("DROP ROLE narrow")


async def test_a_prepared_statement_that_a_pooler_lost_passes_and_the_sentence_says_what_helps(
    connection: Any,
) -> None:
    await connection.fetchval("SELECT $1::int", 1)
    # As when the statements of this client went to another server connection.
    await connection.execute("DEALLOCATE ALL")
    error, state = await met(connection.fetchval("SELECT $1::int", 1))
    assert (type(error), state) == (Unavailable, "26000")
    assert "pool_mode = session" in str(error)


@pytest.mark.parametrize("sentence", POOLER)
async def test_what_a_pooler_refuses_passes(sentence: str) -> None:
    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1024)
        fields = b"SFATAL\0C08P01\0M" + sentence.encode() + b"\0\0"
        writer.write(b"E" + (len(fields) + 4).to_bytes(4, "big") + fields)
        with suppress(ConnectionError):
            await writer.drain()
        writer.close()

    async with await asyncio.start_server(refuse, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        pool_url = f"postgresql://x:x@127.0.0.1:{port}/x?sslmode=disable"
        error, _ = await met(asyncpg.connect(pool_url))
        assert isinstance(error, Unavailable)
        assert sentence in str(error)
        pool, ledger = await Pool.connect(pool_url), PostgresLedger(pool_url, timeout_s=5)
        for call in (pool.ping(), ledger.lead()):
            with pytest.raises(Unavailable):
                await call
        await pool.close()


async def test_a_server_that_is_starting_up_passes(tmp_path: Path) -> None:
    server = start_all(tmp_path, {"postgres"})["postgres"]
    url = server.url
    server.stop(10)
    # A standby that serves nobody stays in its recovery, which is how every server starts.
    folder = tmp_path / "postgres"
    (folder / "standby.signal").touch()
    settings = folder / "postgresql.auto.conf"
    settings.write_text(settings.read_text() + "hot_standby = off\n")
    server.begin_restart()
    try:
        async with asyncio.timeout(60):
            while True:
                error, state = await met(asyncpg.connect(url))
                assert isinstance(error, Unavailable)
                if state is not None:
                    break
                await asyncio.sleep(0.02)
        assert state == "57P03"
    finally:
        server.stop(10)
