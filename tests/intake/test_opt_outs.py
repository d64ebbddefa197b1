"""Nobody who has opted out is sent to: real PostgreSQL and Redis, and PostgreSQL that goes away and back."""

from __future__ import annotations

import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec
import pytest

from engine.config import Queues
from engine.errors import Refusal, Unavailable
from engine.ids import MessageIds
from engine.intake.ingest import Ingest
from engine.intake.opt_outs import OptOutTable
from engine.intake.permissions import Permissions
from engine.intake.pricing import PriceTable
from engine.intake.sender_table import SenderTable
from engine.limits.gate import Gate
from engine.records import MessageDraft
from engine.stores.postgres import opt_outs as opt_outs_module
from engine.stores.postgres.directory import Directory
from engine.stores.postgres.opt_outs import OptOutBook
from engine.stores.postgres.sender_rules import SenderBook
from tests.adversity.proxy import Proxy
from tests.credit.test_credit import drafts, now_us, render, world
from tests.postgres_databases import database

TO = "+4915112345678"
OTHERS = [f"+49151{n:08}" for n in range(30)]


@pytest.fixture
async def directory(postgres_url: str) -> AsyncIterator[Directory]:
    async with database(postgres_url, "opt_outs_store") as url, opened(url) as directory:
        yield directory


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[Directory]:
    directory = await Directory.connect(url, shards=16)
    yield directory
    await directory.close()


async def test_who_opts_out_and_in_again_is_followed_change_by_change(
    directory: Directory, monkeypatch: pytest.MonkeyPatch
) -> None:
    for bound in ("_CHANGES_MAX", "_PAGE"):
        monkeypatch.setattr(opt_outs_module, bound, 7)
    one, other = [(await directory.create_organisation(name)).id for name in ("one", "other")]
    book = OptOutBook(directory.pool)
    assert await book.add(one, [TO, TO], "api") == 1
    assert await book.add(one, [TO, *OTHERS], "admin") == len(OTHERS), "more than a page"
    table = OptOutTable(book)
    with pytest.raises(Unavailable, match="not known yet"):
        table.opted_out(one, TO)
    await table.refresh()
    assert (table.opted_out(one, TO), table.opted_out(other, TO), len(table)) == (True, False, 31)
    assert await book.remove(one, [TO, "+4915112345679"], "inbound") == 1
    assert await book.remove(one, [TO], "inbound") == 0
    await book.add(other, OTHERS, "api")
    await table.refresh()
    assert (table.opted_out(one, TO), table.opted_out(other, OTHERS[29]), len(table)) == (False, True, 60)
    assert await book.add(one, [TO], "inbound") == 1
    await table.refresh()
    assert table.opted_out(one, TO)
    shown = await book.one(one, TO)
    assert (shown.number, shown.source) == (TO, "inbound")
    assert [o.number for o in await book.listed(other, int(OTHERS[27][1:]), 10)] == OTHERS[28:]
    for asking in (book.one(other, TO), book.listed(10**9, 0, 1), book.add(10**9, [TO], "api")):
        with pytest.raises(Refusal) as refused:
            await asking
        assert refused.value.status == 404


async def test_what_was_known_stays_while_postgres_is_away_and_all_is_read_when_it_is_back(
    directory: Directory, postgres_url: str
) -> None:
    one = (await directory.create_organisation("one")).id
    book = OptOutBook(directory.pool)
    await book.add(one, [TO], "api")
    url = postgres_url.rpartition("/")[0] + "/opt_outs_store"
    async with Proxy.to(url) as proxy, opened(proxy.url(url)) as far:
        table = OptOutTable(OptOutBook(far.pool))
        await table.refresh()
        proxy.refuse()
        proxy.cut()
        # It goes back to a time before this opt-out, and others are made that have higher versions.
        async with directory.pool.connection() as connection:
            await connection.execute("DELETE FROM opt_outs")
        await table.refresh()
        assert table.opted_out(one, TO)
        await book.add(one, OTHERS, "api")
        proxy.admit()
        await table.refresh()
        assert (table.opted_out(one, TO), table.opted_out(one, OTHERS[3])) == (False, True)
        # The same without a look that found it away.
        async with directory.pool.connection() as connection:
            await connection.execute("DELETE FROM opt_outs")
            await connection.execute("UPDATE opt_outs_version SET version = 5")
        await table.refresh()
        assert not table.opted_out(one, OTHERS[3])


async def test_a_message_to_one_who_opted_out_is_refused_by_itself_and_costs_nothing(
    streams_url: str, books_url: str
) -> None:
    async with world(streams_url, books_url) as w, opened(books_url) as directory:
        await w.ledger()
        org, (_, quota) = await w.organisation(100), await w.holder("h1")
        book = OptOutBook(directory.pool)
        table, senders = OptOutTable(book), SenderTable(SenderBook(directory.pool))
        await senders.refresh()
        gate, ids = Gate(clock_s=time.monotonic), MessageIds(random.getrandbits(26), random.getrandbits(48))
        ingest = Ingest(
            quota, PriceTable({"": 1}), Queues().validities_s(), ids, now_us=now_us, timeout_s=5.0, gate=gate,
            permit=Permissions(table, senders).sender,
        )  # fmt: skip
        with pytest.raises(Unavailable, match="opted out"):
            await ingest.submit(org, drafts(1), render=render)
        await book.add(org, [TO], "api")
        await table.refresh()
        wanted = [
            MessageDraft(to=to, text="hello") for to in (OTHERS[0], "00 49 (151) 123 456 78", OTHERS[1])
        ]
        answer = msgspec.json.decode((await ingest.submit(org, wanted, render=render)).answer)
        assert [outcome.get("code") for outcome in answer] == [None, "opted_out", None]
        assert ingest.refused["opted_out",] == 1
        await w.clean()
