"""What a holder still has to write to one shard, as a pure state machine (group commit).

Submissions and notes gather, and `next_flush` takes them as one numbered flush. Only one flush is
under way, and it does not change until its outcome is known. When its answer was lost, it is sent
again under the same number: Redis answers the stored outcome if it was applied, and applies it
otherwise (see `admit` in functions/queue).

When the clients of the flush under way have given up, it is *withdrawn*: from then on it is sent without its
submissions, under the same number. One of the two is applied, the other never will be, and the answer says
which. So nothing is written long after its client was told that it was not.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Literal, NamedTuple

import msgspec

from engine.limits.records import RateLevel
from engine.records import Replay, Submission

NoteKind = Literal["request", "return"]


class Note(msgspec.Struct, frozen=True):
    """A request or a return to the ledger, as an entry of the shard's usage stream.

    `data` is a `QuotaRequest` or a `QuotaReturn` in MessagePack.
    """

    kind: NoteKind
    data: bytes


class Flush(msgspec.Struct, frozen=True):
    """What is written to one shard in one atomic step, under a number that is used once."""

    shard: int
    epoch: int
    # Counts up by one from 1 in each epoch.
    sequence: int
    # (token, submission), in order.
    submissions: list[tuple[int, Submission]]
    notes: list[Note]
    # Its submissions were taken out: see the module.
    withdrawn: bool = False


class Admitted(NamedTuple):
    """A flush is in Redis: the one with submissions, or the one that was withdrawn."""

    # How many submissions the flush had that was applied.
    submissions: int
    # {index of a submission: what its idempotency key was first used for}
    hits: dict[int, Replay]
    # [organisation, messages of it that wait] of those that have a backlog; perhaps one for each queue.
    backlogs: Sequence[Sequence[int]] = ()
    # Of organisations with a `rate_max`.
    levels: Sequence[RateLevel] = ()


class Ended(NamedTuple):
    """What became of one submission of a flush."""

    token: int
    submission: Submission
    # Whether it was written; False: it never will be.
    applied: bool
    # What its idempotency key was first used for; then nothing of it was written.
    replay: Replay | None


class Outbox:
    """The flushes of one holder to one shard. A token names a submission; the service chooses it."""

    def __init__(self, shard: int, *, messages_max: int, notes_max: int = 2000) -> None:
        """`messages_max`, `notes_max`: the most of each in one flush; a larger submission goes alone."""
        self._shard = shard
        self._messages_max = messages_max
        self._notes_max = notes_max
        self._epoch = 0
        self._sequence = 0
        self._submissions: deque[tuple[int, Submission]] = deque()
        self._notes: deque[Note] = deque()
        self._under_way: Flush | None = None
        # Of the flush under way, once it is withdrawn.
        self._withdrawn: list[tuple[int, Submission]] = []

    def registered(self, epoch: int) -> None:
        """A new epoch begins, at sequence 0."""
        self._epoch = epoch
        self._sequence = 0

    def add(self, token: int, submission: Submission) -> None:
        """Put a submission behind those that wait."""
        self._submissions.append((token, submission))

    def note(self, note: Note) -> None:
        """Put a note behind those that wait."""
        self._notes.append(note)

    @property
    def idle(self) -> bool:
        """Whether nothing waits and no flush is under way."""
        return self._under_way is None and not self._submissions and not self._notes

    @property
    def gathered(self) -> int:
        """How many submissions wait for the next flush."""
        return len(self._submissions)

    @property
    def awaited(self) -> bool:
        """Whether a client waits for the outcome of a submission here."""
        return bool(self._submissions or (self._under_way and self._under_way.submissions))

    def next_flush(self) -> Flush | None:
        """The flush to send now, which is under way from then on.

        None when nothing waits, or one is under way already.
        """
        if self._under_way is not None or not (self._submissions or self._notes):
            return None
        taken: list[tuple[int, Submission]] = []
        messages = 0
        while self._submissions:
            size = len(self._submissions[0][1].messages)
            if taken and messages + size > self._messages_max:
                break
            taken.append(self._submissions.popleft())
            messages += size
        notes = [self._notes.popleft() for _ in range(min(len(self._notes), self._notes_max))]
        self._sequence += 1
        self._under_way = Flush(self._shard, self._epoch, self._sequence, taken, notes)
        return self._under_way

    @property
    def under_way(self) -> Flush | None:
        """The flush under way, as it is to be sent now."""
        return self._under_way

    def withdraw(self) -> list[int]:
        """Nobody waits for the flush under way any more: send it without its submissions from now on.

        Their tokens; none when it was withdrawn before.
        """
        flush = self._under_way
        assert flush is not None
        if flush.withdrawn:
            return []
        self._withdrawn = flush.submissions
        self._under_way = msgspec.structs.replace(flush, submissions=[], withdrawn=True)
        return [token for token, _ in self._withdrawn]

    def take_back(self, token: int) -> Submission | None:
        """Take a submission out that waits; None when it does not, because its flush was sent."""
        for place, (waiting, submission) in enumerate(self._submissions):
            if waiting == token:
                del self._submissions[place]
                return submission
        return None

    def take_back_all(self) -> list[tuple[int, Submission]]:
        """Take all submissions out that wait; the flush under way stays."""
        taken = list(self._submissions)
        self._submissions.clear()
        return taken

    def applied(self, outcome: Admitted) -> list[Ended]:
        """A flush is in Redis under the number of the one under way: what became of its submissions."""
        flush, self._under_way = self._under_way, None
        assert flush is not None
        submissions = self._withdrawn if flush.withdrawn else flush.submissions
        self._withdrawn = []
        # A withdrawn flush with submissions was applied before it was withdrawn, or not at all.
        written = outcome.submissions == len(submissions)
        return [Ended(token, s, written, outcome.hits.get(i)) for i, (token, s) in enumerate(submissions)]

    def refused(self) -> list[tuple[int, Submission]]:
        """The flush under way was not applied and never will be; its number is free again.

        Its notes go into the next flush. Its submissions are given back, with their tokens.
        """
        flush, self._under_way = self._under_way, None
        assert flush is not None
        self._sequence -= 1
        self._notes.extendleft(reversed(flush.notes))
        return flush.submissions

    def fenced(self) -> list[int]:
        """The epoch is over, and nothing that waits here will be admitted: the tokens of all submissions."""
        under_way = self._withdrawn or (self._under_way.submissions if self._under_way else [])
        tokens = [token for token, _ in under_way] + [token for token, _ in self._submissions]
        self._under_way = None
        self._withdrawn = []
        self._submissions.clear()
        self._notes.clear()
        return tokens
