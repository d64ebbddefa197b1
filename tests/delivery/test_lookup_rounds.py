"""How look-ups share queries: on virtual time, with the queries counted."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from engine.activity.lookups import Lookups
from engine.activity.records import ActivityEntry, MessageKey, RecentRows
from engine.records import ActivityRow
from engine.stores.redis.kept_tail import KeptOctets, KeptTail
from engine.stream_id import StreamId
from tests.delivery.turns import VirtualTime


class Stores:
    """A stream without entries, and a store of which a query takes `query_s`; how many each asked for."""

    def __init__(self, query_s: float) -> None:
        self.query_s = query_s
        self.asked: list[int] = []

    def begin_of(self, shard: int) -> Sequence[ActivityEntry]:
        return ()

    async def recent_rows_of(
        self, shard: int, messages: Sequence[MessageKey], before: Sequence[ActivityEntry]
    ) -> dict[MessageKey, RecentRows]:
        return {key: RecentRows(rows=[], complete=True) for key in messages}

    async def rows_of(
        self, messages: Sequence[MessageKey], timeout_s: float | None = None
    ) -> dict[MessageKey, list[ActivityRow]]:
        self.asked.append(len(messages))
        await asyncio.sleep(self.query_s)
        return {}


def asked_by(virtual: VirtualTime, stores: Any, clients: int, seconds: float) -> int:
    """Let clients ask for one message after another; how many look-ups were answered."""
    lookups = Lookups(stores, stores, 1, 2.0)
    answered = 0

    async def client(name: int) -> None:
        nonlocal answered
        while True:
            await lookups.rows_of(MessageKey(name, f"m{answered}", 0))
            answered += 1
            # What the way there and back takes, and it is not the same for all.
            await asyncio.sleep(0.001 + 0.0001 * (name % 10))

    for name in range(clients):
        virtual.start(client(name))
    virtual.pass_s(seconds)
    return answered


@pytest.mark.parametrize("clients", [2, 8, 32])
def test_clients_that_ask_again_and_again_share_each_query(clients: int) -> None:
    with VirtualTime() as virtual:
        stores = Stores(0.010)
        answered = asked_by(virtual, stores, clients, 2.0)
        assert set(stores.asked[10:]) == {clients}
        assert answered > clients * 2.0 / 0.015


def test_a_client_alone_waits_for_nobody() -> None:
    with VirtualTime() as virtual:
        stores = Stores(0.010)
        answered = asked_by(virtual, stores, 1, 2.0)
        assert answered > 2.0 / 0.0112


def test_who_comes_while_a_query_is_slow_does_not_wait_for_it() -> None:
    with VirtualTime() as virtual:
        stores = Stores(1.5)
        lookups = Lookups(stores, stores, 1, 2.0)  # type: ignore[arg-type]
        slow = virtual.start(lookups.rows_of(MessageKey(1, "slow", 0)))
        virtual.pass_s(0.05)
        stores.query_s = 0.01
        quick = [virtual.start(lookups.rows_of(MessageKey(n, "quick", 0))) for n in range(9)]
        virtual.pass_s(0.07)
        assert all(found.done() for found in quick)
        assert not slow.done()
        virtual.pass_s(1.5)
        assert slow.done()
        assert stores.asked == [1, 9]


def test_what_is_kept_of_a_stream_is_dropped_when_nobody_asks() -> None:
    with VirtualTime() as virtual:
        reads: list[StreamId] = []

        async def look(start: StreamId) -> tuple[list[ActivityEntry], list[ActivityEntry]]:
            reads.append(start)
            entries = [ActivityEntry(shard=0, id=StreamId(n, 0), blob=b"x") for n in range(1, 4)]
            return entries[:1], [entry for entry in entries if entry.id >= start]

        tail = KeptTail(look, 5, KeptOctets())
        for pause_s in (0.5, 0.5, 1.5, 0.0):
            virtual.start(tail.since(StreamId(0, 0)))
            virtual.pass_s(pause_s + 0.01)
        assert reads == [(0, 0), (3, 0), (3, 0), (0, 0)]
