"""The status shows what can be known: a store that hangs costs its own part and no other."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Iterator
from pathlib import Path

import asyncpg
import msgspec
import pytest
import structlog
from rich.console import Console

from engine.api import reads
from engine.api.reads import Reports
from engine.capacity.autoscale_settings import AutoscaleSettings
from engine.clocks.store_clock import TIME, StoreClock
from engine.config import Config, Store
from engine.config.autoscale import Autoscale
from engine.nodes.control import NodeControl
from engine.providers.settings import SimulatedSettings
from engine.stores.clickhouse.attempts import ClickHouseAttempts
from engine.stores.migrate import migrate_clickhouse, migrate_postgres
from engine.stores.postgres.nodes import PostgresNodeWishes
from engine.stores.postgres.pool import Pool
from engine.stores.redis.activity_stream import RedisActivityStream
from engine.stores.redis.link import RedisLink, load_functions
from engine.stores.redis.node_notes import RedisNodeNotes
from engine.stores.status import LatencyTarget, Status
from supervisor.cli import answers, show
from supervisor.cli.checks import _check_all
from tests.credit.audit_world import Stores

_CONFIG = Config(
    shards=2,
    data_dir=str(Path(__file__).parent),
    autoscale=Autoscale(normal=AutoscaleSettings(target="p95 <= 1.5s")),
    providers=tuple(SimulatedSettings(name=name, url="http://127.0.0.1:1") for name in ("one", "two")),
)
_PAUSED = {"paused_providers", "provider_pauses", "paused_queues", "drained_queues", "paused_organisations"}
_OF_POSTGRES = {*_PAUSED, "webhooks"}
_OF_REDIS = {"queues", "nodes", "flow", "memory", "activity", "receipts", "problems_last_hour"}
_ALL = {*_OF_REDIS, "ledger", *_OF_POSTGRES}


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stores]:
    stores = Stores(tmp_path_factory.mktemp("stores"))
    yield stores
    stores.stop()


@pytest.fixture
async def views(stores: Stores, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Reports]:
    # Longer than a machine stands still.
    monkeypatch.setattr(reads, "PART_S", 60.0)
    urls = {name: stores.url(name) for name in ("postgres", "redis", "clickhouse")}
    await migrate_postgres(urls["postgres"])
    await migrate_clickhouse(urls["clickhouse"])
    # The adapters wait for longer than a request may take.
    link = RedisLink(urls["redis"], timeout_s=60, name="status")
    await link.start()
    await load_functions(link)
    stream, attempts = RedisActivityStream(urls["redis"], 2), ClickHouseAttempts(urls["clickhouse"])
    pool = await Pool.connect(urls["postgres"], timeout_s=60, connections_max=2)
    clock = StoreClock(structlog.get_logger())
    control = NodeControl("test", RedisNodeNotes(link), PostgresNodeWishes(pool), clock.now_us)
    asked = clock.asked()
    clock.answered(asked, await link.call(*TIME))
    yield Reports(_CONFIG, pool, link, stream, attempts.unmatched, clock, control)
    await pool.close()
    await attempts.close()
    await stream.close()
    await link.close()


def test_the_targets_are_those_of_the_queues_that_are_scaled() -> None:
    assert reads._targets(_CONFIG) == {"normal": LatencyTarget(0.95, 1500.0)}
    assert reads._targets(Config()) == {}


def known(status: Status) -> set[str]:
    return {name for name in _ALL if getattr(status, name) is not None}


async def status_without(views: Reports, missing: Iterable[str]) -> Status:
    """The status, once it lacks no more than `missing`: where a machine stands still others are late too."""
    async with asyncio.timeout(120):
        while True:
            status = await views.status()
            assert status.missing.keys() >= set(missing)
            if status.missing.keys() == set(missing):
                return status


async def test_a_frozen_store_costs_its_own_part_of_the_status(
    views: Reports, stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = await views.status()
    assert (known(whole), whole.missing) == (_ALL, {})
    assert whole.disk is not None
    assert whole.receipts is not None
    assert whole.receipts.unmatched == 0
    monkeypatch.setattr(reads, "PART_S", 0.5)
    for store, left, missing in (
        ("clickhouse", _ALL, {"receipts.unmatched": "ClickHouse"}),
        (
            "postgres",
            _ALL - _OF_POSTGRES - {"ledger"},
            dict.fromkeys(_OF_POSTGRES | {"ledger"}, "PostgreSQL"),
        ),
        ("redis", _OF_POSTGRES, dict.fromkeys(_ALL - _OF_POSTGRES, "Redis")),
    ):
        stores.freeze(store)
        try:
            # More often than there are connections to it.
            for _ in range(4):
                status = await status_without(views, missing)
                assert known(status) == left, store
                assert status.disk is not None, store
                assert all(missing[part] in why for part, why in status.missing.items()), status.missing
        finally:
            stores.thaw(store)


async def test_what_waits_to_be_told_and_who_does_not_take_it_is_shown(
    views: Reports, stores: Stores
) -> None:
    books = await asyncpg.connect(stores.url("postgres"))
    # One that fails, one behind it that was never tried and is due first, one elsewhere that only waits for
    # its turn, and one that has failed; all long ago.
    rows = [(0, "https://a.test:443", 3, 503, None, 60), (0, "https://a.test:443", 0, 0, None, -60),
            (1, "https://b.test:443", 0, 0, None, 0),
            (1, "https://a.test:443", 16, 0, "now()", 0)]  # fmt: skip
    try:
        await books.execute("INSERT INTO organisations (id, name) OVERRIDING SYSTEM VALUE VALUES (77, 'A')")
        endpoint = await books.fetchval(
            "INSERT INTO webhook_endpoints (organisation_id, url, secret, version)"
            " VALUES (77, 'https://a.test/', '', 1) RETURNING id"
        )
        for number, (shard, origin, attempts, status, failed_at, due_in_s) in enumerate(rows):
            await books.execute(
                "INSERT INTO webhook_deliveries (shard, organisation_id, endpoint_id, origin, url, event_id,"
                " type, event_at, body, attempts, kept_at, due_at, failed_at, last_status, last_reason)"
                f" VALUES ($1, 77, $2, $3, $3, $4, '', now(), '', $5, now() - interval '90 s',"
                f" now() + make_interval(secs => $7), {failed_at or 'NULL'}, $6, 'http')",
                shard, endpoint, origin, f"evt_{number}", attempts, status, float(due_in_s),
            )  # fmt: skip
        seen = await views.status()
    finally:
        await books.execute("DELETE FROM webhook_deliveries")
        await books.close()
    found = seen.webhooks
    assert found is not None
    assert (found.waiting, found.failed, found.failing_endpoints) == (3, 1, 1)
    assert 90_000 <= found.oldest_ms < 600_000
    [one] = found.failing
    assert (one.organisation_id, one.origin, one.attempts, one.last_status) == (77, rows[0][1], 3, 503)
    sentences = show.sentences(msgspec.convert(msgspec.to_builtins(seen), answers.Status))
    assert any("webhooks fail at 1 endpoint: organisation 77 https://a.test:443" in s for s in sentences)
    assert (await views.status()).webhooks.waiting == 0  # type: ignore[union-attr]


async def test_suspended_organisations_and_paused_providers_are_told(views: Reports, stores: Stores) -> None:
    async def checked() -> str:
        config = Config(postgres=Store(url=stores.url("postgres")))
        return next(one.detail for one in await _check_all(config, {}) if one.part == "postgres")

    told = "2 organisations are suspended: usage of 59 units is not booked (run smsengine books repair)"
    before = await views.status()
    assert before.ledger is not None
    assert (before.ledger.unbooked_organisations, before.ledger.unbooked_units) == (0, 0)
    assert before.paused_providers == []
    assert "suspended" not in await checked()
    books = await asyncpg.connect(stores.url("postgres"))
    try:
        await books.execute(
            "INSERT INTO unbooked (organisation_id, shard, position, kind, holder, held, captured, released)"
            " VALUES (7, 0, '1-0', 'usage', 'h', 50, 30, 0), (7, 0, '2-0', 'usage', 'h', 0, 20, 0),"
            " (8, 1, '1-0', 'usage', 'h', 0, 5, 4)"
        )
        # One that is paused and in the configuration no more concerns nobody.
        await books.execute(
            "INSERT INTO provider_states (provider, paused, pause_reason)"
            " VALUES ('two', true, 'no receipts'), ('one', false, ''), ('old', true, '')"
        )
        status = await views.status()
        assert status.ledger is not None
        assert (status.ledger.unbooked_organisations, status.ledger.unbooked_units) == (2, 59)
        assert status.paused_providers == ["two"]
        assert status.provider_pauses is not None
        assert {name: pause.reason for name, pause in status.provider_pauses.items()} == {
            "two": "no receipts"
        }
        assert told in await checked()
        console = Console(width=200)
        with console.capture() as shown:
            console.print(show.status(msgspec.convert(msgspec.to_builtins(status), answers.Status), 0))
        lines = [line.rstrip() for line in shown.get().splitlines()]
        assert told in lines
        assert "paused: two (no receipts)" in lines
        # An engine of an older version does not say why.
        older = msgspec.structs.replace(status, provider_pauses=None)
        assert "paused: two" in show.sentences(msgspec.convert(msgspec.to_builtins(older), answers.Status))
        await books.execute("UPDATE unbooked SET booked_at = now()")
        assert "suspended" not in await checked()
    finally:
        await books.execute("TRUNCATE unbooked, provider_states")
        await books.close()
