"""The master is whom the sentinels name and who says so itself; a failover needs nobody."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from engine.config import Config, Redis
from engine.errors import ConfigError, Unavailable
from engine.stores.redis.activity_stream import RedisActivityStream
from engine.stores.redis.link import RedisLink
from engine.stores.redis.url import parse_url
from supervisor.cli.checks import _check_all
from supervisor.prepare import _check_redis
from tests.credit.test_credit import accepted, drafts, eventually, render, world
from tests.failover.servers import Replicated


@asynccontextmanager
async def sentinel(host: str, port: int, epoch: int) -> AsyncIterator[str]:
    """One that says this, whatever it is asked: a sentinel that was away names the master of before."""
    parts = ("ip", host, "port", str(port), "config-epoch", str(epoch))
    reply = f"*{len(parts)}\r\n" + "".join(f"${len(p)}\r\n{p}\r\n" for p in parts)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(1 << 16):
            writer.write(reply.encode())
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()


async def test_messages_are_accepted_again_after_the_master_died_and_nothing_is_lost(
    replicated: Replicated, books_url: str
) -> None:
    async with world(replicated.url, books_url) as w:
        await w.ledger()
        ingest, _ = await w.holder("h1")
        org = await w.organisation(1000)
        assert accepted(await ingest.submit(org, drafts(30), render=render)) == 30
        await w.link.call("WAIT", 1, 5000)
        replicated.master.kill()

        async def accepts() -> bool:
            try:
                return accepted(await ingest.submit(org, drafts(1), render=render)) == 1
            except Unavailable:
                return False

        await eventually(accepts, 20)
        role, *_ = await replicated.replicas[0].ask("ROLE")
        assert role == b"master"

        async def booked() -> bool:
            return (await w.directory.balance(org)).held >= 31

        await eventually(booked, 10)
        await w.clean()


async def test_the_activity_and_the_check_go_the_same_way(replicated: Replicated) -> None:
    stream = RedisActivityStream(replicated.url, 2)
    assert (await stream.lease("me", 10_000)).shards
    found = {c.part: c for c in await _check_all(Config(redis=Redis(url=replicated.url)), "")}["redis"]
    await _check_redis(Config(redis=Redis(url=replicated.url)))
    assert found.ok, found
    await replicated.master.ask("WAIT", "1", "5000")
    replicated.master.kill()

    async def leased() -> bool:
        try:
            return bool((await stream.lease("me", 10_000)).shards)
        except Unavailable:
            return False

    await eventually(leased, 20)
    await stream.close()


async def test_the_sentinel_that_knows_the_latest_failover_is_believed(replicated: Replicated) -> None:
    master, replica = replicated.master, replicated.replicas[0]
    async with (
        sentinel(replica.host, replica.port, 3) as old,
        sentinel(master.host, master.port, 4) as new,
        sentinel(replica.host, replica.port, 2) as oldest,
    ):
        for hosts in ((old, new), (new, old), (old, new, oldest)):
            link = RedisLink(f"redis+sentinel://{','.join(hosts)}/m/0", timeout_s=5, name="test")

            async def is_master(link: RedisLink = link) -> bool:
                try:
                    return bool((await link.call("ROLE"))[0] == b"master")
                except Unavailable:
                    # Of three, two suffice, and these may be the old ones.
                    return False

            await eventually(is_master, 10)
            await link.close()


async def test_a_server_that_is_no_master_is_not_used_and_a_sentinel_that_is_silent_is_not_waited_for(
    replicated: Replicated,
) -> None:
    replica = replicated.replicas[0]
    silent = await asyncio.start_server(lambda r, w: asyncio.Event().wait(), "127.0.0.1", 0)
    port = silent.sockets[0].getsockname()[1]
    async with sentinel(replica.host, replica.port, 1) as stale:
        link = RedisLink(f"redis+sentinel://127.0.0.1:{port},{stale}/m", timeout_s=5, name="test")
        with pytest.raises(Unavailable, match="is not the master"):
            await link.call("PING")
        await link.close()
    silent.close()


async def test_no_sentinel_answers_or_none_knows_the_master(replicated: Replicated) -> None:
    link = RedisLink("redis+sentinel://127.0.0.1:1,127.0.0.1:2/m", timeout_s=2, name="test")
    with pytest.raises(Unavailable, match=r"No sentinel of redis\+sentinel://127.0.0.1:1,127.0.0.1:2/m"):
        await link.call("PING")
    await link.close()
    url = replicated.url.replace("mymaster", "other")
    link = RedisLink(url, timeout_s=2, name="test")
    with pytest.raises(Unavailable, match="No such master"):
        await link.call("PING")
    await link.close()


def test_the_url_of_sentinels_is_read() -> None:
    url = parse_url(
        "rediss+sentinel://me:p%40ss@a:1,[::1]:2,c/name/7?sentinel_user=u&sentinel_password=s%26t&tls_ca_file=/x"
    )
    assert url.sentinels == (("a", 1), ("::1", 2), ("c", 26379))
    assert (url.master, url.database, url.tls) == ("name", 7, True)
    assert (url.user, url.password) == ("me", "p@ss")
    assert url.sentinel("a", 1).authentication() == [("AUTH", "u", "s&t")]
    assert "p%40ss" not in url.shown
    assert url.shown == "rediss+sentinel://a:1,[::1]:2,c/name"


@pytest.mark.parametrize(
    "url",
    [
        "redis+sentinel://a:1,b:2",
        "redis+sentinel:///name",
        "redis+sentinel://a:x/name",
        "redis+sentinel://a:1,/name/0",
        "redis+sentinel://a:1/name/db",
        "redis+sentinel://a:1/name/0?password=x",
    ],
)
def test_a_wrong_url_of_sentinels_is_one_sentence(url: str) -> None:
    with pytest.raises(ConfigError, match="The Redis URL"):
        parse_url(url)
