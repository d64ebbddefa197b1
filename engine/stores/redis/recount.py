"""Counts the units of all messages of a shard in Redis piece by piece (`recount` in functions/queue).

`engine.stores.redis.recounting` has the method. A step holds Redis up for a few milliseconds at most, and
whoever counts pauses between two of them.

Under failure. A step that is not answered ends the count; what notes the moves is gone in Redis soon after
it. A count that finds entries of the activity trimmed before it has read them, because it was stopped for
too long, or that Redis was started anew, raises `Disturbed`, and may begin again. So does one that meets
another count of the same shard, of another process: they would take each other's notes.
"""

from __future__ import annotations

import asyncio
from typing import Any, Literal, NamedTuple

from engine import redis_keys as keys
from engine.records import QUEUES
from engine.stores.redis.link import Argument, RedisLink
from engine.stores.redis.lua_libraries import versioned
from engine.stores.redis.recounting import PART_MAX, UnitsCount

# The notes are gone so long after the last step, milliseconds.
_NOTED_MS = 20_000
# Entries of activity that one step reads; messages; chunks of lists, each some 60 messages.
_ENTRIES_MAX, _MESSAGES, _CHUNKS = 64, 400, 8
# Requests of the same process and other clients of Redis run meanwhile.
_BREATH_S = 0.002

_What = Literal["begin", "due", "wait", "dead", "ready", "end"]


class Disturbed(Exception):
    """The count cannot go on; another may succeed. The reason as a sentence."""


class Recount(NamedTuple):
    """One instant of a shard."""

    # What Redis says that the messages hold, and the sum of their units.
    held: int
    units: int


async def recount(link: RedisLink, shard: int, messages: int, token: str, timeout_s: float) -> Recount:
    """Count a shard that has about so many messages. `timeout_s` bounds each step.

    `token`: of whoever counts; a later count with the same one takes the place of one that was given up.
    Raises Disturbed, Unavailable, ReplyError.
    """
    count = _Count(link, shard, 1 + messages // PART_MAX, token, timeout_s)
    return await count.whole()


class _Count:
    def __init__(self, link: RedisLink, shard: int, parts: int, token: str, timeout_s: float) -> None:
        self._link = link
        self._timeout_s = timeout_s
        self._parts = parts
        self._units = UnitsCount(parts)
        self._token = token
        # The place in the activity stream up to which its rows were read, and how many it had had by then.
        self._place: Argument = ""
        self._read = 0
        kinds = (keys.queue_key, keys.due_key, keys.dead_key, keys.wait_key)
        self._keys = (
            keys.moved_key(shard), keys.activity_key(shard), keys.held_key(shard),
            *(of(shard, queue) for of in kinds for queue in QUEUES),
        )  # fmt: skip

    async def whole(self) -> Recount:
        """Count all parts; the instant of the last step."""
        await self._step("begin")
        held = await self._one_part()
        for _ in range(1, self._parts):
            self._units.next_part()
            held = await self._one_part()
        await self._link.call("DEL", self._keys[0], timeout_s=self._timeout_s)
        return Recount(held, self._units.units)

    async def _one_part(self) -> int:
        """Read all messages; what they hold by Redis at the instant of the last step."""
        whats: tuple[_What, ...] = ("due", "wait", "dead")
        for what in whats:
            for queue in (1, 2):
                await self._all(what, queue)
        express, normal = await self._all("ready", 1), await self._all("ready", 2)
        while True:
            express, normal, held = await self._step("end", 1, express, normal, _MESSAGES)
            if held:
                return int(held)

    async def _all(self, what: _What, queue: int) -> Argument:
        """Read all pages; where the last one ended."""
        begin: Argument = ""
        member: Argument = ""
        while True:
            count = _CHUNKS if what == "wait" else _MESSAGES
            begin, member, _ = await self._step(what, queue, begin, member, count)
            if not (begin if what == "wait" else member):
                return begin

    async def _step(
        self, what: _What, queue: int = 1, begin: Argument = "", member: Argument = "", count: int = 1
    ) -> tuple[Argument, Argument, bytes]:
        """(where the next page begins, its member, what the messages hold at the last step)."""
        while True:
            found: list[Any] = await self._link.call(
                "FCALL", versioned("recount"), len(self._keys), *self._keys, self._token, _NOTED_MS,
                self._place, self._read, _ENTRIES_MAX, what, queue, begin, member, count,
                timeout_s=self._timeout_s,
            )  # fmt: skip
            if found[0] == b"taken":
                raise Disturbed("another audit counts the messages there.")
            if found[0] == b"lost":
                raise Disturbed("Redis was started anew, or what happened could not be read in time.")
            state, self._place, self._read, batches, moved, page, begin, member, held = found
            self._units.add(moved)
            for batch in batches:
                self._units.follow(batch)
            for part in page if what == "wait" else [page]:
                (self._units.add_records if what == "wait" else self._units.add)(part)
            await asyncio.sleep(_BREATH_S)
            if state == b"counted":
                return begin, member, held
