"""Organisations share a queue by their weights in any ten seconds: a real Redis, workers on virtual time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.delivery.shares import SharedQueue

_DATABASE = 10
_SECONDS, _SETTLE_S = 12.0, 0.5


@pytest.fixture
def queue(redis_url: str) -> Iterator[SharedQueue]:
    queue = SharedQueue(redis_url, _DATABASE)
    yield queue
    queue.close()


@pytest.mark.parametrize(
    ("rate", "trip_s", "how"),
    [
        # A provider that takes so many; a worker whose process has no time for more, and one that the machine
        # holds up besides; and one whose Redis is slow, so that much lies ready. Each of two workers reads in
        # its first second most where it knows of a backlog first.
        (5800, 0.002, {"rate": 5800.0}),
        (5400, 0.002, {"busy_s": 0.00017}),
        (4300, 0.01, {"busy_s": 0.00017, "stalls": 0.0003}),
        (5000, 0.03, {"busy_s": 0.00017}),
        (5800, 0.03, {"rate": 5800.0, "workers": 2, "settle_s": 2.0}),
        (14800, 0.01, {"rate": 14800.0}),
    ],
    ids=["provider", "busy", "held up", "slow Redis", "two workers", "14,800 a second"],
)
def test_a_thousand_organisations_in_sixteen_shards_share_by_weight_in_any_ten_seconds(
    queue: SharedQueue, rate: int, trip_s: float, how: dict[str, Any]
) -> None:
    queue.trip_s = trip_s
    queue.fill(int(1.2 * rate * (_SECONDS + _SETTLE_S)) + 10_000)
    sends = queue.sent(_SECONDS, **{"settle_s": _SETTLE_S, **how})
    assert len(sends) >= 0.95 * rate * _SECONDS
    for of in queue.deviations(sends, step_s=0.25):
        assert of.tenth_or_one == 1.0, of
        # A shard as a whole is a small part of that.
        assert of.by_shard <= 0.09 * of.share, of
