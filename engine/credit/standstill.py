"""What the ledger says in Redis while it cannot write the books, so that nobody waits for it in vain.

Somebody has locked the row of an account, or PostgreSQL is away. Customers with quota notice nothing. Those
who need units would wait until their own time is over. So the ledger notes in the shards concerned that
they wait, once they have waited for `LATE_S`, and again as long as they do. Holders that have somebody
waiting look there (`engine.credit.quota`) and answer 503.

    killed, frozen            the notes are over after `NOTED_MS`
    no ledger leads           a ledger that leads says that too (`note_lead`). When none has for `LOST_MS`,
                              holders refuse who needs units, as if all shards waited: none was started, or
                              none of those that were can reach PostgreSQL
    another ledger leads      its own notes of the books end those of this one, also later ones
    Redis does not answer     holders notice that themselves

Under load shards wait for a moment again and again. The log says when that begins, and that it is over once
no shard has waited for `CALM_S`.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Callable, Collection, Iterable

import structlog

from engine.credit.ports import UsageStream
from engine.errors import Broken, Unavailable

log = structlog.get_logger("ledger")

# So long may a shard wait before it is noted, seconds, and so often it is looked at.
LATE_S, _LOOK_S = 0.75, 0.25
# So long after the last note it is over, as the log has it, seconds.
CALM_S = 10.0
# How long a note counts, milliseconds by Redis' clock.
NOTED_MS = 2_000
# A ledger that has not said for so long that it leads does not, milliseconds: by then another one leads, if
# any can, and has said so.
LOST_MS = 6_000


class Standstill:
    """Of one ledger, which calls `moves` whenever nothing is left to write; `run` notes when it does not."""

    def __init__(self, usage: UsageStream, clock_s: Callable[[], float]) -> None:
        """`clock_s`: any steady clock, seconds."""
        self._usage = usage
        self._clock_s = clock_s
        self._term = 0
        self._shards: tuple[int, ...] = ()
        # When the ledger last went on; None: it does not lead, and another may.
        self._moved_s: float | None = None
        # Shards that do not go on while the others do, and since when.
        self._held_up: dict[int, float] = {}
        # When it was last looked whether any waits; set when it is to be looked again; what will set it.
        self._looked_s = -math.inf
        self._due = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        # When shards were first noted and when they were last, since the log said that it is over; None: it
        # is over. And what will say so.
        self._refused_s: tuple[float, float] | None = None
        self._calming: asyncio.TimerHandle | None = None

    def leads(self, term: int, shards: Iterable[int]) -> None:
        """The ledger leads in this term. Only `moves` says that it can write the books."""
        self._term, self._shards = term, tuple(shards)
        if self._moved_s is None:
            self.moves(())

    def moves(self, held_up: Collection[int]) -> None:
        """The ledger goes on with all shards but `held_up`."""
        self._moved_s = now_s = self._clock_s()
        self._held_up = {shard: self._held_up.get(shard, now_s) for shard in held_up}
        self._look_later()

    def ends(self) -> None:
        """The ledger leaves the lead to others."""
        self._moved_s = None
        # What becomes of the shards is for the other to say.
        self._refused_s = None
        if self._calming is not None:
            self._calming.cancel()
            self._calming = None
        self._look_later()

    def waiting(self) -> list[int]:
        """The shards that have waited for `LATE_S`."""
        if self._moved_s is None:
            return []
        before_s = self._clock_s() - LATE_S
        if self._moved_s <= before_s:
            return list(self._shards)
        return [shard for shard, since_s in self._held_up.items() if since_s <= before_s]

    def _look_later(self) -> None:
        """Look when a shard may have waited for `LATE_S`, or a note is due again. As long as the ledger goes
        on that time never comes, so that nothing wakes a process at rest."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._moved_s is not None:
            oldest_s = min([self._moved_s, *self._held_up.values()])
            left_s = max(oldest_s + LATE_S, self._looked_s + _LOOK_S) - self._clock_s()
            self._timer = asyncio.get_running_loop().call_later(max(0.0, left_s), self._due.set)

    async def run(self) -> None:
        """Note the shards that wait, until canceled."""
        try:
            while True:
                await self._due.wait()
                self._due.clear()
                await self._look()
                self._looked_s = self._clock_s()
                self._look_later()
        finally:
            self.ends()

    async def _look(self) -> None:
        shards = self.waiting()
        if shards:
            self._note_refused(shards)
        # It is for information. When it fails, the next look says it again.
        with contextlib.suppress(Unavailable, Broken):
            await self._usage.note_waits(shards, self._term)

    def _note_refused(self, shards: Collection[int]) -> None:
        now_s = self._clock_s()
        if self._refused_s is None:
            log.warning("organisations without quota are refused for now", shards=shards)
            self._refused_s = now_s, now_s
        self._refused_s = self._refused_s[0], now_s
        if self._calming is not None:
            self._calming.cancel()
        self._calming = asyncio.get_running_loop().call_later(CALM_S, self._note_calm)

    def _note_calm(self) -> None:
        self._calming = None
        if self._refused_s is not None:
            first_s, last_s = self._refused_s
            lasted_s = round(last_s - first_s, 1)
            log.info("no organisation is refused for want of quota any more", lasted_s=lasted_s)
            self._refused_s = None
