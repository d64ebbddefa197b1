"""What a holder has yet to write to one shard, as a pure state machine (group commit).

Submissions and notes gather; `next_flush` takes what has gathered as one numbered flush;
only one flush is under way, and it stays the same until its outcome is known. When its
answer was lost it is sent again under the same number: Redis answers the stored outcome
if it had been applied and applies it otherwise (see `admit` in queue.lua).
"""

from __future__ import annotations

from collections import deque
from typing import Literal

import msgspec

from engine.records import Replay, Submission

NoteKind = Literal["request", "return"]


class Note(msgspec.Struct, frozen=True):
    """A word to the ledger, carried by the shard's usage stream."""

    kind: NoteKind
    data: bytes


class Flush(msgspec.Struct, frozen=True):
    shard: int
    epoch: int
    sequence: int
    submissions: list[tuple[int, Submission]]
    notes: list[Note]


class Outbox:
    """The flushes of one holder to one shard. Tokens name submissions to the service."""

    def __init__(self, shard: int, *, messages_max: int, notes_max: int = 2000) -> None:
        self._shard = shard
        self._messages_max = messages_max
        self._notes_max = notes_max
        self._epoch = 0
        self._sequence = 0
        self._submissions: deque[tuple[int, Submission]] = deque()
        self._notes: deque[Note] = deque()
        self._under_way: Flush | None = None

    def registered(self, epoch: int) -> None:
        """A new epoch begins, at sequence 0."""
        self._epoch = epoch
        self._sequence = 0

    def add(self, token: int, submission: Submission) -> None:
        self._submissions.append((token, submission))

    def note(self, note: Note) -> None:
        self._notes.append(note)

    @property
    def idle(self) -> bool:
        return self._under_way is None and not self._submissions and not self._notes

    def next_flush(self) -> Flush | None:
        """What to send now: the flush under way is not offered again; None if there is
        nothing or one is under way."""
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

    def applied(self, hits: dict[int, Replay]) -> list[tuple[int, Submission, Replay | None]]:
        """The flush under way is in Redis. Each submission with what it turned out to be:
        admitted (None), or a repetition whose first answer is given."""
        flush, self._under_way = self._under_way, None
        assert flush is not None
        return [(token, s, hits.get(i)) for i, (token, s) in enumerate(flush.submissions)]

    def refused(self) -> list[tuple[int, Submission]]:
        """The flush under way changed nothing and never will: its number is free again. Its notes
        wait for the next flush; its submissions, with their tokens, are given back."""
        flush, self._under_way = self._under_way, None
        assert flush is not None
        self._sequence -= 1
        self._notes.extendleft(reversed(flush.notes))
        return flush.submissions

    def fenced(self) -> list[int]:
        """The epoch is over: nothing that waits here was or will be admitted. The tokens."""
        under_way = self._under_way.submissions if self._under_way else []
        tokens = [token for token, _ in under_way] + [token for token, _ in self._submissions]
        self._under_way = None
        self._submissions.clear()
        self._notes.clear()
        return tokens
