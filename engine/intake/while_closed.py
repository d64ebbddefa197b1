"""Service: a request that repeats one, while nothing new is taken: it gets the answer of the first.

Nothing new is taken of anybody while an operator wishes so, and of an organisation that is over its limits.

Redis does not answer     while an operator wishes so, the request is told that nothing is taken now; over a
                          limit, that its messages may have been accepted the first time
its client gives up       the look-up ends
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from engine.credit.group_commit import UNDECIDED
from engine.errors import Closed, TooMany, Undecided
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
        reason: Closed | TooMany,
        done: Done,
    ) -> None:
        """`first`: what its key was first used for. `answer`: what was kept of the first answer → the answer;
        it may raise Refusal. `reason`: why nothing is taken."""
        self._task = asyncio.create_task(
            _decide(first, fingerprint, answer, reason, done), name="repeated while closed"
        )

    def give_up(self) -> None:
        """Nobody waits for it any more."""
        self._task.cancel()


async def _decide(
    first: Callable[[], Awaitable[Replay | None]],
    fingerprint: bytes,
    answer: Callable[[bytes], bytes],
    reason: Closed | TooMany,
    done: Done,
) -> None:
    unknown = reason if isinstance(reason, Closed) else Undecided(UNDECIDED)
    done(await answer_of_first(first, fingerprint, answer, reason, unknown))
