"""Users of ClickHouse who may not do what the engine does: `check` and the start say what is missing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import msgspec
import pytest

from engine.activity.blocks import block_of
from engine.activity.records import ActivityEntry
from engine.config import Config, Store
from engine.errors import ConfigError
from engine.stores.clickhouse.activity import INSERT_SETTINGS, ClickHouseActivityStore
from engine.stores.clickhouse.rights import confirm_rights, unchangeable
from engine.stores.migrate import migrate_clickhouse
from supervisor.cli.checks import _check_all
from tests.activity.world import World, blob_of, make_row, new_world

NO_GRANT = (
    "Code: 497. DB::Exception: sms: Not enough privileges. To execute this query, it's necessary to have the "
    "grant INSERT(at) ON sms.activity. (ACCESS_DENIED) (version 24.8.4.13 (official build))"
)


def refusal() -> bytes:
    """The answer to a request for which the user lacks a grant."""
    body = NO_GRANT.encode()
    return (
        b"HTTP/1.1 403 Forbidden\r\nX-ClickHouse-Exception-Code: 497\r\nConnection: close\r\n"
        b"Content-Type: text/plain\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
    )


@pytest.fixture
async def world(redis_url: str, clickhouse_url: str) -> AsyncIterator[World]:
    async with new_world(redis_url, clickhouse_url) as world:
        yield world


@asynccontextmanager
async def before(
    url: str, change: Callable[[bytes], bytes | None], answer: bytes = b""
) -> AsyncIterator[str]:
    """A URL of a proxy for one request a connection: `change` gives what is passed on of the head.

    Where it gives None, the request is answered by `answer`.
    """
    parts = urlsplit(url)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            changed = change(head)
            if changed is None:
                writer.write(answer)
                return
            theirs, ours = await asyncio.open_connection(parts.hostname, parts.port)
            ours.write(changed.replace(b"\r\n", b"\r\nConnection: close\r\n", 1))

            async def body() -> None:
                while piece := await reader.read(1 << 16):
                    ours.write(piece)

            sending = asyncio.create_task(body())
            while piece := await theirs.read(1 << 16):
                writer.write(piece)
            sending.cancel()
            ours.close()
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        port = server.sockets[0].getsockname()[1]
        user = parts.netloc.rpartition("@")[0]
        yield parts._replace(netloc=f"{user}@127.0.0.1:{port}").geturl()
    finally:
        server.close()


def as_readonly(level: int) -> Callable[[bytes], bytes]:
    """Each request has this `readonly`, as a user has it by profile."""

    def change(head: bytes) -> bytes:
        line, end, rest = head.partition(b" HTTP/1.1\r\n")
        return line + (b"&" if b"?" in line else b"?") + b"readonly=%d" % level + end + rest

    return change


async def test_the_present_user_may_do_everything_and_nothing_is_written(world: World) -> None:
    await confirm_rights(world.clickhouse_url, 10)
    assert await world.rows_stored() == 0


@pytest.mark.parametrize("level", [1, 2])
async def test_a_user_who_may_only_read_is_told_of(world: World, level: int) -> None:
    async with before(world.clickhouse_url, as_readonly(level)) as url:
        with pytest.raises(ConfigError, match=r"may only read|does not let the user"):
            await confirm_rights(url, 10)
        config = Config(clickhouse=Store(url=url))
        found = {c.part: c for c in await _check_all(config, "")}["clickhouse"]
        assert not found.ok
        assert "may only read" in found.detail or "does not let the user" in found.detail


async def test_a_user_who_lacks_a_grant_is_told_which(world: World) -> None:
    """As ClickHouse answers it; the server here has no users."""

    def refuse(head: bytes) -> bytes | None:
        return None if b"insert_deduplicat" in head else head

    async with before(world.clickhouse_url, refuse, refusal()) as url:
        with pytest.raises(ConfigError) as refused:
            await confirm_rights(url, 10)
        sentence = str(refused.value)
        assert "table `activity` cannot be written" in sentence
        assert "the grant INSERT(at) ON sms.activity" in sentence
        store = ClickHouseActivityStore(url)
        block = block_of([ActivityEntry(shard=0, id=(1, 0), blob=blob_of([make_row(1)]))])[0]
        with pytest.raises(ConfigError, match=r"grant INSERT\(at\) ON sms\.activity"):
            await store.insert(block, "t")
        await store.close()


async def test_tables_that_are_there_are_not_made_again(world: World) -> None:
    """A user who may make no tables starts the engine where nothing is due."""
    async with before(world.clickhouse_url, as_readonly(1)) as url:
        assert await migrate_clickhouse(url) == []


class Row(msgspec.Struct):
    value: str
    readonly: int


def test_a_setting_that_cannot_be_changed_is_in_the_way_only_when_it_is_another() -> None:
    known = {
        "async_insert": Row("1", 1),
        "insert_deduplicate": Row("1", 1),
        "min_insert_block_size_rows": Row("5", 0),
    }
    assert unchangeable(known, INSERT_SETTINGS) == ["async_insert = 0"]
