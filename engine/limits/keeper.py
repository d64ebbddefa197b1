"""Service: puts the limits that stand in PostgreSQL in force in Redis, and knows who is paused there.

Every worker does this. What Redis has is in force: it decides whose messages go to the ready streams, and
workers go by what it says of pauses, not by PostgreSQL.

A look reads the version that Redis goes by, then that of PostgreSQL. Where they differ, it puts the limits of
PostgreSQL in place of that very version (compare and set). PostgreSQL was read later. So when its version is
lower, PostgreSQL went back, and its limits count all the same.

    killed, or an answer lost   the next look of any worker does it
    frozen in between           another version stands by then, and nothing is done
    Redis loses its data        it has no version; everything is put there again by the next look
    PostgreSQL away             what is in force stays. A Redis without any limits is given the last known
    an older version runs       it does not know of pauses, so nobody is paused until it has gone; see
    beside this one             `engine.formats`
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import msgspec
import structlog

from engine.clocks.waits import next_tick
from engine.errors import Unavailable
from engine.limits.ports import LimitsInForce
from engine.limits.records import InForce, LimitRow, ShardLimits
from engine.limits.table import LOOK_S, LimitTable
from engine.stream_id import StreamId

log = structlog.get_logger("limits")


class LimitKeeper:
    """Keeps the limits of all shards in force."""

    def __init__(
        self,
        table: LimitTable,
        in_force: LimitsInForce,
        shard_of: Callable[[int], int],
        on_pause: Callable[[dict[int, StreamId]], None],
        *,
        readable: Callable[[str], bool] = lambda kind: True,
        look_s: float = LOOK_S,
    ) -> None:
        """`on_pause` is called with the organisations that are paused, as in `InForce`, when others are than
        before.

        `readable`: whether every living process knows of a kind, by its name.
        """
        self._table = table
        self._in_force = in_force
        self._shard_of = shard_of
        self._on_pause = on_pause
        self._readable = readable
        self._look_s = look_s
        self._paused: dict[int, StreamId] = {}

    async def look(self) -> None:
        """Put what stands in force, where it is not. Raises Unavailable while Redis is away."""
        seen = await self._in_force.in_force()
        self._heed(seen)
        confirmed = await self._table.refresh()
        pauses = self._readable("pause")
        version = _name(self._table.version, pauses)
        changed = by_shard(self._table.changed, self._shard_of)
        every: dict[int, list[LimitRow]] | None = None
        limits = []
        for shard, (known, _) in enumerate(seen):
            if known == version or (known and not confirmed) or (not known and not self._table.rows):
                continue
            whole = not self._table.base or known != _name(self._table.base, pauses)
            if whole and every is None:
                every = by_shard(self._table.rows.values(), self._shard_of)
            rows = (every or {} if whole else changed).get(shard, [])
            if not pauses:
                rows = [msgspec.structs.replace(row, paused=False) for row in rows]
            limits.append(ShardLimits(shard, known, version, whole, rows))
        if limits:
            await self._in_force.put(limits)
            self._heed(await self._in_force.in_force())

    async def run(self) -> None:
        """Look until canceled."""
        away = False
        while True:
            try:
                await self.look()
                away = False
            except Unavailable as e:
                if not away:
                    log.warning("limits cannot be put in force", reason=e.detail)
                away = True
            await next_tick(self._look_s)

    def _heed(self, seen: Iterable[InForce]) -> None:
        paused = {o: at for shard in seen for o, at in shard.paused.items()}
        if paused != self._paused:
            self._paused = paused
            log.info("organisations are paused", count=len(paused))
            self._on_pause(paused)


def by_shard(rows: Iterable[LimitRow], shard_of: Callable[[int], int]) -> dict[int, list[LimitRow]]:
    """The rows of each shard that has any."""
    found: dict[int, list[LimitRow]] = {}
    for row in rows:
        found.setdefault(shard_of(row.organisation_id), []).append(row)
    return found


def _name(version: int, pauses: bool) -> str:
    """How Redis is told a version: with those that are paused, or as if nobody was."""
    return f"{version}" if pauses else f"{version} without pauses"
