"""One consistent cut of the books, the streams and the activity, for `invariants.audit`.

The books are read first (one PostgreSQL snapshot with the applied positions), then each
shard at one instant behind its position, then ClickHouse up to the first activity entry
that was still on the stream at that instant. The ledger keeps applied usage on the stream
for some seconds; when an entry behind a position is gone all the same, the cut is taken anew.
"""

from __future__ import annotations

from typing import Any

import asyncpg
import msgspec

from engine import shards as keys
from engine.activity.ports import ActivityStore
from engine.credit.laws import Account, Cut, ShardCut
from engine.credit.ledger_records import StreamMark
from engine.errors import Broken, Unavailable
from engine.stores.postgres.errors import translated
from engine.stores.redis.link import RedisLink
from engine.stores.redis.usage import usage_entry
from engine.stores.redis.wire import ReplyError
from engine.stream_id import StreamId

_ACCOUNTS = """
SELECT a.organisation_id, a.shard, a.topped_up, a.available, a.granted, a.held, a.captured,
       coalesce(q.units, 0) AS quotas, coalesce(j.sums, '{}') AS journal
FROM accounts a
LEFT JOIN (SELECT organisation_id, sum(units)::bigint AS units FROM quotas GROUP BY 1) q
       USING (organisation_id)
LEFT JOIN (SELECT organisation_id, json_object_agg(movement, units)::text AS sums
           FROM (SELECT organisation_id, movement, sum(units)::bigint AS units FROM journal GROUP BY 1, 2) m
           GROUP BY 1) j
       USING (organisation_id)
ORDER BY a.organisation_id"""

# More messages or activity entries than this in one shard are not counted at one instant:
# Redis would serve nobody else meanwhile.
_ROWS_MAX = 20_000
_TRIES = 5
_TIMEOUT_S = 120.0

_sums = msgspec.msgpack.Decoder(list[tuple[int, str, int]])


class AuditReader:
    """Takes cuts. Construct with the process's own clients."""

    def __init__(self, pool: asyncpg.Pool, link: RedisLink, activity: ActivityStore, shards: int) -> None:
        self._pool = pool
        self._link = link
        self._activity = activity
        self._shards = range(shards)

    async def take(self) -> Cut:
        """A consistent cut. Raises Unavailable when a store is away or none could be taken."""
        for _ in range(_TRIES):
            accounts, marks, lost = await self._books()
            replies = [await self._shard(s, marks.get(s, StreamMark())) for s in self._shards]
            if not any(reply[0] for reply in replies):
                return await self._cut(accounts, lost, replies)
        raise Unavailable("The books and Redis have moved on faster than they could be read.", 5.0)

    async def _books(self) -> tuple[list[Account], dict[int, StreamMark], set[int]]:
        with translated():
            async with (
                self._pool.acquire() as connection,
                connection.transaction(isolation="repeatable_read", readonly=True),
            ):
                shards = await connection.fetch(
                    "SELECT shard, position, link, losses FROM shards", timeout=_TIMEOUT_S
                )
                rows = await connection.fetch(_ACCOUNTS, timeout=_TIMEOUT_S)
        accounts = [_account(row) for row in rows]
        lost = {row["shard"] for row in shards if row["losses"]}
        return accounts, {row["shard"]: StreamMark(row["position"], row["link"]) for row in shards}, lost

    async def _shard(self, shard: int, mark: StreamMark) -> list[Any]:
        try:
            reply: list[Any] = await self._link.call(
                "FCALL", "cut", 9,
                keys.queue_key(shard, "express"), keys.queue_key(shard, "normal"),
                keys.due_key(shard, "express"), keys.due_key(shard, "normal"),
                keys.dead_key(shard, "express"), keys.dead_key(shard, "normal"),
                keys.activity_key(shard), keys.usage_key(shard), keys.held_key(shard),
                mark.position, mark.link, _ROWS_MAX,
                timeout_s=_TIMEOUT_S,
            )  # fmt: skip
        except ReplyError as e:
            raise Broken(f"Redis refused the audit: {e}") from e
        return reply

    async def _cut(self, accounts: list[Account], lost: set[int], replies: list[list[Any]]) -> Cut:
        cuts: list[ShardCut] = []
        firsts: dict[int, StreamId] = {}
        activity: dict[int, dict[str, int]] | None = {}
        missing = ""
        for shard, (_, held, usage, waiting, recount, first, sums) in enumerate(replies):
            entries = [usage_entry(shard, entry_id, fields) for entry_id, fields in usage]
            cuts.append(ShardCut(shard, int(held), entries, waiting, None if recount < 0 else recount))
            if not sums and first:
                activity, missing = None, "the archiver is too far behind to count what waits."
            if activity is not None and first:
                firsts[shard] = _stream_id(first)
                for organisation_id, event, units in _sums.decode(sums):
                    _add(activity, organisation_id, event, units)
        if activity is not None:
            try:
                for organisation_id, events in (await self._activity.sums_before(firsts)).items():
                    for event, units in events.items():
                        _add(activity, organisation_id, event, units)
            except Unavailable as e:
                activity, missing = None, e.detail
        return Cut(accounts=accounts, shards=cuts, activity=activity, activity_missing=missing, lost=lost)


def _account(row: asyncpg.Record) -> Account:
    fields = dict(row)
    return Account(**{**fields, "journal": msgspec.json.decode(fields["journal"])})


def _add(activity: dict[int, dict[str, int]], organisation_id: int, event: str, units: int) -> None:
    events = activity.setdefault(organisation_id, {})
    events[event] = events.get(event, 0) + units


def _stream_id(text: bytes) -> StreamId:
    """The first id still on the stream; `ID+` means: the next one after ID."""
    last = StreamId.parse(text.removesuffix(b"+"))
    return last.next if text.endswith(b"+") else last
