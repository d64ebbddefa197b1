"""What a report reads row by row it counts as the views do."""

from __future__ import annotations

from engine.lifecycle import EVENTS
from engine.stores.clickhouse.report_later_sql import COUNTED_SQL, COUNTRY_SQL, EVENT_SQL, TIMES_SQL
from engine.stores.clickhouse.report_period_sql import TIMES_SQL as TIMES_OF_VIEW_SQL
from tests.activity.world import World

# Every begin of a number, and what is shorter or no number.
_ROWS = 10_000
_OTHERS = ("", "+", "+4", "+98", "+141", "+1x26", "x")
_INSERT = f"""
INSERT INTO activity (at, organisation_id, message_id, accepted_at, event, queue, to, segments, units,
    provider, provider_message_id, latency_us, due_at, stream_ms)
WITH {list(EVENTS)} AS events, {list(_OTHERS)} AS others
SELECT toDateTime64(1700000000, 6) + toIntervalMicrosecond((number % 50 - 2) * 170000000 * (1 + number % 7)),
    1, toString(number), toDateTime64(1700000000, 6), events[1 + number % length(events)], 'normal',
    if(number < {_ROWS}, concat('+', leftPad(toString(number), 4, '0'), '5550'),
        others[number - {_ROWS} + 1]),
    1, 2, 'a', if(intDiv(number, length(events)) % 2, 'id', ''), number % 3 * 70000,
    if(number % 4 = 1, toDateTime64(1700000000, 6) + toIntervalMicrosecond((number % 11 - 2) * 100000000),
        toDateTime64(0, 6)), number
FROM numbers({_ROWS + len(_OTHERS)})"""


async def test_rows_have_the_country_the_event_and_the_times_that_the_view_says(world: World) -> None:
    await world.query(_INSERT)
    groups = "GROUP BY 1, 2, 3 ORDER BY 1"
    found = await world.query(
        f"SELECT stream_ms, {COUNTRY_SQL} AS c, {EVENT_SQL} AS e, {', '.join(TIMES_SQL)} FROM activity "
        f"WHERE {COUNTED_SQL} {groups}"
    )
    expected = await world.query(
        f"SELECT stream_ms, country, event, {', '.join(TIMES_OF_VIEW_SQL)} FROM report_events {groups}"
    )
    assert len(expected) > _ROWS / 2
    wrong = [pair for pair in zip(found, expected, strict=True) if pair[0] != pair[1]]
    assert not wrong, wrong[:5]
    assert {event for _, _, event, _, _ in found} > {"retrying", "resent", "delivered"}
