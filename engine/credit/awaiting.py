"""Who waits for the outcome of which submission.

A client that has gone is told nothing. A fault of one touches no other.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from itertools import count

from engine.credit.accepted_counts import AcceptedCounts
from engine.credit.flush import Ended
from engine.errors import Unavailable
from engine.records import Replay, Submission

# What becomes of a submission: it was admitted (None), its key was used before, or it was not written.
Outcome = Replay | None | Unavailable
# Is given the outcome, once, by the loop. It must not wait.
Done = Callable[[Outcome], None]


class Awaiting:
    """The clients of one holder whose submissions have no outcome yet, by token."""

    def __init__(self, release: Callable[[Submission], None]) -> None:
        """`release` gives units back that were not used."""
        self._release = release
        self._tokens = count(1)
        self._clients: dict[int, Done] = {}
        self.accepted = AcceptedCounts()

    def add(self, done: Done) -> int:
        """A client waits: the token of its submission."""
        token = next(self._tokens)
        self._clients[token] = done
        return token

    def forget(self, token: int) -> None:
        """Nobody is told this outcome."""
        self._clients.pop(token, None)

    def tell(self, token: int, outcome: Outcome) -> None:
        """Tell the client of a submission its outcome."""
        done = self._clients.pop(token, None)
        if done is None:
            return
        try:
            done(outcome)
        except Exception as e:
            # It is not this holder's; the loop's handler judges it.
            context = {"message": "an outcome could not be told", "exception": e}
            asyncio.get_running_loop().call_exception_handler(context)

    def refuse(self, taken: Sequence[tuple[int, Submission]], reason: Unavailable) -> None:
        """Give the units of submissions back that are not written, and tell their clients."""
        for token, submission in taken:
            self._release(submission)
            self.tell(token, reason)

    def end(self, ended: Sequence[Ended]) -> None:
        """Count what was accepted in a flush, give back what was not used, and tell the clients."""
        for token, submission, applied, replay in ended:
            if not applied or replay is not None:
                self._release(submission)
            else:
                self.accepted.add(submission.messages)
            self.tell(token, replay)
