"""The status shows what can be known: a store that hangs costs its own part and no other."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest
import structlog

from engine.api import reads
from engine.api.reads import Reads
from engine.config import Config
from engine.store_clock import TIME, StoreClock
from engine.stores.clickhouse.attempts import ClickHouseAttempts
from engine.stores.migrate import migrate_clickhouse, migrate_postgres
from engine.stores.postgres.pool import Pool
from engine.stores.redis.activity_stream import RedisActivityStream
from engine.stores.redis.link import RedisLink, load_functions
from engine.stores.status import Status
from tests.credit.audit_world import Stores

_ALL = {"queues", "ledger", "activity", "receipts"}


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stores]:
    stores = Stores(tmp_path_factory.mktemp("stores"))
    yield stores
    stores.stop()


@pytest.fixture
async def views(stores: Stores, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Reads]:
    monkeypatch.setattr(reads, "_PART_S", 0.5)
    urls = {name: stores.url(name) for name in ("postgres", "redis", "clickhouse")}
    await migrate_postgres(urls["postgres"])
    await migrate_clickhouse(urls["clickhouse"])
    # The adapters wait for longer than a request may take.
    link = RedisLink(urls["redis"], timeout_s=60, name="status")
    await link.start()
    await load_functions(link)
    stream, attempts = RedisActivityStream(urls["redis"], 2), ClickHouseAttempts(urls["clickhouse"])
    pool = await Pool.connect(urls["postgres"], timeout_s=60, connections_max=2)
    nothing = None
    clock = StoreClock(structlog.get_logger())
    asked = clock.asked()
    clock.answered(asked, await link.call(*TIME))
    yield Reads(Config(shards=2), pool, link, stream, nothing, attempts.unmatched, clock)  # type: ignore[arg-type]
    await pool.close()
    await attempts.close()
    await stream.close()
    await link.close()


def known(status: Status) -> set[str]:
    return {name for name in _ALL if getattr(status, name) is not None}


async def test_a_frozen_store_costs_its_own_part_of_the_status(views: Reads, stores: Stores) -> None:
    whole = await views.status()
    assert (known(whole), whole.missing) == (_ALL, {})
    assert whole.receipts is not None
    assert whole.receipts.unmatched == 0
    for store, left, missing in (
        ("clickhouse", _ALL, {"receipts.unmatched": "ClickHouse"}),
        ("postgres", _ALL - {"ledger"}, {"ledger": "PostgreSQL"}),
        ("redis", set(), dict.fromkeys(_ALL, "Redis")),
    ):
        stores.freeze(store)
        try:
            # More often than there are connections to it.
            for _ in range(4):
                status = await views.status()
                assert known(status) == left, store
                assert status.missing.keys() == missing.keys(), store
                assert all(missing[part] in why for part, why in status.missing.items()), status.missing
        finally:
            stores.thaw(store)
