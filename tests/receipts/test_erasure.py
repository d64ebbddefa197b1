"""An erased number does not come back with receipts that wait for their message."""

from __future__ import annotations

from contextlib import AsyncExitStack

import msgspec
import pytest

from engine.activity.numbers import are_digits_of
from engine.boot.reports import report_services
from engine.config import Config
from engine.config.stores import ClickHouse
from tests.activity.world import SHARDS, until
from tests.receipts.world import QUICK_MATCH, new_receipt_world, now_us, receipt

NUMBER, DIGITS = "+989120000001", "989120000001"
OTHER = "989120000002"
# As providers write it.
FORMS = (DIGITS, f"00{DIGITS}", DIGITS[2:], f"0{DIGITS[2:]}")


@pytest.mark.parametrize(
    ("digits", "are"), [*((form, True) for form in FORMS), (OTHER, False), ("01", False)]
)
def test_digits_are_a_number_with_and_without_its_country(digits: str, are: bool) -> None:
    assert are_digits_of(digits, NUMBER) is are


async def test_an_erased_number_is_neither_in_redis_nor_given_up_later(
    redis_url: str, clickhouse_url: str
) -> None:
    async with new_receipt_world(redis_url, clickhouse_url) as world, AsyncExitStack() as stack:
        # The message of none of them was ever sent.
        waiting = [receipt(number, to=to) for number, to in enumerate((*FORMS, OTHER))]
        given_up = [receipt(10 + number, to=to) for number, to in enumerate((*FORMS, OTHER))]
        await world.told(*waiting)
        await world.store.give_up([(one, "unknown") for one in given_up], now_us())
        # They are set aside, and not looked up again in this test.
        patient = msgspec.structs.replace(QUICK_MATCH, again_s=60.0, again_max_s=60.0)
        async with world.matching(limits=patient):

            async def set_aside() -> bool:
                return await world.waiting() == (0, len(waiting))

            await until(set_aside)

        config = Config(shards=SHARDS, clickhouse=ClickHouse(url=world.activity.clickhouse_url))
        reports = report_services(config, stack, world.link)
        await reports.erase(NUMBER)

        async def erased() -> bool:
            return await reports.erasures_under_way() == 0

        await until(erased)
        assert await world.waiting() == (0, 1)
        # What still waits is due at once, and too old.
        for shard_key in await world.activity.redis.keys("receipts:*:later"):
            [(member, _)] = await world.activity.redis.zrange(shard_key, 0, -1, withscores=True)
            await world.activity.redis.zadd(shard_key, {member: 0})
        async with world.matching(limits=msgspec.structs.replace(QUICK_MATCH, give_up_s=0.0)):
            await until(world.nothing_waits)
        left = await world.activity.query("SELECT to, count() FROM receipts_unmatched FINAL GROUP BY to")
        assert left == [(OTHER, 2)]
