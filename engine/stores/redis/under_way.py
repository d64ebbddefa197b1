"""A read of some shards that is under way, and is answered in its own time.

A shard is asked by one read at a time. So what is given of it arrives in order, also where two reads have a
connection each.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable
from typing import Any

# An answer that nobody has taken for so long counts as lost, seconds: the worker counts how long it has
# had the entries from when it takes them.
_KEPT_S = 0.1


class ReadUnderWay:
    """One read at a time. It is `True` from `begin` until its answer is taken."""

    def __init__(self) -> None:
        # What it asks.
        self.shards: frozenset[int] = frozenset()
        # When the answer came that was taken last, seconds of the loop.
        self.answered_s = 0.0
        self._task: asyncio.Task[tuple[list[Any], float]] | None = None

    def __bool__(self) -> bool:
        return self._task is not None

    @property
    def tasks(self) -> list[asyncio.Task[Any]]:
        """What to wait for: one task, or none."""
        return [] if self._task is None else [self._task]

    @property
    def answered(self) -> bool:
        """Whether its answer is there, or will not come."""
        return self._task is not None and self._task.done()

    def begin(self, shards: Iterable[int], read: Callable[[], Coroutine[Any, Any, list[Any]]]) -> None:
        """Begin a read of these shards, which gives [[key, entries] …]. Canceled in the same turn of the
        loop, it is not called."""
        self.shards = frozenset(shards)
        self._task = asyncio.create_task(_timed(read), name="read")
        # A worker that ends does not ask what became of it.
        self._task.add_done_callback(lambda task: task.cancelled() or task.exception())

    def take(self) -> list[Any] | None:
        """Its answer, once it is there; None: it is too old, and what it gave is to be looked for.

        Raises what the read did.
        """
        task, self._task, self.shards = self._task, None, frozenset()
        if task is None:
            return []
        streams, self.answered_s = task.result()
        old = asyncio.get_running_loop().time() > self.answered_s + _KEPT_S
        return None if old and streams else streams

    def cancel(self) -> None:
        """Let nobody wait for it any more."""
        if self._task is not None:
            self._task.cancel()
        self._task, self.shards = None, frozenset()


async def _timed(read: Callable[[], Coroutine[Any, Any, list[Any]]]) -> tuple[list[Any], float]:
    """What a read gave, and when."""
    return await read(), asyncio.get_running_loop().time()
