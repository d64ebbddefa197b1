"""What the ledger notes in Redis for the holders: that it leads, and whose books it cannot write.

Killed before a note: nothing is known, and clients wait for their own time. Killed after it: a note counts
for a moment. See `engine.credit.standstill`, and inbox.lua for each step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from engine import redis_keys as keys
from engine.errors import Broken
from engine.stores.redis.link import Command, RedisLink
from engine.stores.redis.lua_libraries import versioned
from engine.stores.redis.wire import ReplyError

# So many organisations of a shard are noted as locked. The clients of others wait for their own time.
_UNCLOSED_MAX = 500


class BooksNotes:
    """A part of the port `UsageStream`. Every call raises Unavailable, and Broken when Redis refuses it."""

    def __init__(self, link: RedisLink, shards: int) -> None:
        self._link = link
        self._shards = range(shards)

    async def note_lead(self, term: int) -> None:
        """Say that the ledger of this term leads: see `note_lead` in inbox.lua."""
        note = versioned("note_lead")
        await steps(self._link, [("FCALL", note, 1, keys.usage_head_key(s), term) for s in self._shards])

    async def note_waits(self, shards: Sequence[int], term: int) -> None:
        """Say that the books of these shards cannot be written now: see `note_waits` in inbox.lua."""
        note = versioned("note_waits")
        await steps(self._link, [("FCALL", note, 1, keys.usage_head_key(s), term) for s in shards])

    async def note_unclosed(self, organisations: Mapping[int, Sequence[int]], term: int) -> None:
        """Say by shard which accounts are locked since it was closed: see `note_unclosed` in inbox.lua."""
        note = versioned("note_unclosed")
        texts = {s: " ".join(map(str, them[:_UNCLOSED_MAX])) for s, them in organisations.items()}
        await steps(
            self._link, [("FCALL", note, 1, keys.usage_head_key(s), term, text) for s, text in texts.items()]
        )


async def steps(link: RedisLink, commands: Sequence[Command]) -> list[Any]:
    """The replies to steps of the protocol, in order. Raises Unavailable, and Broken for an error reply."""
    replies = await link.batch(commands)
    for reply in replies:
        if isinstance(reply, ReplyError):
            raise Broken(f"Redis refused a step of the ledger: {reply}")
    return replies
