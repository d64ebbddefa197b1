"""Credit end to end without HTTP: holders, the ledger, PostgreSQL and Redis, all real."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial

import asyncpg
import msgspec
import pytest
import structlog

from engine import redis_keys, shards
from engine.api.messages import render_atomic, render_batch, render_one
from engine.boot.ingest import assemble_ingest
from engine.boot.ledger import assemble_ledger
from engine.config import Credit, Queues
from engine.credit.laws import Audit, Units
from engine.credit.quota import Quota
from engine.errors import Refusal, Unavailable
from engine.intake.ingest import Ingest
from engine.intake.pricing import PriceTable
from engine.intake.under_way import Render, Submitted
from engine.records import Accepted, MessageDraft
from engine.stores.audit import AuditReader
from engine.stores.postgres.directory import Directory
from engine.stores.postgres.ledger import PostgresLedger
from engine.stores.redis.admission import RedisAdmission
from engine.stores.redis.kept_answers import RedisKeptAnswers
from engine.stores.redis.link import RedisLink
from engine.stores.redis.usage import RedisUsage
from engine.stream_id import StreamId
from tests.adversity.proxy import Proxy

SHARDS = 4


def now_us() -> int:
    return time.time_ns() // 1000


class NoActivity:
    """The audit here is of the books and Redis; ClickHouse has its own tests."""

    async def ping(self, timeout_s: float) -> None:
        pass

    async def units_between(
        self, shard: int, first: StreamId, end: StreamId, timeout_s: float
    ) -> tuple[dict[int, Units], int]:
        return {}, 0

    async def ask(
        self, query: str, parameters: Mapping[str, int], timeout_s: float
    ) -> Sequence[Sequence[int]]:
        return []


class World:
    """One ledger's and several holders' surroundings."""

    def __init__(self, redis_url: str, postgres_url: str) -> None:
        self.redis_url = redis_url
        self.postgres_url = postgres_url
        self.stack = AsyncExitStack()
        self.directory: Directory
        # Whether every recipient has opted out.
        self.opted_out = False
        self.link: RedisLink

    async def open_link(self, url: str = "", timeout_s: float = 5.0) -> RedisLink:
        link = RedisLink(url or self.redis_url, timeout_s=timeout_s, name="test")
        await link.start()
        self.stack.push_async_callback(link.close)
        return link

    def permit(self, organisation_id: int, to: str, sender: str) -> str:
        if self.opted_out:
            raise Refusal("opted_out", 422, "The recipient has opted out.", "to")
        return sender

    async def organisation(self, units: int) -> int:
        made = await self.directory.create_organisation("test")
        if units:
            await self.directory.top_up(made.id, units, "first")
        return made.id

    async def ledger(
        self, overdue_s: float = 15.0, store: type[PostgresLedger] = PostgresLedger
    ) -> asyncio.Event:
        """A running ledger; the event drains it."""
        draining = asyncio.Event()
        ledger = assemble_ledger(
            store(self.postgres_url, timeout_s=5),
            RedisUsage(await self.open_link(), await self.open_link(), SHARDS),
            Credit(overdue_s=overdue_s),
            shards=SHARDS,
            clock_s=time.monotonic,
            rng=random.SystemRandom(),
            gather_s=0.05,
        )
        ready = asyncio.Event()
        task = asyncio.create_task(ledger.run(draining, ready.set))

        async def stop() -> None:
            draining.set()
            await task

        self.stack.push_async_callback(stop)
        waiting = asyncio.create_task(ready.wait())
        await asyncio.wait({waiting, task}, return_when=asyncio.FIRST_COMPLETED)
        assert not task.done(), task
        return draining

    async def holder(
        self, name: str, link: RedisLink | None = None, *, accepted_on: int = 1
    ) -> tuple[Ingest, Quota]:
        commands = link or await self.open_link()
        admission = RedisAdmission(commands, await self.open_link(), SHARDS, accepted_on=accepted_on)
        quota, ingest = assemble_ingest(
            admission,
            PriceTable({"": 1}),
            name,
            Credit(quota_s=2.0, quota_min=100, validity_s=30.0),
            Queues(),
            shards=SHARDS,
            timeout_s=5.0,
            now_us=now_us,
            rng=random.SystemRandom(),
            permit=self.permit,
            first=RedisKeptAnswers(commands, SHARDS, lambda: admission.key_ttl_s).first,
        )
        await quota.start()
        task = asyncio.create_task(quota.run())

        async def stop() -> None:
            await quota.leave()
            task.cancel()
            await asyncio.wait([task])

        self.stack.push_async_callback(stop)
        return ingest, quota

    async def audit(self) -> Audit:
        return await AuditReader(self.postgres_url, self.link, NoActivity(), SHARDS).audit()

    async def clean(self, *, lost: bool = False, waits: Sequence[str] = ()) -> None:
        """All laws are checked and hold: whatever was recorded is still on the streams. After a Redis
        `lost` data all but one: what was recorded does not match the books then. `waits`: laws that
        cannot be checked yet."""
        found = await self.audit()
        verdicts = {check.name: check.verdict for check in found.checks if check.verdict != "clean"}
        assert verdicts == dict.fromkeys([*waits, *(["activity"] if lost else [])], "not_checked"), found


@asynccontextmanager
async def world(redis_url: str, postgres_url: str) -> AsyncIterator[World]:
    w = World(redis_url, postgres_url)
    async with w.stack:
        w.link = await w.open_link()
        w.directory = await Directory.connect(postgres_url, shards=SHARDS)
        w.stack.push_async_callback(w.directory.close)
        yield w


def drafts(count: int, text: str = "hello") -> list[MessageDraft | Refusal]:
    return [MessageDraft(to="+4915112345678", text=text) for _ in range(count)]


def render(outcomes: Sequence[Accepted | Refusal]) -> bytes:
    return msgspec.json.encode([o if isinstance(o, Accepted) else {"code": o.code} for o in outcomes])


def accepted(submitted: Submitted) -> int:
    return sum("id" in outcome for outcome in msgspec.json.decode(submitted.answer))


async def eventually(holds: object, timeout_s: float = 60.0) -> None:
    """Until `holds()` is true."""
    async with asyncio.timeout(timeout_s):
        # What changes is in the stores, which do not tell.
        while not await holds():  # type: ignore[operator]  # noqa: ASYNC110
            await asyncio.sleep(0.02)


async def test_what_is_accepted_is_held_and_what_is_left_is_available(
    streams_url: str, books_url: str
) -> None:
    async with world(streams_url, books_url) as w:
        await w.ledger()
        ingest, _ = await w.holder("h1")
        org = await w.organisation(1000)
        assert accepted(await ingest.submit(org, drafts(30), render=render)) == 30

        async def posted() -> bool:
            balance = await w.directory.balance(org)
            return (balance.posted, balance.held, balance.available) == (1000, 30, 970)

        await eventually(posted)
        await w.clean()


async def test_the_last_unit_is_spent_and_the_next_is_refused(streams_url: str, books_url: str) -> None:
    async with world(streams_url, books_url) as w:
        await w.ledger()
        ingest, _ = await w.holder("h1")
        org = await w.organisation(100)
        assert accepted(await ingest.submit(org, drafts(120), render=render)) == 100
        assert accepted(await ingest.submit(org, drafts(1), render=render)) == 0
        # A top-up that was confirmed before a message is sent is always seen.
        await w.directory.top_up(org, 5, "second")
        assert accepted(await ingest.submit(org, drafts(6), render=render)) == 5
        await w.clean()


async def test_a_dear_message_is_refused_and_a_cheap_one_beside_it_accepted(
    streams_url: str, books_url: str
) -> None:
    async with world(streams_url, books_url) as w:
        await w.ledger()
        ingest, _ = await w.holder("h1")
        org = await w.organisation(3)
        mixed = [*drafts(1, "x" * 1000), *drafts(2)]
        outcomes = msgspec.json.decode((await ingest.submit(org, mixed, render=render)).answer)
        assert [("id" in o) for o in outcomes] == [False, True, True]
        assert outcomes[0]["code"] == "insufficient_credit"


async def test_racing_holders_spend_exactly_what_there_is(streams_url: str, books_url: str) -> None:
    async with world(streams_url, books_url) as w:
        await w.ledger()
        holders = [(await w.holder(f"h{i}"))[0] for i in range(3)]
        org = await w.organisation(100)

        async def client(ingest: Ingest) -> int:
            return sum([accepted(await ingest.submit(org, drafts(1), render=render)) for _ in range(20)])

        got = await asyncio.gather(*[client(holders[i % 3]) for i in range(10)])
        assert sum(got) == 100
        await w.clean()


async def test_units_that_lie_with_another_holder_are_served_not_refused(
    streams_url: str, books_url: str
) -> None:
    async with world(streams_url, books_url) as w:
        await w.ledger()
        first, _ = await w.holder("h1")
        second, _ = await w.holder("h2")
        org = await w.organisation(100)
        # The first now has most of it.
        assert accepted(await first.submit(org, drafts(1), render=render)) == 1
        assert accepted(await second.submit(org, drafts(99), render=render)) == 99
        assert accepted(await first.submit(org, drafts(1), render=render)) == 0
        await w.clean()


async def test_quota_of_a_dead_holder_is_available_again_after_its_fence(
    streams_url: str, books_url: str
) -> None:
    async with world(streams_url, books_url) as w:
        await w.ledger()
        first, dead = await w.holder("h1")
        org = await w.organisation(100)
        assert accepted(await first.submit(org, drafts(10), render=render)) == 10
        admission = RedisAdmission(w.link, w.link, SHARDS)
        # Its own heartbeat may find it out at any time from here on.
        incarnation = dead.incarnation
        await admission.fence("h1")
        second, _ = await w.holder("h2")
        assert accepted(await second.submit(org, drafts(100), render=render)) == 90
        # The fenced one spends nothing, registers anew, and goes on by the same rules.
        with suppress(Unavailable):
            assert accepted(await first.submit(org, drafts(1), render=render)) == 0

        async def registered() -> bool:
            return dead.incarnation > incarnation

        await eventually(registered)
        await w.clean()


async def test_an_answer_that_the_version_before_kept_is_given_again(
    streams_url: str, books_url: str
) -> None:
    async with world(streams_url, books_url) as w:
        await w.ledger()
        ingest, _ = await w.holder("h1")
        org = await w.organisation(100)
        key = redis_keys.idempotency_key(shards.shard_of(org, SHARDS), org, "old")
        await w.link.call("HSET", key, "f", b"one", "a", b'[{"id":"before"}]')
        submit = partial(ingest.submit, org, render=render, idempotency_key="old")
        again = await submit(drafts(1), fingerprint=b"one")
        assert (again.answer, again.replayed) == (b'[{"id":"before"}]', True)
        with pytest.raises(Refusal) as refused:
            await submit(drafts(1), fingerprint=b"two")
        assert refused.value.status == 409
        await w.clean()


async def test_a_repetition_whose_kept_answer_is_damaged_is_refused_for_good_and_costs_nothing(
    streams_url: str, books_url: str
) -> None:
    async with world(streams_url, books_url) as w:
        await w.ledger()
        ingest, _ = await w.holder("h1")
        org = await w.organisation(100)
        submit = partial(ingest.submit, org, render=render, idempotency_key="k", fingerprint=b"one")
        assert accepted(await submit(drafts(3))) == 3
        key = redis_keys.idempotency_key(shards.shard_of(org, SHARDS), org, "k")
        await w.link.call("SET", key, b"\x03one" + b"\x01damaged", "KEEPTTL")
        with pytest.raises(Refusal) as refused:
            await submit(drafts(3))
        assert (refused.value.status, refused.value.code) == (409, "idempotency_key_used")

        async def posted() -> bool:
            return (await w.directory.balance(org)).held == 3

        await eventually(posted)
        await w.clean()


async def test_a_repeated_batch_is_told_its_refusals_again_whatever_has_changed_since(
    streams_url: str, books_url: str
) -> None:
    async with world(streams_url, books_url) as w:
        await w.ledger()
        first, _ = await w.holder("h1")
        second, _ = await w.holder("h2")
        org = await w.organisation(20)
        batch = [
            *drafts(3),
            MessageDraft(to="+1", text="no number"),
            *drafts(1, "x" * 5000),
            *drafts(2, "ü" + "ж" * 100),
            *drafts(30),
            MessageDraft(to="+4915112345678", text="later", validity=0),
        ]
        wanted = {"render": render_batch, "idempotency_key": "batch", "fingerprint": b"f" * 16}
        once = await first.submit(org, batch, **wanted)  # type: ignore[arg-type]
        codes = [o.get("error", {}).get("code", "") for o in msgspec.json.decode(once.answer)["results"]]
        assert set(codes) == {"", "invalid_number", "invalid_field", "insufficient_credit"}
        # What was refused for want of credit could be paid now.
        await w.directory.top_up(org, 1000, "second")
        again = await second.submit(org, batch, **wanted)  # type: ignore[arg-type]
        assert (again.answer, again.replayed) == (once.answer, True)
        await w.clean()


@pytest.mark.parametrize("answered", [render_one, render_atomic, render_batch])
async def test_what_was_accepted_gets_its_answer_again_though_it_would_be_refused_now(
    answered: Render, streams_url: str, books_url: str
) -> None:
    async with world(streams_url, books_url) as w:
        await w.ledger()
        first, _ = await w.holder("h1")
        second, _ = await w.holder("h2")
        org = await w.organisation(1)
        wanted = {"render": answered, "idempotency_key": "k", "fingerprint": b"one"}
        once = await first.submit(org, drafts(1), **wanted)  # type: ignore[arg-type]

        async def refused() -> str:
            try:
                new = await second.submit(org, drafts(1), **(wanted | {"idempotency_key": "new"}))  # type: ignore[arg-type]
            except Refusal as refusal:
                return refusal.code
            assert not new.replayed
            return str(msgspec.json.decode(new.answer)["results"][0]["error"]["code"])

        async def repeated() -> bool:
            again = await second.submit(org, drafts(1), **wanted)  # type: ignore[arg-type]
            return (again.answer, again.replayed) == (once.answer, True)

        # The credit is used up.
        assert await refused() == "insufficient_credit"
        assert await repeated()
        # The recipient has opted out.
        w.opted_out = True
        assert await refused() == "opted_out"
        assert await repeated()
        with pytest.raises(Refusal) as other:
            await second.submit(org, drafts(1), **(wanted | {"fingerprint": b"two"}))  # type: ignore[arg-type]
        assert other.value.code == "idempotency_key_reused"
        await w.clean()


async def test_a_repeated_idempotency_key_gets_the_first_answer_and_costs_nothing(
    streams_url: str, books_url: str
) -> None:
    async with world(streams_url, books_url) as w:
        await w.ledger()
        ingest, _ = await w.holder("h1")
        org = await w.organisation(100)
        submit = partial(ingest.submit, org, render=render, idempotency_key="k", fingerprint=b"one")
        first = await submit(drafts(3))
        again, twin = await asyncio.gather(submit(drafts(3)), submit(drafts(3)))
        assert first.answer == again.answer == twin.answer
        assert (first.replayed, again.replayed, twin.replayed) == (False, True, True)
        with pytest.raises(Refusal) as refused:
            await ingest.submit(org, drafts(2), render=render, idempotency_key="k", fingerprint=b"two")
        assert refused.value.status == 409

        async def posted() -> bool:
            return (await w.directory.balance(org)).held == 3

        await eventually(posted)
        await w.clean()


async def test_a_connection_cut_between_a_flush_and_its_answer_neither_loses_nor_doubles(
    streams_url: str, books_url: str
) -> None:
    async with world(streams_url, books_url) as w:
        await w.ledger()
        proxy = await w.stack.enter_async_context(Proxy.to(streams_url))
        ingest, _ = await w.holder("h1", await w.open_link(proxy.url(streams_url), timeout_s=1.0))
        org = await w.organisation(10_000)
        done = 0
        for _ in range(20):
            submitting = asyncio.create_task(ingest.submit(org, drafts(10), render=render))
            await asyncio.sleep(random.random() * 0.002)
            proxy.cut()
            done += accepted(await submitting)
        assert done == 200

        async def posted() -> bool:
            return (await w.directory.balance(org)).held == 200

        await eventually(posted)
        await w.clean()


async def test_a_standby_ledger_takes_over_and_every_entry_counts_once(
    streams_url: str, books_url: str
) -> None:
    async with world(streams_url, books_url) as w:
        first = await w.ledger()
        await w.ledger()
        ingest, _ = await w.holder("h1")
        org = await w.organisation(10_000)
        assert accepted(await ingest.submit(org, drafts(50), render=render)) == 50
        first.set()
        assert accepted(await ingest.submit(org, drafts(900), render=render)) == 900

        async def posted() -> bool:
            return (await w.directory.balance(org)).held == 950

        await eventually(posted)
        await w.clean()


async def test_without_a_ledger_the_answer_is_unavailable_never_a_refusal(
    streams_url: str, books_url: str
) -> None:
    async with world(streams_url, books_url) as w:
        ingest, _ = await w.holder("h1")
        org = await w.organisation(100)
        ingest._running.after_s = 0.3
        with pytest.raises(Unavailable):
            await ingest.submit(org, drafts(1), render=render)


async def test_a_holder_that_fell_silent_is_fenced_and_its_quota_served_to_others(
    streams_url: str, books_url: str
) -> None:
    async with world(streams_url, books_url) as w:
        await w.ledger(overdue_s=3.0)
        org = await w.organisation(100)
        # Registered and granted, then never heard of again.
        silent = Quota(
            RedisAdmission(w.link, await w.open_link(), SHARDS), "silent", shards=SHARDS,
            shard_of=partial(shards.shard_of, shards=SHARDS), now_us=now_us,
            quota_s=2.0, quota_min=100, validity_s=30.0,
        )  # fmt: skip
        await silent.start()
        running = asyncio.create_task(silent.run())
        assert await silent.wait(org, 1, 60)
        running.cancel()
        await asyncio.wait([running])
        ingest, _ = await w.holder("h2")
        assert accepted(await ingest.submit(org, drafts(100), render=render)) == 100
        await w.clean()


async def test_when_redis_loses_everything_the_books_are_closed_and_service_goes_on(
    streams_url: str, books_url: str
) -> None:
    async with world(streams_url, books_url) as w:
        await w.ledger()
        ingest, _ = await w.holder("h1")
        org = await w.organisation(1000)
        assert accepted(await ingest.submit(org, drafts(40), render=render)) == 40

        async def held() -> bool:
            return (await w.directory.balance(org)).held == 40

        await eventually(held)
        await w.link.call("FLUSHALL")

        async def served() -> bool:
            try:
                return accepted(await ingest.submit(org, drafts(10), render=render)) == 10
            except Unavailable:
                return False

        await eventually(served)

        async def posted() -> bool:
            balance = await w.directory.balance(org)
            return (balance.posted, balance.held) == (1000, 10)

        # The forty that Redis lost were never sent: their units are back.
        await eventually(posted)
        await w.clean(lost=True)
        pool = await asyncpg.create_pool(books_url, min_size=1, max_size=1)
        causes = await pool.fetch("SELECT movement, units FROM journal WHERE reference LIKE 'Redis lost%'")
        await pool.close()
        assert ("release", 40) in [tuple(row) for row in causes]


async def test_a_ledger_that_is_to_end_leaves_the_lead_although_usage_never_ends(
    streams_url: str, books_url: str
) -> None:
    async with world(streams_url, books_url) as w:
        ingest, _ = await w.holder("h1")
        org = await w.organisation(1_000_000)
        enough = asyncio.Event()

        async def customer() -> None:
            while not enough.is_set():
                await ingest.submit(org, drafts(5), render=render)

        with structlog.testing.capture_logs() as lines:
            first = await w.ledger()
            customers = [asyncio.create_task(customer()) for _ in range(8)]
            await w.ledger()
            first.set()

            async def leads() -> bool:
                return sum(line["event"] == "leading" for line in lines) == 2

            try:
                await eventually(leads)
            finally:
                enough.set()
                await asyncio.gather(*customers)


async def test_when_redis_goes_back_in_time_what_it_still_has_is_held_again(
    streams_url: str, books_url: str
) -> None:
    async with world(streams_url, books_url) as w:
        draining = await w.ledger()
        ingest, _ = await w.holder("h1")
        org = await w.organisation(1000)
        assert accepted(await ingest.submit(org, drafts(40), render=render)) == 40
        draining.set()

        async def held() -> bool:
            return (await w.directory.balance(org)).held == 40

        await eventually(held)
        # The books had charged 15 of these; Redis is older than that.
        pool = await asyncpg.create_pool(books_url, min_size=1, max_size=1)
        await pool.execute("UPDATE accounts SET held = held - 15, captured = captured + 15")
        await pool.execute(
            "INSERT INTO journal (organisation_id, movement, debit, credit, units)"
            " VALUES ($1, 'capture', 'held', 'captured', 15)", org,
        )  # fmt: skip
        shard = shards.shard_of(org, SHARDS)
        await pool.execute("UPDATE shards SET position = '99999999999999-0' WHERE shard = $1", shard)
        await pool.close()
        await w.ledger()

        async def reopened() -> bool:
            balance = await w.directory.balance(org)
            return (balance.posted, balance.held) == (1000, 40)

        await eventually(reopened)
        await w.clean(lost=True)
