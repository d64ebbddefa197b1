"""Poolers and several hosts in `postgres.url`: with PgBouncer where it is installed, and a small one here."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import pytest

from engine.config import Config, Redis, Store
from engine.errors import ConfigError, Unavailable
from engine.stores.postgres.connection import confirm_session, connect, urls_of
from engine.stores.postgres.directory import Directory
from engine.stores.postgres.ledger import PostgresLedger
from engine.stores.postgres.pool import Pool
from supervisor import prepare
from supervisor.cli import checks
from supervisor.cli.checks import _check_all
from supervisor.embedded.servers import Server
from supervisor.prepare import _migrate
from tests.adversity.pooler import Pooler
from tests.adversity.proxy import Proxy

PGBOUNCER = shutil.which("pgbouncer", path=os.environ.get("PATH", "") + ":/usr/sbin")


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


@asynccontextmanager
async def pgbouncer(url: str, mode: str, folder: Path) -> AsyncIterator[str]:
    """PgBouncer before `url`, with a pool of many connections as an operator has it."""
    assert PGBOUNCER is not None
    parts, port = urlsplit(url), free_port()
    database = parts.path.strip("/")
    settings = folder / "pgbouncer.ini"
    settings.write_text(
        f"[databases]\n{database} = host={parts.hostname} port={parts.port} user={parts.username}"
        f" password={parts.password}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\n"
        f"unix_socket_dir =\nauth_type = any\npool_mode = {mode}\n"
    )
    argv = [PGBOUNCER, str(settings)]
    if os.geteuid() == 0:
        # It refuses to run as root.
        for path in (folder, *folder.parents[:3]):
            path.chmod(path.stat().st_mode | 0o055)
        argv[1:1] = ["-u", "nobody"]
    process = subprocess.Popen(argv, stderr=subprocess.DEVNULL)  # noqa: ASYNC220
    try:
        async with asyncio.timeout(60):
            while True:
                try:
                    (await asyncio.open_connection("127.0.0.1", port))[1].close()
                    break
                except OSError:
                    await asyncio.sleep(0.02)
        yield f"postgresql://sms@127.0.0.1:{port}/{database}?sslmode=disable"
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()


@pytest.fixture(params=["own", "pgbouncer"])
async def poolers(request: Any, books_url: str, tmp_path: Path) -> AsyncIterator[dict[str, str]]:
    """URLs by mode, of two poolers before the same database."""
    if request.param == "pgbouncer" and PGBOUNCER is None:
        pytest.skip("PgBouncer is not installed")
    async with AsyncExitStack() as stack:
        urls = {}
        for mode in ("session", "transaction"):
            if request.param == "own":
                urls[mode] = (await stack.enter_async_context(Pooler(books_url, mode))).url
            else:
                folder = tmp_path / mode
                folder.mkdir()
                urls[mode] = await stack.enter_async_context(pgbouncer(books_url, mode, folder))
        yield urls


async def test_a_pooler_by_transaction_is_refused_with_what_to_set(poolers: dict[str, str]) -> None:
    for _ in range(3):
        with pytest.raises(ConfigError, match="pool_mode = session"):
            await confirm_session(poolers["transaction"], 1)


async def test_a_pooler_by_transaction_is_refused_while_others_use_it(poolers: dict[str, str]) -> None:
    stop = asyncio.Event()

    async def use() -> None:
        pool = await Pool.connect(poolers["transaction"])
        while not stop.is_set():
            await pool.ping()
        await pool.close()

    users = [asyncio.create_task(use()) for _ in range(3)]
    for _ in range(3):
        with pytest.raises(ConfigError, match="pool_mode = session"):
            await confirm_session(poolers["transaction"], 0.5)
    stop.set()
    await asyncio.gather(*users)


async def test_no_pooler_and_one_by_session_are_accepted(poolers: dict[str, str], books_url: str) -> None:
    for _ in range(5):
        await confirm_session(books_url, 5)
        await confirm_session(poolers["session"], 5)
    ledger = PostgresLedger(poolers["session"], timeout_s=5)
    assert await ledger.lead()
    await ledger.recover()
    other = PostgresLedger(books_url, timeout_s=5)
    assert not await other.lead()
    await ledger.resign()
    await other.resign()


async def test_check_and_the_start_say_it(
    poolers: dict[str, str], streams_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def confirm_soon(url: str, _: float) -> None:
        # What is missing is known only when the time is over.
        await confirm_session(url, 1.0)

    for module in (checks, prepare):
        monkeypatch.setattr(module, "confirm_session", confirm_soon)
    url = poolers["transaction"]
    config = Config(postgres=Store(url=url), redis=Redis(url=streams_url))
    found = {check.part: check for check in await _check_all(config, "")}
    assert not found["postgres"].ok
    assert "pool_mode = session" in found["postgres"].detail
    with pytest.raises(ConfigError, match="pool_mode = session"):
        await _migrate(config)
    config = Config(postgres=Store(url=poolers["session"]), redis=Redis(url=streams_url))
    found = {check.part: check for check in await _check_all(config, "")}
    assert found["postgres"].ok, found


@pytest.mark.parametrize("mode", ["session", "transaction"])
async def test_what_the_api_does_needs_no_session(poolers: dict[str, str], mode: str) -> None:
    pool = await Pool.connect(poolers[mode], connections_max=4)
    directory = Directory(pool, 4)
    made = await asyncio.gather(*[directory.create_organisation(f"o{n}") for n in range(8)])
    for turn in range(3):
        await asyncio.gather(*[directory.top_up(o.id, 10, f"t{turn}") for o in made])
        balances = await asyncio.gather(*[directory.balance(o.id) for o in made])
        assert [b.available for b in balances] == [10 * (turn + 1)] * 8
    await pool.close()


async def test_without_a_pooler_statements_are_kept(books_url: str) -> None:
    connection = await connect(books_url, timeout_s=5, session=False)
    assert await connection.fetchval("SELECT $1::int", 1) == 1
    assert await connection.fetchval("SELECT count(*) FROM pg_prepared_statements") > 0
    await connection.close()


# -- several hosts


def test_a_url_of_several_hosts_is_one_url_for_each() -> None:
    assert urls_of("postgres://u:p%40@h1:1,h2,[::1]:3/db?sslmode=disable") == [
        f"postgres://u:p%40@{host}/db?sslmode=disable&target_session_attrs=read-write"
        for host in ("h1:1", "h2", "[::1]:3")
    ]
    assert urls_of("postgresql:///db?host=h1,h2&port=1&target_session_attrs=any") == [
        f"postgresql://h{n}:1/db?target_session_attrs=any" for n in (1, 2)
    ]
    for one in ("postgresql://h/db", "postgresql:///db?host=/run/postgresql", "postgresql://u@[::1]:1/db"):
        assert urls_of(one) == [one]


@pytest.mark.parametrize(
    "url",
    ["mysql://h/db", "postgresql://h:0/db", "postgresql://h:1,h:x/db", "postgresql://h,/db",
     "postgresql:///db?host=a,b,c&port=1,2", "postgresql://h/db?x"],
)  # fmt: skip
async def test_a_wrong_url_is_named(url: str) -> None:
    with pytest.raises(ConfigError, match=r"^postgres\.url must be"):
        urls_of(url)
    with pytest.raises(ConfigError, match=r"^postgres\.url must be"):
        await Pool.connect(url)


def several(url: str, *before: str) -> str:
    parts = urlsplit(url)
    user, _, place = parts.netloc.rpartition("@")
    return parts._replace(netloc=f"{user}@{','.join((*before, place))}").geturl()


async def test_the_pool_the_ledger_and_the_start_take_a_host_that_is_there(books_url: str) -> None:
    url = several(books_url, f"127.0.0.1:{free_port()}")
    pool, ledger = await Pool.connect(url), PostgresLedger(url, timeout_s=5)
    await pool.ping()
    assert await ledger.lead()
    await confirm_session(url, 5)
    found = {check.part: check for check in await _check_all(Config(postgres=Store(url=url)), "")}
    assert found["postgres"].ok, found
    await ledger.resign()
    await pool.close()


async def test_a_host_that_swallows_everything_does_not_use_up_the_time(books_url: str) -> None:
    async with await asyncio.start_server(lambda *_: asyncio.sleep(60), "127.0.0.1", 0) as mute:
        port = mute.sockets[0].getsockname()[1]
        url = several(books_url, f"127.0.0.1:{port}")
        pool = await Pool.connect(url, timeout_s=1.0)
        await pool.ping()
        # From now on the other one is asked first.
        await asyncio.gather(*[pool.ping() for _ in range(4)])
        await pool.close()


async def test_a_standby_is_passed_over(books_url: str, postgres_server: Server) -> None:
    """A server that takes no writes is none of the two that are wanted, unless the URL says so."""
    admin = await asyncpg.connect(books_url)
    await admin.execute(
        "CREATE ROLE reader LOGIN PASSWORD 'r'; ALTER ROLE reader SET default_transaction_read_only = on"
    )
    try:
        parts = urlsplit(books_url)
        async with Proxy.to(books_url) as proxy:
            url = f"postgresql://reader:r@127.0.0.1:{proxy.port},127.0.0.1:{parts.port}{parts.path}"
            pool = await Pool.connect(url)
            with pytest.raises(Unavailable):
                await pool.ping()
            await pool.close()
            pool = await Pool.connect(f"{url}?target_session_attrs=any")
            await pool.ping()
            await pool.close()
    finally:
        await admin.execute("DROP ROLE reader")
        await admin.close()
