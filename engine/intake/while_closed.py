"""Service: a request that repeats one, while nothing new is taken: it gets the answer of the first.

Redis does not answer     the request is told that nothing is taken now
its client gives up       the look-up ends
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from engine.errors import Closed
from engine.intake.under_way import Done, answer_of_first
from engine.records import Replay


class RepeatedWhileClosed:
    """A request under way that is answered only if it was answered before."""

    __slots__ = ("_task",)

    def __init__(
        self,
        first: Callable[[], Awaitable[Replay | None]],
        fingerprint: bytes,
        answer: Callable[[bytes], bytes],
        closed: Closed,
        done: Done,
    ) -> None:
        """`first`: what its key was first used for. `answer`: what was kept of the first answer → the answer;
        it may raise Refusal. `closed`: why nothing is taken."""
        self._task = asyncio.create_task(
            _decide(first, fingerprint, answer, closed, done), name="repeated while closed"
        )

    def give_up(self) -> None:
        """Nobody waits for it any more."""
        self._task.cancel()


async def _decide(
    first: Callable[[], Awaitable[Replay | None]],
    fingerprint: bytes,
    answer: Callable[[bytes], bytes],
    closed: Closed,
    done: Done,
) -> None:
    done(await answer_of_first(first, fingerprint, answer, closed, closed))
