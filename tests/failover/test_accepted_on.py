"""A message that is accepted on two machines is there after either of them is gone."""

from __future__ import annotations

import asyncio
import re
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import pytest
from structlog.testing import capture_logs

from engine.boot.ingest_services import takes_messages
from engine.config import Config, Redis, decode
from engine.credit.group_commit import UNKNOWN_S
from engine.errors import ConfigError, Unavailable, Undecided
from engine.records import Entry
from engine.redis_keys import queue_key
from engine.stores.redis.admission import RedisAdmission
from engine.stores.redis.fitness import fitness_of
from engine.stores.redis.link import RedisLink
from engine.stores.redis.queue import QueueStreams
from engine.stores.redis.replicas import ALONE_S
from supervisor.cli.checks import _check_all
from tests.credit.test_credit import SHARDS, World, accepted, drafts, eventually, now_us, render, world
from tests.credit.test_full_redis import worker
from tests.failover.servers import Replicated, messages_on, until
from tests.failover.test_cut_off import queued


async def test_no_202_while_the_replica_does_not_follow_and_nothing_is_overspent(
    replicated: Replicated, books_url: str
) -> None:
    replica = replicated.replicas[0]
    async with world(replicated.url, books_url) as w:
        await w.ledger()
        ingest, quota = await w.holder("h1", accepted_on=2)
        org = await w.organisation(100)
        assert accepted(await ingest.submit(org, drafts(10), render=render)) == 10
        replica.signal(signal.SIGSTOP)
        begun_s = time.monotonic()
        with pytest.raises(Undecided, match="It is not known whether"):
            await ingest.submit(org, drafts(20), render=render, idempotency_key="k", fingerprint=b"f")
        assert time.monotonic() - begun_s < UNKNOWN_S + 1
        # From now on it is known before anything is written.
        assert quota._commits.redis.away
        # Who asks whether this process is ready hears why it is not.
        with pytest.raises(Unavailable, match=r"0 replicas of Redis have .*accepted_on = 2 wants 1"):
            await takes_messages(w.link, quota)
        with pytest.raises(Unavailable, match="nothing of this request was accepted"):
            await ingest.submit(org, drafts(5), render=render)
        replica.signal(signal.SIGCONT)

        async def again() -> bool:
            try:
                quota.check()
            except Unavailable:
                return False
            return True

        await eventually(again)
        await takes_messages(w.link, quota)
        # What was written has its first answer; it was written once.
        replayed = await ingest.submit(org, drafts(20), render=render, idempotency_key="k", fingerprint=b"f")
        assert replayed.replayed
        assert accepted(replayed) == 20
        # 30 are held; of the other 70 not one is lost and not one is spent twice.
        assert accepted(await ingest.submit(org, drafts(80), render=render)) == 70
        await w.clean()


async def test_what_was_accepted_is_there_after_the_master_is_gone_for_good(
    replicated: Replicated, books_url: str
) -> None:
    async with world(replicated.url, books_url) as w:
        await w.ledger()
        ingest, _ = await w.holder("h1", accepted_on=2)
        org = await w.organisation(100_000)
        told = 0

        async def client() -> None:
            nonlocal told
            while True:
                try:
                    told += accepted(await ingest.submit(org, drafts(3), render=render))
                except Unavailable:
                    return

        clients = [asyncio.create_task(client()) for _ in range(8)]

        async def some() -> bool:
            return told > 300

        await until(some)
        replicated.master.kill()
        await asyncio.gather(*clients)

        async def promoted() -> bool:
            try:
                return bool((await w.link.call("ROLE"))[0] == b"master")
            except Unavailable:
                return False

        await until(promoted)
        assert await queued(w) >= told
        # The replica that is master now has none of its own: nothing is accepted, and it is said.
        fitness = fitness_of(await w.link.call("INFO"), accepted_on=2)
        assert any("messages get 503 until there are more" in warning for warning in fitness.warnings)


async def test_a_flush_that_was_applied_is_waited_for_again_on_a_new_connection(
    replicated: Replicated, books_url: str
) -> None:
    """Redis counts what a connection wrote, and a new one has written nothing."""
    async with world(replicated.url, books_url) as w:
        await w.ledger()
        ingest, quota = await w.holder("h1", accepted_on=2)
        org = await w.organisation(100)
        assert accepted(await ingest.submit(org, drafts(1), render=render)) == 1
        replicated.replicas[0].signal(signal.SIGSTOP)
        sending = asyncio.create_task(ingest.submit(org, drafts(1), render=render))
        commits = quota._commits

        async def under_way() -> bool:
            return any(box.under_way for box in commits.outboxes)

        await until(under_way)
        flush = next(box.under_way for box in commits.outboxes if box.under_way)
        link = RedisLink(replicated.url, timeout_s=5, name="test")
        other = RedisAdmission(link, link, 4, accepted_on=2)
        for _ in range(2):
            with pytest.raises(Unavailable, match="0 replicas of Redis have what was written"):
                await other.admit("h1", [flush], 0.4)
        replicated.replicas[0].signal(signal.SIGCONT)
        assert (await other.admit("h1", [flush], 2.0))[0].submissions == 1  # type: ignore[union-attr]
        assert accepted(await sending) == 1
        await link.close()


@asynccontextmanager
async def reading(w: World, reader: QueueStreams) -> AsyncIterator[list[Entry]]:
    """What `reader` is given meanwhile, as a worker would send it."""
    given: list[Entry] = []

    async def read() -> None:
        while True:
            try:
                given.extend(await reader.read(100, 50))
            except Unavailable:
                await asyncio.sleep(0.02)

    task = asyncio.create_task(read())
    try:
        yield given
    finally:
        task.cancel()
        await asyncio.wait([task])


async def handed_out(w: World) -> int:
    """How many messages Redis has given to workers and they have not settled."""
    return sum([await messages_on(w.link, queue_key(s, "normal"), given=True) for s in range(SHARDS)])


async def test_a_worker_sends_what_two_machines_have_and_a_message_of_one_waits_for_the_other(
    replicated: Replicated, books_url: str
) -> None:
    replica = replicated.replicas[0]
    async with world(replicated.url, books_url) as w:
        await w.ledger()
        ingest, _ = await w.holder("h1", accepted_on=2)
        org = await w.organisation(100)
        reader = await worker(w, "w1", accepted_on=2)
        async with reading(w, reader) as given:
            assert accepted(await ingest.submit(org, drafts(10), render=render)) == 10

            async def all_of(count: int) -> bool:
                return len(given) == count

            await until(partial(all_of, 10))
            replica.signal(signal.SIGSTOP)
            with pytest.raises(Undecided):
                await ingest.submit(org, drafts(5), render=render)
            # The master has handed them out, and they are not sent.
            assert await handed_out(w) == 15
            assert len(given) == 10
            replica.signal(signal.SIGCONT)
            await until(partial(all_of, 15))
            # Each was given once; a wait is no delivery.
            assert len({entry.message.id for entry in given}) == 15
            assert {entry.deliveries for entry in given} == {1}


async def test_what_the_dead_master_alone_had_was_not_sent_and_can_be_sent_again(
    replicated: Replicated, books_url: str
) -> None:
    replica = replicated.replicas[0]
    async with world(replicated.url, books_url) as w:
        await w.ledger()
        ingest, _ = await w.holder("h1", accepted_on=2)
        org = await w.organisation(100)
        assert accepted(await ingest.submit(org, drafts(10), render=render)) == 10
        reader = await worker(w, "w1", accepted_on=2)
        async with reading(w, reader) as given:

            async def all_of_the_first() -> bool:
                return len(given) == 10

            await until(all_of_the_first)
            replica.signal(signal.SIGSTOP)
            # Not even its kernel gets what is written now.
            await replicated.master.ask("CLIENT", "KILL", "TYPE", "replica")
            sending = asyncio.create_task(ingest.submit(org, drafts(90), render=render))

            async def handed_out_more() -> bool:
                return await handed_out(w) > 10

            await until(handed_out_more)
            replicated.master.kill()
            replica.signal(signal.SIGCONT)
            with pytest.raises(Unavailable):
                await sending

            async def promoted() -> bool:
                try:
                    return bool((await w.link.call("ROLE"))[0] == b"master")
                except Unavailable:
                    return False

            await until(promoted)
            # That this worker was given the first ten is known here too; of the others nothing is.
            assert await handed_out(w) == 10
            assert len(given) == 10
        # All their units can be spent again, on a machine that is alone now.
        alone, _ = await w.holder("h2")

        async def accepts_all() -> bool:
            try:
                return accepted(await alone.submit(org, drafts(90), render=render)) == 90
            except Unavailable:
                return False

        await until(accepts_all)


async def test_what_was_accepted_long_ago_is_sent_though_the_replica_stays_away(
    replicated: Replicated, books_url: str
) -> None:
    async with world(replicated.url, books_url) as w:
        await w.ledger()
        org = await w.organisation(100)
        ingest, _ = await w.holder("h1")
        assert accepted(await ingest.submit(org, drafts(3), render=render)) == 3
        reader = await worker(w, "w1", accepted_on=2)
        replicated.replicas[0].signal(signal.SIGSTOP)
        with pytest.raises(Unavailable, match="0 replicas of Redis have what was written"):
            await reader.read(100, 1000)
        reader._copies._now_us = lambda: now_us() + int(ALONE_S * 1e6)
        with capture_logs() as lines:
            assert len(await reader.read(100, 50)) == 3
        assert [line["event"] for line in lines] == ["messages are sent that too few machines have"]
        replicated.replicas[0].signal(signal.SIGCONT)


async def test_check_says_what_a_replicated_redis_lacks(replicated: Replicated) -> None:
    async def detail(accepted_on: int) -> str:
        config = Config(redis=Redis(url=replicated.url, accepted_on=accepted_on))
        return {c.part: c for c in await _check_all(config, "")}["redis"].detail

    assert "min-replicas-to-write is 0" in await detail(1)
    await replicated.master.ask("CONFIG", "SET", "min-replicas-to-write", "1")
    assert "min-replicas-to-write" not in await detail(2)
    assert "redis.accepted_on is 3 and 1 replicas follow" in await detail(3)
    assert "replicas follow" not in await detail(2)
    # One that hangs stays connected for a minute.
    info = await replicated.master.ask("INFO")
    hangs = re.sub(rb"lag=\d+", b"lag=9", info)
    assert any("0 replicas follow" in w for w in fitness_of(hangs, 2).warnings)


def test_accepted_on_needs_a_redis_that_can_have_replicas() -> None:
    with pytest.raises(ConfigError, match=r"redis\.accepted_on must be 1 without redis.url"):
        decode("[redis]\naccepted_on = 2\n", "x.toml")
    assert decode('[redis]\nurl = "redis+sentinel://a/m"\naccepted_on = 2\n', "x").redis.accepted_on == 2
