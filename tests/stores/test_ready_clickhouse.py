"""A node that was started before starts while ClickHouse is away, when it would have nothing to do there."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import msgspec
import pytest

from engine.config import Config
from engine.config.activity import ActivitySettings
from engine.config.stores import ClickHouse, Redis, Store
from engine.errors import Unavailable
from engine.stores import migrate
from engine.stores import ready_clickhouse as ready
from supervisor import prepare
from tests.adversity.proxy import Proxy
from tests.clickhouse_databases import lent_database


@pytest.fixture
async def proxy(clickhouse_url: str) -> AsyncIterator[Proxy]:
    async with Proxy.to(clickhouse_url) as proxy:
        yield proxy


@pytest.fixture
async def config(
    proxy: Proxy, books_url: str, streams_url: str, clickhouse_url: str
) -> AsyncIterator[Config]:
    """Of a node that reaches ClickHouse by the proxy."""
    async with lent_database(clickhouse_url) as url:
        yield Config(
            node="one",
            postgres=Store(url=books_url),
            redis=Redis(url=streams_url),
            clickhouse=ClickHouse(url=proxy.url(url)),
        )


def changed(config: Config, **settings: Any) -> Config:
    return msgspec.structs.replace(config, **settings)


@pytest.mark.parametrize("away", ["refuses", "hangs"])
async def test_a_node_for_which_it_was_ready_starts_without_it(
    config: Config, proxy: Proxy, away: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await prepare._migrate(config, clickhouse_may_be_away=True)
    monkeypatch.setattr(ready, "_TIMEOUT_S", 1.0)
    if away == "refuses":
        proxy.refuse()
    else:
        proxy.stall()
    await prepare._migrate(config, clickhouse_may_be_away=True)
    # `smsengine migrate` says that nothing was migrated.
    monkeypatch.setattr(migrate, "migrate_clickhouse", ready._reach)
    with pytest.raises(Unavailable, match=r"ClickHouse at .* (cannot be reached|gives no answer)"):
        await prepare._migrate(config)


async def test_where_clickhouse_might_have_something_to_do_a_start_waits_for_it(
    config: Config, proxy: Proxy
) -> None:
    await ready.ready_clickhouse(config, may_be_away=True)
    proxy.refuse()
    url = config.clickhouse.url
    for other in (
        changed(config, node="two"),
        changed(config, activity=ActivitySettings(events_days=90)),
        changed(config, clickhouse=ClickHouse(url=f"{url}_other")),
        changed(config, clickhouse=ClickHouse(url=f"{url} {url}_other")),
        changed(config, clickhouse=ClickHouse(url=f"{url}?cluster=sms")),
    ):
        with pytest.raises(Unavailable):
            await ready.ready_clickhouse(other, may_be_away=True)


async def test_a_new_password_changes_nothing_that_clickhouse_would_be_asked_to_do(config: Config) -> None:
    url, kept = config.clickhouse.url, ready._kept(config)
    assert ready.digest_of(url.replace("sms:", "sms:new", 1), kept) == ready.digest_of(url, kept)


async def test_what_was_ready_before_does_not_count_once_a_change_was_begun(
    config: Config, proxy: Proxy
) -> None:
    await ready.ready_clickhouse(config, may_be_away=True)
    proxy.refuse()
    other = changed(config, activity=ActivitySettings(events_days=90))
    # It might have been killed at any instruction behind the first.
    with pytest.raises(Unavailable):
        await ready.ready_clickhouse(other, may_be_away=True)
    with pytest.raises(Unavailable):
        await ready.ready_clickhouse(config, may_be_away=True)
    proxy.admit()
    await ready.ready_clickhouse(config, may_be_away=True)
    proxy.refuse()
    await ready.ready_clickhouse(config, may_be_away=True)
    connection = await asyncpg.connect(config.postgres.url)
    assert await connection.fetchval("SELECT count(*) FROM clickhouse_prepared") == 1
    await connection.close()
