"""What Redis lost is named in messages too: those that were sent and not charged, and those that are gone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from engine.credit.ledger_records import Applied
from engine.credit.uncharged import LostMessages, Uncharged, uncharged_of
from engine.errors import Unavailable
from engine.stores.postgres.ledger import PostgresLedger
from engine.stores.postgres.rebuilt_usage import LostUsage
from tests.credit.test_credit import World, eventually, world
from tests.credit.test_rewinds import Machine, fetch, served
from tests.failover.test_rebuilt_usage import Engine, activity_url, broken

__all__ = ["activity_url"]


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    machine = Machine(tmp_path)
    yield machine
    machine.server.stop(10)


@pytest.fixture
async def both(machine: Machine, books_url: str) -> AsyncIterator[World]:
    async with world(machine.url, books_url) as w:
        yield w


class Stuck(PostgresLedger):
    """Once told to, it has read usage and does not come to booking it."""

    stuck = asyncio.Event()
    told = asyncio.Event()
    let_go = asyncio.Event()

    async def apply(self, *arguments: Any) -> Applied:
        if self.told.is_set():
            self.stuck.set()
            await self.let_go.wait()
            raise Unavailable("stuck")
        return await super().apply(*arguments)


async def test_a_loss_of_redis_is_counted_in_units_and_in_messages(
    both: World, machine: Machine, activity_url: str
) -> None:
    Stuck.stuck, Stuck.told, Stuck.let_go = asyncio.Event(), asyncio.Event(), asyncio.Event()
    engine = Engine(both, activity_url)
    await engine.begin(Stuck)
    org = await both.organisation(1000)
    await engine.send(org, 3)
    # These are back in their queue after the loss, and sent again.
    assert await served(engine.ingest, org, 4)

    async def booked(posted: int, held: int) -> bool:
        balance = await both.directory.balance(org)
        return (balance.posted, balance.held) == (posted, held)

    await eventually(partial(booked, 997, 4))
    await engine.archived()
    moment = machine.moment()
    Stuck.told.set()
    await engine.settle(4)
    # These are sent, and these are not; nobody knows of them afterwards but the archive.
    await engine.send(org, 6)
    assert await served(engine.ingest, org, 2)
    await Stuck.stuck.wait()
    await engine.archived()
    machine.go_back(moment)
    Stuck.told.clear()
    Stuck.let_go.set()
    await eventually(partial(served, engine.ingest, org, 1))
    await engine.settle(5)
    await eventually(partial(booked, 992, 0))
    await engine.archived()
    await fetch(both, "UPDATE shards SET lost_at = now() - interval '1 minute'")
    audit = await engine.audit()
    assert broken(audit) == {"activity": "not_checked"}
    audit = await engine.audit()
    assert broken(audit) == {}
    assert (audit.uncharged_units, audit.uncharged_messages) == (10, 10)
    losses = await LostUsage(both.directory._pool).losses(10)
    assert {(x.who, x.uncharged_units, x.uncharged_messages, x.gone_messages) for x in losses} == {
        ("redis", 10, 10, 2)
    }
    status = await engine.status()
    assert (status.uncharged_units, status.uncharged_messages) == (10, 10)


def test_messages_follow_from_units_as_far_as_the_events_say() -> None:
    assert uncharged_of({}, {}) == Uncharged(0, 0, 0)
    assert uncharged_of({1: 5}, None) == Uncharged(5)
    # All that were sent again, and half of those that were sent once; another organisation lost none.
    lost = {1: LostMessages(2, 4, 10, 30, gone=1), 2: LostMessages(once=5, once_units=5, gone=2)}
    assert uncharged_of({1: 4 + 15}, lost) == Uncharged(19, 2 + 5, 3)
    # Less than was sent again: the books had some of it.
    assert uncharged_of({1: 2}, lost) == Uncharged(2, 1, 3)
    # Never more messages than there are events of.
    assert uncharged_of({1: 100}, lost) == Uncharged(100, 12, 3)
