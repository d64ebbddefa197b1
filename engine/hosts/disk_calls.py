"""Calls of the disk that are not waited for longer than they should take: one that hangs may never return.

Each is made in a thread that nobody waits for at the end of its process.
"""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Generic, TypeVar

T = TypeVar("T")

# A disk that takes longer hangs, seconds.
ANSWER_S = 2.0


class DiskRead(Generic[T]):
    """What is read from the disk again and again, without holding up whoever asks."""

    def __init__(self, read: Callable[[], T], nothing: T) -> None:
        """`read` raises nothing. `nothing`: what is known before the first answer."""
        self._read = read
        self._last = nothing
        self._pool = ThreadPoolExecutor(1, "disk")
        self._under_way: Future[T] | None = None

    @property
    def hangs(self) -> bool:
        """Whether the last call was not answered in time, and is not yet."""
        return self._under_way is not None and not self._under_way.done()

    async def latest(self) -> T:
        """What is there now; while the disk hangs, what was there last."""
        waits = self._under_way is None
        if self._under_way is None:
            self._under_way = self._pool.submit(self._read)
        if waits:
            await asyncio.wait([asyncio.wrap_future(self._under_way)], timeout=ANSWER_S)
        if self._under_way is not None and self._under_way.done():
            self._last, self._under_way = self._under_way.result(), None
        return self._last


def within(seconds: float, call: Callable[[], T]) -> T:
    """What the call returns. Raises what it raises, and OSError when it takes longer; it goes on then."""
    pool = ThreadPoolExecutor(1, "disk")
    future = pool.submit(call)
    pool.shutdown(wait=False)
    if not wait([future], seconds).done:
        raise OSError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT))
    return future.result()
