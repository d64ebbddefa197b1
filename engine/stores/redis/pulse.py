"""What a process does with each heartbeat, in the same round trip: it looks at the clock and at the others.

It measures Redis' clock (`engine.clocks.store_clock`), notes which formats it reads, and reads what the
others have noted (`engine.formats`). All of it is for information, so an answer that does not come, and a
Redis that refuses a note, change nothing: the last ones go on counting. Refused notes count as 0, the oldest.
A full Redis takes the note: without it every process would soon count as one of an older version, and
messages could not be canceled just when that makes room.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from structlog.typing import FilteringBoundLogger

from engine.clocks.store_clock import TIME, StoreClock
from engine.formats import FORMATS, SINCE, gone, least, note
from engine.redis_keys import FORMATS_READ, holders_key
from engine.stores.redis.link import Command, RedisLink
from engine.stores.redis.own_notes import noted
from engine.stores.redis.wire import ReplyError


class Pulse:
    """Of one process. Its first round trip measures the clock alone."""

    def __init__(self, clock: StoreClock, name: str, log: FilteringBoundLogger) -> None:
        """`name` is the process's, never used again."""
        self.clock = clock
        self._name = name
        self._log = log
        # The number of the formats that every living process reads, as far as is known.
        self.formats = 0
        self._looked = False
        # The notes that are too old to count, by the name of their process.
        self._gone: dict[str, str] = {}

    def readable(self, kind: str) -> bool:
        """Whether every living process can read what is of this kind."""
        return SINCE.get(kind, 0) <= self.formats

    async def batch(self, link: RedisLink, commands: Sequence[Command]) -> list[Any]:
        """As `link.batch`, with what the pulse does in the same round trip. Raises Unavailable."""
        beside: list[Command] = [TIME]
        if self.clock.measured:
            now_us = self.clock.now_us()
            beside += [("HGETALL", FORMATS_READ), ("HKEYS", holders_key(0))]
            beside.append(noted(FORMATS_READ, self._name, note(now_us), self._gone))
        asked = self.clock.asked()
        replies = await link.batch([*beside, *commands])
        self._take(asked, replies[: len(beside)])
        return replies[len(beside) :]

    def _take(self, asked: int, replies: list[Any]) -> None:
        if not isinstance(replies[0], ReplyError):
            self.clock.answered(asked, replies[0])
        if len(replies) == 1:
            return
        if isinstance(replies[1], ReplyError) or isinstance(replies[2], ReplyError):
            self._note_least(0)
            return
        flat = [part.decode() for part in replies[1]]
        notes, now_us = dict(zip(flat[::2], flat[1::2], strict=True)), self.clock.now_us()
        self._gone = {name: notes[name] for name in gone(notes, now_us)}
        living = [name for name in map(bytes.decode, replies[2]) if name != self._name]
        self._note_least(least(notes, living, now_us))

    def _note_least(self, formats: int) -> None:
        """Say once when processes of an older version are there, and once when they are gone."""
        before, self.formats = self.formats, formats
        if (formats < FORMATS) != (before < FORMATS and self._looked):
            if formats < FORMATS:
                self._log.warning("processes of an older version run beside this one", formats=formats)
            elif self._looked:
                self._log.info("all processes read the formats of this version", formats=formats)
        self._looked = True


def readable(pulse: Pulse | None, kind: str) -> bool:
    """Whether every living process can read what is of this kind; without a pulse there is no other."""
    return pulse is None or pulse.readable(kind)


async def pulsed(link: RedisLink, pulse: Pulse | None, commands: Sequence[Command]) -> list[Any]:
    """`commands` in one round trip, with `pulse` when there is one. Raises Unavailable."""
    return await (link.batch(commands) if pulse is None else pulse.batch(link, commands))
