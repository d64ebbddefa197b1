"""What the events say of a time in which Redis or PostgreSQL lost data, message by message.

These questions are asked once after a loss. They read the months of messages that can have had an event in
that time: a message is scheduled for some weeks at most, and then lives for its validity. A message that is
sent again after a receipt was charged the first time; the events of what follows have no units.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from engine.credit.laws import EVENTS_BY_CHARGE
from engine.credit.rebuilding import Recorded
from engine.credit.uncharged import LostMessages
from engine.intake.addressing import SEND_AT_MAX_S, VALIDITY_MAX_S

_HOLDS, _CAPTURES, _RELEASES = (repr(tuple(events)) for events in EVENTS_BY_CHARGE)
# How long before an event a message may have been accepted, milliseconds; and a day more.
_LIFE_MS = (SEND_AT_MAX_S + VALIDITY_MAX_S + 86_400) * 1000

_RECENT = """
shard = {shard:UInt16}
  AND accepted_at BETWEEN fromUnixTimestamp64Milli({accepted_ms:Int64}, 'UTC')
                      AND fromUnixTimestamp64Milli({until_ms:Int64}, 'UTC')"""

# By organisation, its messages that were charged or released in the time; each counts once.
_RECORDED = f"""
SELECT organisation_id, sum(captured), sumIf(released, captured = 0), countIf(captured > 0)
FROM (SELECT organisation_id, toInt64(maxIf(units, event IN {_CAPTURES})) AS captured,
             toInt64(maxIf(units, event IN {_RELEASES})) AS released
      FROM activity WHERE {_RECENT} AND stream_ms > {{from_ms:UInt64}} AND stream_ms < {{until_ms:UInt64}}
        AND units > 0 AND (event IN {_CAPTURES} OR event IN {_RELEASES})
      GROUP BY organisation_id, message_id)
GROUP BY organisation_id"""  # noqa: S608 - built from the constants above

# By organisation, the fields of `LostMessages`.
_LOST = f"""
SELECT organisation_id, sum(greatest(captures, 1) - 1), sum((greatest(captures, 1) - 1) * u),
       countIf(once), sumIf(u, once),
       countIf(captures + releases = 0 AND holds > 0)
FROM (SELECT organisation_id, toInt64(max(units)) AS u,
             toInt64(countIf(event IN {_CAPTURES} AND units > 0)) AS captures,
             countIf(event IN {_RELEASES}) AS releases,
             countIf(event IN {_HOLDS} AND stream_ms < {{until_ms:UInt64}}) AS holds,
             captures = 1 AND countIf(event IN {_CAPTURES} AND units > 0
                                      AND stream_ms < {{until_ms:UInt64}}) = 1 AS once
      FROM activity WHERE {_RECENT} AND stream_ms > {{from_ms:UInt64}}
      GROUP BY organisation_id, message_id HAVING min(stream_ms) < {{until_ms:UInt64}})
GROUP BY organisation_id"""  # noqa: S608 - built from the constants above

_ANY = """
SELECT 1 FROM activity
WHERE shard = {shard:UInt16} AND stream_ms BETWEEN {from_ms:UInt64} AND {until_ms:UInt64} LIMIT 1"""

# Of the months before that of the oldest row, the end of the last one that has counts: its rows are gone.
_GONE = """
WITH (SELECT if(count() = 0, toDate('2100-01-01'), toDate(toStartOfMonth(min(accepted_at)))) FROM activity)
     AS oldest
SELECT toUnixTimestamp(toDateTime(addMonths(toStartOfMonth(max(quarter)), 1), 'UTC'))
FROM report_quarters WHERE quarter < toDateTime(oldest, 'UTC') HAVING count() > 0"""


class Asks(Protocol):
    """The part of the activity store that sends a query."""

    async def ask(
        self, query: str, parameters: Mapping[str, int], timeout_s: float
    ) -> Sequence[Sequence[Any]]:
        """The rows of the answer. Raises Unavailable, ConfigError."""


class LostTime:
    """Asks for the events of a time. Every call raises Unavailable and ConfigError."""

    def __init__(self, store: Asks) -> None:
        self._store = store

    async def recorded(
        self, shard: int, from_ms: int, until_ms: int, timeout_s: float
    ) -> dict[int, Recorded]:
        """By organisation, what the events of a shard after `from_ms` and before `until_ms` say.

        `from_ms` 0: all since the beginning.
        """
        rows = await self._ask(_RECORDED, shard, from_ms, until_ms, from_ms - _LIFE_MS, timeout_s)
        return {row[0]: Recorded(*row[1:]) for row in rows}

    async def lost(
        self, shard: int, from_ms: int, until_ms: int, timeout_s: float
    ) -> dict[int, LostMessages]:
        """By organisation, the messages with events of a shard after `from_ms` and before `until_ms`.

        `from_ms` 0: Redis was emptied, so everything may be lost that still lived.
        """
        accepted_ms = (from_ms if from_ms > 0 else until_ms) - _LIFE_MS
        rows = await self._ask(_LOST, shard, from_ms, until_ms, accepted_ms, timeout_s)
        return {row[0]: LostMessages(*row[1:]) for row in rows}

    async def complete_from_ms(self, timeout_s: float) -> int:
        """From which time of the streams on all events are there, milliseconds since 1970; 0: from the
        beginning.

        Months of messages go as a whole (`engine.stores.clickhouse.retention`), the oldest first. Their
        counts stay, which is how it is known.
        """
        # Each division has a row, or none.
        rows = await self._store.ask(_GONE, {}, timeout_s)
        return max((int(end_s) * 1000 + _LIFE_MS for (end_s,) in rows), default=0)

    async def has_any(self, shard: int, from_ms: int, until_ms: int, timeout_s: float) -> bool:
        """Whether any event of a shard between these times is there."""
        return bool(await self._ask(_ANY, shard, from_ms, until_ms, 0, timeout_s))

    async def _ask(
        self, query: str, shard: int, from_ms: int, until_ms: int, accepted_ms: int, timeout_s: float
    ) -> Sequence[Sequence[Any]]:
        parameters = {
            "shard": shard,
            "from_ms": max(0, from_ms),
            "until_ms": max(0, until_ms),
            "accepted_ms": max(0, accepted_ms),
        }
        return await self._store.ask(query, parameters, timeout_s)
