"""The busiest minute of each queue, from the activity: what a plan of capacity begins with.

Reads alone: every call may be repeated. All organisations are taken at the same minute, so that peaks that
come together (an hour of the day, a holiday) are kept together, and those that do not are not added up.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from engine.capacity.traffic import BusyMinute, BusyOrganisation, Traffic
from engine.records import QUEUES, Queue
from engine.stores.clickhouse.adapter import ClickHouseAdapter
from engine.stores.clickhouse.client import answering
from engine.stores.clickhouse.division import Divided, all_of

# So many organisations are named, the busiest first; the others are one.
ORGANISATIONS_MAX = 5_000
# Response times are those of so long before and after the busiest minute, seconds.
_AROUND_S = 1800
# Messages that were accepted within so many milliseconds came at once.
_AT_ONCE_MS = 10

# Of several divisions all minutes are wanted: each knows its own busiest one only.
_MINUTES = """
SELECT toUnixTimestamp(minute) AS at, sum(events) AS accepted, sum(segments)
FROM report_minutes
WHERE event = 'accepted' AND queue = {queue:String} AND minute >= fromUnixTimestamp({since:UInt32})
GROUP BY minute ORDER BY accepted DESC, minute
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
# As states, which can be merged with those of another division.
_ANSWERS = """
SELECT hex(quantilesTDigestIfMergeState(0.5, 0.95, 0.99)(answer_us))
FROM report_minutes
WHERE queue = {queue:String} AND provider != ''
    AND minute BETWEEN fromUnixTimestamp({at:UInt32} - {around:UInt32})
        AND fromUnixTimestamp({at:UInt32} + {around:UInt32})
"""
_QUANTILES = """
SELECT arrayMap(q -> toFloat64(q), quantilesTDigestIfMerge(0.5, 0.95, 0.99)(CAST(
    unhex(arrayJoin({states:Array(String)})),
    'AggregateFunction(quantilesTDigestIf(0.5, 0.95, 0.99), UInt32, UInt8)')))
"""


class _Asked(ClickHouseAdapter):
    """One division."""

    async def query(self, sql: str, parameters: dict[str, Any]) -> Sequence[Sequence[Any]]:
        """The rows of an answer."""
        client = await self._connected()
        async with answering(self._url, self._timeout_s):
            found = await client.query(sql, parameters=parameters)
        rows: Sequence[Sequence[Any]] = found.result_rows
        return rows


class ClickHouseTraffic(Divided[_Asked]):
    """Reads the busiest minutes. Every call raises Unavailable, and ConfigError when an operator must act."""

    def __init__(self, url: str, now_us: Callable[[], int], timeout_s: float = 20.0) -> None:
        """`url` may be several (`engine.stores.clickhouse.division`). `now_us`: UTC, microseconds since 1970.
        `timeout_s`: the deadline of each query, seconds. Raises ConfigError for a malformed URL."""
        super().__init__(url, partial(_Asked, timeout_s=timeout_s))
        self._now_us = now_us

    async def traffic(self, days: int) -> Traffic:
        """Of each queue in which anything was accepted in the last `days`, its busiest minute."""
        since_s = max(0, self._now_us() // 1_000_000 - days * 86_400)
        found = [await self._busiest(queue, since_s) for queue in QUEUES]
        return Traffic(days=days, busiest=[minute for minute in found if minute is not None])

    async def _busiest(self, queue: Queue, since_s: int) -> BusyMinute | None:
        alone = " LIMIT 1" if len(self.divisions) == 1 else ""
        sums: defaultdict[int, list[int]] = defaultdict(lambda: [0, 0])
        for minute, accepted, parts in await self._all(_MINUTES + alone, {"queue": queue, "since": since_s}):
            sums[minute][0] += accepted
            sums[minute][1] += parts
        if not sums:
            return None
        at, (messages, segments) = min(sums.items(), key=lambda of: (-of[1][0], of[0]))
        which = {"queue": queue, "at": at}
        rows = await self._all(_ORGANISATIONS, {**which, "most": ORGANISATIONS_MAX})
        named = sorted(rows, key=lambda row: (-row[1], row[0]))[:ORGANISATIONS_MAX]
        wanted = {**which, "ids": [i for i, _ in named], "together": _AT_ONCE_MS}
        bursts: dict[int, int] = dict(map(tuple, await self._all(_BURSTS, wanted)))
        states = [state for (state,) in await self._all(_ANSWERS, {**which, "around": _AROUND_S})]
        ((quantiles,),) = await self.divisions[0].query(_QUANTILES, {"states": states})
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

    async def _all(self, sql: str, parameters: dict[str, Any]) -> list[Sequence[Any]]:
        """The rows of all divisions."""
        found = await all_of(division.query(sql, parameters) for division in self.divisions)
        return [row for rows in found for row in rows]
