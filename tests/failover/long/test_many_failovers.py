"""One failover after another under load: what was accepted on two machines is there, and the books right."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from engine.errors import Unavailable
from engine.stores.redis.wire import ReplyError
from tests.credit.test_credit import accepted, drafts, render, world
from tests.failover.servers import Replicated, replicated_servers, until
from tests.failover.test_cut_off import queued

FAILOVERS = 3


@pytest.fixture
async def three(tmp_path: Path) -> AsyncIterator[Replicated]:
    """A master with two replicas, and three sentinels."""
    async with replicated_servers(tmp_path, replicas=2, sentinels=3) as servers:
        yield servers


async def test_no_accepted_message_is_lost_in_failovers_without_an_operator(
    three: Replicated, books_url: str
) -> None:
    servers = [three.master, *three.replicas]
    async with world(three.url, books_url) as w:
        await w.ledger()
        holders = [(await w.holder(f"h{i}", accepted_on=2))[0] for i in range(2)]
        org = await w.organisation(1_000_000)
        told, stopping = 0, asyncio.Event()

        async def client(number: int) -> None:
            nonlocal told
            while not stopping.is_set():
                try:
                    told += accepted(await holders[number % 2].submit(org, drafts(2), render=render))
                except Unavailable:
                    await asyncio.sleep(0.05)

        def more_than(count: int) -> Callable[[], Awaitable[bool]]:
            async def told_more() -> bool:
                return told > count

            return told_more

        clients = [asyncio.create_task(client(i)) for i in range(10)]
        for _ in range(FAILOVERS):
            await until(more_than(told + 100), 60)
            for server in servers:
                if (await server.ask("ROLE"))[0] == b"master":
                    server.kill()
                    break
            # Those that were under way are answered by then; these are new.
            await until(more_than(told + 200), 60)
            # It comes back as a replica, as the sentinels tell it to, and is whole again.
            server.start()

            async def follows(server=server) -> bool:  # type: ignore[no-untyped-def]
                role = await server.ask("ROLE")
                return bool(role[0] == b"slave" and role[3] == b"connected")

            await until(follows, 60)
        stopping.set()
        await asyncio.gather(*clients)

        async def counted() -> bool:
            try:
                return await queued(w) >= told
            except (Unavailable, ReplyError):
                return False

        await until(counted)
        found = await w.audit()
        assert {c.name: c.verdict for c in found.checks if c.verdict == "not_clean"} == {}, found
