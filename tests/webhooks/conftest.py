"""A receiver, and the stores of notifiers: one ClickHouse database for all tests, the rest for each."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from engine.stores.migrate import migrate_clickhouse
from tests.activity.world import in_database
from tests.webhooks.receiver import Receiver
from tests.webhooks.world import WebhookWorld, new_webhook_world


@pytest.fixture(scope="session")
async def archive_url(clickhouse_url: str) -> str:
    """A database that is migrated."""
    url = in_database(clickhouse_url, "webhooks")
    await migrate_clickhouse(url)
    return url


@pytest.fixture
async def world(redis_url: str, archive_url: str, books_url: str) -> AsyncIterator[WebhookWorld]:
    async with new_webhook_world(redis_url, archive_url, books_url) as world:
        yield world


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    receiver = Receiver()
    await receiver.start()
    yield receiver
    await receiver.stop()
