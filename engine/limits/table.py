"""Service: the limits of organisations that stand, as one process knows them.

A process looks twice a second whether the version of the limits in PostgreSQL has changed, and reads what
has. Nobody who asks for limits waits.

    PostgreSQL away             the limits last known stay; nobody can change them meanwhile
    away before any are known   an organisation has the limits of all
    PostgreSQL goes back        its version is lower, or it was away: everything is read anew
    frozen                      for half a second after it wakes, the process goes by the limits from before
"""

from __future__ import annotations

import asyncio

import structlog

from engine.clocks.waits import next_tick
from engine.errors import Unavailable
from engine.limits.ports import LimitStore
from engine.limits.records import WEIGHT_DEFAULT, LimitRow
from engine.organisations import Limits

log = structlog.get_logger("limits")

LOOK_S = 0.5
# PostgreSQL counts as away after so long without an answer, seconds.
_ANSWER_S = 2.0
_NONE = Limits()


class LimitTable:
    """The limits that stand. Call `refresh` once before serving, then `run` until canceled."""

    def __init__(self, store: LimitStore, look_s: float = LOOK_S) -> None:
        self._store = store
        self._look_s = look_s
        self._away = False
        # Those that have limits, by organisation.
        self.rows: dict[int, LimitRow] = {}
        # Goes up with each change; 0: none are known, or nothing was ever set.
        self.version = 0
        # Of the last look: the version before it, 0 when everything was read, and the rows that it brought.
        self.base = 0
        self.changed: list[LimitRow] = []

    def limits_of(self, organisation_id: int) -> Limits:
        """The limits of an organisation."""
        row = self.rows.get(organisation_id)
        return _NONE if row is None else row.limits

    def weight_of(self, organisation_id: int) -> float:
        """The weight of an organisation."""
        row = self.rows.get(organisation_id)
        return WEIGHT_DEFAULT if row is None else row.weight

    async def refresh(self) -> bool:
        """Look once whether limits have changed; returns whether PostgreSQL has answered. Else they stay."""
        since = 0 if self._away else self.version
        try:
            async with asyncio.timeout(_ANSWER_S):
                changes = await self._store.changes(since)
                if changes.version < since:
                    since = 0
                    changes = await self._store.changes(since)
        except (Unavailable, TimeoutError) as e:
            if not self._away:
                log.warning("limits cannot be looked up; the last known stay", reason=str(e) or "no answer")
            self._away = True
            return False
        if not since:
            self.rows.clear()
        for row in changes.rows:
            if row.limits == _NONE and not row.paused:
                self.rows.pop(row.organisation_id, None)
            else:
                self.rows[row.organisation_id] = row
        if changes.version != self.version:
            log.info("limits known", version=changes.version, changed=len(changes.rows))
        self.base, self.version, self.changed = since, changes.version, changes.rows
        self._away = False
        return True

    async def run(self) -> None:
        """Keep up with changes, until canceled."""
        while True:
            await next_tick(self._look_s)
            await self.refresh()
