"""Service: who wants no messages of which organisation, as one ingest process knows it.

PostgreSQL has the truth; each ingest process has all numbers in memory, so that nobody waits when a message
is checked. A million of them take about 9 MB in each process (`engine.intake.number_set`). The process looks
twice a second whether the version has changed, and reads what has.

    PostgreSQL away             the opt-outs last known stay in force; nobody can add any meanwhile
    away before any are known   Unavailable: no message is taken in, since its recipient may have opted out
    PostgreSQL goes back        its version is lower, or it was away: everything is read anew, and what was
                                known stays in force until that is done
    frozen                      for half a second after it wakes, the process goes by what it knew before
"""

from __future__ import annotations

import sys
from array import array

import structlog

from engine.clocks.waits import next_tick
from engine.errors import Unavailable
from engine.intake.number_set import NumberSet
from engine.intake.ports import OptOutStore

log = structlog.get_logger("opt-outs")

_LOOK_S = 0.5


class OptOutTable:
    """The opt-outs that stand. Call `refresh` once before serving, then `run` until canceled."""

    def __init__(self, store: OptOutStore, look_s: float = _LOOK_S) -> None:
        self._store = store
        self._look_s = look_s
        self._away = False
        # By organisation; None: they are not known yet.
        self._numbers: dict[int, NumberSet] | None = None
        self._version = 0

    def __len__(self) -> int:
        """How many are known."""
        return sum(map(len, (self._numbers or {}).values()))

    def opted_out(self, organisation_id: int, to: str) -> bool:
        """Whether the number `to`, in E.164, has opted out. Raises Unavailable while nobody knows."""
        if self._numbers is None:
            raise Unavailable("It is not known yet who has opted out.")
        numbers = self._numbers.get(organisation_id)
        return numbers is not None and int(to[1:]) in numbers

    def are_none(self, organisation_id: int) -> bool:
        """Whether it is known that nobody has opted out of the messages of this organisation."""
        return self._numbers is not None and not self._numbers.get(organisation_id)

    async def refresh(self) -> None:
        """Look once what has changed. What cannot be read stays as it was."""
        try:
            # One look is one question: with the changes comes the version that they lead to.
            if self._away or self._numbers is None or not await self._follow():
                await self._read_all()
                await self._follow()
        except Unavailable as e:
            if not self._away:
                log.warning("opt-outs cannot be looked up; the last known stay", reason=str(e))
            self._away = True
        else:
            self._away = False

    async def run(self) -> None:
        """Keep up with changes, until canceled."""
        while True:
            await next_tick(self._look_s)
            await self.refresh()

    async def _read_all(self) -> None:
        """Read everything anew. What changes meanwhile has a higher version, and is read after it."""
        version = await self._store.version()
        found: dict[int, NumberSet] = {}
        after = (0, 0)
        while page := await self._store.page(after):
            for organisation_id, packed in page:
                numbers = array("Q", packed)
                if sys.byteorder == "little":
                    numbers.byteswap()
                found.setdefault(organisation_id, NumberSet()).append(numbers)
                after = (organisation_id, numbers[-1])
        self._numbers, self._version = found, version
        log.info("opt-outs known", count=len(self), version=version)

    async def _follow(self) -> bool:
        """Note what has changed; False when PostgreSQL went back, so that the list must be read anew."""
        more = True
        while more:
            changes = await self._store.changes(self._version)
            if changes.version < self._version:
                return False
            assert self._numbers is not None
            for organisation_id, number, opted_out in changes.rows:
                numbers = self._numbers.setdefault(organisation_id, NumberSet())
                if opted_out:
                    numbers.add(number)
                else:
                    numbers.discard(number)
            self._version, more = changes.version, changes.more
        return True
