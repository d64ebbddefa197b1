"""Rebuilds usage that PostgreSQL lost from the recorded activity; `smsengine books repair --from-activity`.

PostgreSQL went back further than the usage that Redis still had. Its losses stand in the table `losses`. An
audit at this moment says by how much the books of each organisation are behind the events; ClickHouse says
what was recorded in the lost time; `engine.credit.rebuilding` says what of it is booked.

Under failure: see `engine.stores.postgres.rebuilt_usage`. It may be called at any time, and any number of
times. A shard is done, and not looked at again, when everything of it was booked.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from engine.credit.laws import Audit
from engine.credit.rebuilding import (
    OpenLoss,
    Recorded,
    is_otherwise_wrong,
    lost_by_redis,
    span_of,
    split,
    units_to_book,
)
from engine.errors import ConfigError, Unavailable
from engine.organisations import LossSum, Rebuilding, RebuiltUsage
from engine.stores.audit import AuditReader
from engine.stores.audit_findings import ShardLacks
from engine.stores.clickhouse.lost_time import Asks, LostTime
from engine.stores.postgres.rebuilt_usage import LostUsage, ToBook, rebuilt_of

# An event and its usage are written in one step, and may be so far apart in their streams, milliseconds.
_NEAR_MS = 1_000
_LOSSES_MAX = 200
# So many organisations are named in a sentence.
_NAMED_MAX = 5


class Rebuild:
    """Lists what was lost, and rebuilds it. Every call raises Unavailable."""

    def __init__(self, auditor: AuditReader, activity: Asks, books: LostUsage) -> None:
        self._auditor = auditor
        self._lost_time = LostTime(activity)
        self._books = books

    async def losses(self) -> list[LossSum]:
        """The last losses, the newest first."""
        return await self._books.losses(_LOSSES_MAX)

    async def rebuild(self, *, dry_run: bool, timeout_s: float) -> Rebuilding:
        """Book what was lost and is recorded; of a `dry_run`, say what would be booked.

        Shards that cannot be rebuilt, or not now, are named with the reason, and hold up no others.
        """
        ends_s = asyncio.get_running_loop().time() + timeout_s
        by_shard: dict[int, list[OpenLoss]] = {}
        for loss in await self._books.to_rebuild():
            by_shard.setdefault(loss.shard, []).append(loss)
        rebuilt: list[RebuiltUsage] = []
        why_not: list[str] = []
        if by_shard:
            audit, lacks = await self._auditor.lacking(timeout_s)
            # Another call may have rebuilt some, while this one waited for its turn.
            still = {loss.shard for loss in await self._books.to_rebuild()}
            for shard, losses in by_shard.items():
                left_s = max(0.01, ends_s - asyncio.get_running_loop().time())
                if shard not in still:
                    continue
                if shard not in lacks:
                    why_not.append(f"{_name(losses)} cannot be rebuilt now: {_why(audit)}")
                    continue
                try:
                    rebuilt += await self._shard(lacks[shard], dry_run, left_s)
                except _NotRebuilt as e:
                    why_not.append(f"{_name(losses)} {e}")
                except (Unavailable, ConfigError) as e:
                    why_not.append(f"{_name(losses)} cannot be rebuilt now: {str(e).rstrip('.')}.")
        return Rebuilding(dry_run=dry_run, rebuilt=rebuilt, not_rebuilt=list(dict.fromkeys(why_not)))

    async def _shard(self, lacks: ShardLacks, dry_run: bool, timeout_s: float) -> list[RebuiltUsage]:
        """Rebuild one shard. Raises _NotRebuilt, Unavailable, ConfigError."""
        usage, redis_too = await self._to_book(lacks, timeout_s)
        loss = lacks.losses[-1]
        if dry_run:
            available = {of.organisation_id: of.available for of in lacks.lacking}
            return [rebuilt_of(loss.shard, u, split(u.units, available[u.organisation_id])[1]) for u in usage]
        booked = await self._books.book(loss, usage)
        await self._books.settle(lacks.losses, redis_too=redis_too)
        return booked

    async def _to_book(self, lacks: ShardLacks, timeout_s: float) -> tuple[list[ToBook], bool]:
        """(What is to be booked, whether Redis has lost data too as far as the events show)."""
        shard = lacks.losses[0].shard
        since_ms = min(loss.from_ms for loss in lacks.losses)
        until_ms = max(loss.until_ms for loss in lacks.losses)
        if lacks.archived_ms is not None and lacks.archived_ms <= until_ms + _NEAR_MS:
            raise _NotRebuilt(
                "cannot be rebuilt now: its events wait for the archiver (`smsengine status`)."
                " Run this again when they are in ClickHouse."
            )
        had_usage = any(loss.had_usage for loss in lacks.losses)
        known = await self._lost_time.has_any(shard, 0, since_ms + _NEAR_MS, timeout_s)
        recorded = await self._lost_time.recorded(shard, since_ms, until_ms, timeout_s)
        if (had_usage and not known) or (lacks.lacking and not recorded):
            raise _NotRebuilt(
                "cannot be rebuilt: ClickHouse does not have its recorded activity any more, so nobody knows"
                " what was charged then. Charge it by your own means, if you know it from elsewhere."
            )
        exactly = lacks.comparable and all(loss.who == "postgres" for loss in lacks.losses)
        none = Recorded()
        if exactly and any(
            of.units.captured > recorded.get(of.organisation_id, none).captured for of in lacks.lacking
        ):
            recorded = await self._lost_time.recorded(
                shard, since_ms - _NEAR_MS, until_ms + _NEAR_MS, timeout_s
            )
        wrong = [of.organisation_id for of in lacks.lacking if exactly and is_otherwise_wrong(of.units)]
        if wrong:
            named = ", ".join(map(str, wrong[:_NAMED_MAX]))
            raise _NotRebuilt(
                f"cannot be rebuilt: books and events of organisation {named}"
                " differ in another way too (`smsengine audit`). Look at its rows of the table `activity`."
            )
        redis_too = exactly and any(
            lost_by_redis(of.units, recorded.get(of.organisation_id, none)) for of in lacks.lacking
        )
        found = []
        for of in lacks.lacking:
            seen = recorded.get(of.organisation_id, none)
            units = units_to_book(of.units, seen, exactly=exactly and not redis_too)
            if any(units):
                share = units.captured / seen.captured if seen.captured else 0
                found.append(ToBook(of.organisation_id, units, round(seen.messages * share)))
        return found, redis_too


class _NotRebuilt(Exception):
    """Why the usage of a shard is not rebuilt: the end of a sentence that begins with `_name`."""


def _name(losses: Sequence[OpenLoss]) -> str:
    since_ms, until_ms = min(of.from_ms for of in losses), max(of.until_ms for of in losses)
    return f"Usage of shard {losses[0].shard} {span_of(since_ms, until_ms)}"


def _why(audit: Audit) -> str:
    """Why an audit could not tell what the books lack."""
    details = [c.detail for c in audit.checks if c.name in ("held", "activity")]
    whys = [detail.partition("Not checked")[2].partition(": ")[2] for detail in details]
    return " ".join(filter(None, dict.fromkeys(whys))) or "the audit could not look at it."
