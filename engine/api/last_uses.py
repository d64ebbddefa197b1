"""When keys were last used, noted in batches and to the minute.

Killed here: what was used in the last seconds is not noted. PostgreSQL is away: it is noted later, for as
many keys as fit. No caller waits for it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import structlog

from engine.api.key_cache import KeyCache
from engine.clocks.waits import next_tick

_PAUSE_S = 5.0
_BATCH_MAX = 1_000
_KEYS_MAX = 100_000

_log = structlog.get_logger(__name__)


class LastUses:
    """Of the keys of one cache."""

    def __init__(self, cache: KeyCache[Any], note: Callable[[Sequence[int]], Awaitable[None]]) -> None:
        """`note` writes that keys, at most 1,000, are in use now; it raises Unavailable."""
        self._cache = cache
        self._note = note

    async def run(self) -> None:
        """Note uses every few seconds, until canceled. Call `flush` afterwards."""
        while True:
            await next_tick(_PAUSE_S)
            await self.flush()

    async def flush(self) -> None:
        """Note what was used since the last time."""
        used, self._cache.used = self._cache.used, set()
        waiting = sorted(used)
        try:
            while waiting:
                await self._note(waiting[:_BATCH_MAX])
                del waiting[:_BATCH_MAX]
        except Exception as e:
            # The top of this loop: nobody waits for it, and the next time tries anew.
            _log.info("last uses of keys are not noted yet", error=type(e).__qualname__)
            self._cache.used |= set(waiting[:_KEYS_MAX])
