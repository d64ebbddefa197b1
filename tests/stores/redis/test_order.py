"""Each organisation's messages are sent in order, whatever is put off, recalled, paused or canceled."""

from __future__ import annotations

from random import Random

import pytest

from engine.stores.redis.link import RedisLink
from tests.simulation.order_load import OrderLoad
from tests.stores.redis.test_fairness import link as link


@pytest.mark.parametrize("seed", range(8))
async def test_all_is_sent_in_order_once_or_canceled(link: RedisLink, seed: int) -> None:
    load = OrderLoad(link.batch, Random(seed))
    await load.run(200)
    assert load.broken == []
    assert load.canceled
    assert load.alone or load.counts["put off"] > 10
    assert load.counts["limit"] > 3
