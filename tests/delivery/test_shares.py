"""Organisations share a queue by their weights in any ten seconds: a real Redis, workers on virtual time."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.delivery.shares import SharedQueue

_DATABASE = 10
_SECONDS = 13.0


@pytest.fixture
def queue(redis_url: str) -> Iterator[SharedQueue]:
    queue = SharedQueue(redis_url, _DATABASE)
    yield queue
    queue.close()


@pytest.mark.parametrize(
    ("rate", "busy_s", "workers"),
    [(5800.0, 0.0, 1), (None, 0.00017, 1), (5800.0, 0.0, 2)],
    ids=["provider", "busy", "two workers"],
)
def test_each_of_many_shards_is_sent_by_its_weight(
    queue: SharedQueue, rate: float | None, busy_s: float, workers: int
) -> None:
    queue.fill(105_000)
    sends = queue.sent(_SECONDS, rate=rate, busy_s=busy_s, workers=workers)
    assert len(sends) > 5200 * _SECONDS
    for of in queue.deviations(sends):
        assert of.by_shard <= 0.02 * of.share, of
