"""The busiest minute of each queue, from the activity: what a plan of capacity begins with.

Reads alone: every call may be repeated. All organisations are taken at the same minute, so that peaks that
come together (an hour of the day, a holiday) are kept together, and those that do not are not added up.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from engine.capacity.traffic import BusyMinute, BusyOrganisation, Traffic
from engine.records import QUEUES, Queue
from engine.stores.clickhouse.adapter import ClickHouseAdapter
from engine.stores.clickhouse.client import answering

# So many organisations are named, the busiest first; the others are one.
ORGANISATIONS_MAX = 5_000
# Response times are those of so long before and after the busiest minute, seconds.
_AROUND_S = 1800
# Messages that were accepted within so many milliseconds came at once.
_AT_ONCE_MS = 10

_BUSIEST = """
SELECT toUnixTimestamp(minute) AS at, sum(events) AS accepted, sum(segments)
FROM report_minutes
WHERE event = 'accepted' AND queue = {queue:String} AND minute >= fromUnixTimestamp({since:UInt32})
GROUP BY minute ORDER BY accepted DESC, minute LIMIT 1
"""
_ORGANISATIONS = """
SELECT organisation_id, sum(events) AS accepted
FROM report_minutes
WHERE event = 'accepted' AND queue = {queue:String} AND minute = fromUnixTimestamp({at:UInt32})
GROUP BY organisation_id ORDER BY accepted DESC, organisation_id LIMIT {most:UInt32}
"""
# By the sort key: the organisation, and the time of acceptance, which is that of the event.
_BURSTS = """
SELECT organisation_id, max(messages) FROM (
    SELECT organisation_id, count() AS messages FROM activity
    WHERE organisation_id IN {ids:Array(Int64)} AND event = 'accepted' AND queue = {queue:String}
        AND accepted_at >= fromUnixTimestamp({at:UInt32}) AND accepted_at < fromUnixTimestamp({at:UInt32} +
        60)
    GROUP BY organisation_id, intDiv(toUnixTimestamp64Milli(at), {together:UInt32})
) GROUP BY organisation_id
"""
_ANSWERS = """
SELECT arrayMap(q -> toFloat64(q), quantilesTDigestIfMerge(0.5, 0.95, 0.99)(answer_us))
FROM report_minutes
WHERE queue = {queue:String} AND provider != ''
    AND minute BETWEEN fromUnixTimestamp({at:UInt32} - {around:UInt32})
        AND fromUnixTimestamp({at:UInt32} + {around:UInt32})
"""


class ClickHouseTraffic(ClickHouseAdapter):
    """Reads the busiest minutes. Every call raises Unavailable, and ConfigError when an operator must act."""

    def __init__(self, url: str, now_us: Callable[[], int], timeout_s: float = 20.0) -> None:
        """`now_us`: UTC, microseconds since 1970. `timeout_s`: the deadline of each query, seconds.

        Raises ConfigError for a malformed URL.
        """
        super().__init__(url, timeout_s)
        self._now_us = now_us

    async def traffic(self, days: int) -> Traffic:
        """Of each queue in which anything was accepted in the last `days`, its busiest minute."""
        since_s = max(0, self._now_us() // 1_000_000 - days * 86_400)
        found = [await self._busiest(queue, since_s) for queue in QUEUES]
        return Traffic(days=days, busiest=[minute for minute in found if minute is not None])

    async def _busiest(self, queue: Queue, since_s: int) -> BusyMinute | None:
        rows = await self._query(_BUSIEST, {"queue": queue, "since": since_s})
        if not rows:
            return None
        at, messages, segments = rows[0]
        which = {"queue": queue, "at": at}
        named = await self._query(_ORGANISATIONS, {**which, "most": ORGANISATIONS_MAX})
        wanted = {**which, "ids": [i for i, _ in named], "together": _AT_ONCE_MS}
        bursts: dict[int, int] = dict(map(tuple, await self._query(_BURSTS, wanted)))
        ((quantiles,),) = await self._query(_ANSWERS, {**which, "around": _AROUND_S})
        # Without an attempt they are no numbers.
        known = [q / 1000 for q in quantiles if q == q and q > 0]
        return BusyMinute(
            queue=queue,
            at_s=at,
            messages=messages,
            segments=segments,
            organisations=[
                BusyOrganisation(organisation_id=i, messages=count, burst=max(1, bursts.get(i, 1)))
                for i, count in named
            ],
            response_ms=dict(zip(("p50", "p95", "p99"), known, strict=True)) if len(known) == 3 else {},
        )

    async def _query(self, sql: str, parameters: dict[str, Any]) -> Sequence[Sequence[Any]]:
        client = await self._connected()
        async with answering(self._url, self._timeout_s):
            found = await client.query(sql, parameters=parameters)
        rows: Sequence[Sequence[Any]] = found.result_rows
        return rows
