"""Sessions of the console in Redis: a string for each, which expires, and a list of those of each key.

killed after the list was pushed      the list names a session that is not there, which harms nobody
Redis has no memory left              nobody can log in; sessions that are there stay good
"""

from __future__ import annotations

from typing import Any

from engine import redis_keys as keys
from engine.errors import Unavailable
from engine.stores.redis.link import Command, RedisLink
from engine.stores.redis.wire import ReplyError


class RedisConsoleSessions:
    """The port `SessionStore`. Every call raises Unavailable when Redis does not answer."""

    def __init__(self, link: RedisLink, *, idle_s: int, age_s: int, per_key_max: int) -> None:
        """`idle_s`: how long one is kept after its last use, and `age_s`: at most. `per_key_max`: so many of
        one key."""
        self._link = link
        self._idle_s = idle_s
        self._age_s = age_s
        self._per_key_max = per_key_max

    async def keep(self, owner: str, digest: bytes, session: bytes) -> None:
        """Keep one of `owner`, whose oldest is dropped when it has too many."""
        name = keys.console_sessions_key(owner)
        pushed: list[Command] = [("LPUSH", name, digest), ("LRANGE", name, self._per_key_max, -1)]
        surplus: list[bytes] = (await self._carried_out(pushed))[1]
        commands: list[Command] = [("DEL", keys.console_session_key(old)) for old in surplus]
        commands += [
            ("LTRIM", name, 0, self._per_key_max - 1),
            ("EXPIRE", name, self._age_s),
            ("SET", keys.console_session_key(digest), session, "EX", self._idle_s),
        ]
        await self._carried_out(commands)

    async def use(self, digest: bytes) -> bytes | None:
        """One that is used now; None when it has ended or never was."""
        name = keys.console_session_key(digest)
        found: bytes | None = (await self._carried_out([("GETEX", name, "EX", self._idle_s)]))[0]
        return found

    async def drop(self, digest: bytes) -> None:
        """Forget one."""
        await self._carried_out([("DEL", keys.console_session_key(digest))])

    async def _carried_out(self, commands: list[Command]) -> list[Any]:
        replies = await self._link.batch(commands)
        for reply in replies:
            if isinstance(reply, ReplyError):
                raise Unavailable(f"Redis does not keep sessions: {reply}.") from reply
        return replies
