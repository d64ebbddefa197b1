"""Rule: a batch of receipts, from what is to be looked up to what is to be recorded.

The store is asked twice at most for a whole batch. First it is asked for the ids as the receipts have
them, which finds nearly all attempts. For the receipts that are left it is then asked for the other
forms of the ids, and for our own ids of the messages.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Container, Iterable, Mapping, Sequence

import msgspec

from engine.activity.numbers import PLAIN, Numbers
from engine.activity.records import AttemptRecord
from engine.receipts.ids import IdForms, likeliest, normal, others
from engine.receipts.match import NOTHING, Known, Match, Reason, known_of, learnt, match, rows_for
from engine.receipts.records import Receipt
from engine.records import ActivityRow
from engine.stream_id import StreamId

# (provider, normal form of an id): what an attempt is filed under.
Key = tuple[str, str]


class Search:
    """Finds the attempts of the receipts of one batch."""

    def __init__(
        self,
        receipts: Sequence[Receipt],
        ids: Mapping[str, IdForms],
        settled_us: int,
        per_message: Collection[str] = (),
        numbers: Numbers = PLAIN,
    ) -> None:
        """`ids`: `receipt_ids` by provider, "auto" for those not named. All that was sent before
        `settled_us` is in the store. `per_message`: the providers whose receipts are each about the whole
        message, whichever of its segments they name. `numbers`: how recipients' numbers are stored."""
        self._receipts = receipts
        self._per_message = per_message
        self._numbers = numbers
        self._how: list[IdForms] = [ids.get(r.provider, "auto") for r in receipts]
        self._settled_us = settled_us
        self._first = [
            (r.provider, likeliest(r.provider_message_id, how) or normal(r.message_id))
            for r, how in zip(receipts, self._how, strict=True)
        ]
        self._filed: list[list[AttemptRecord]] = [[] for _ in receipts]
        # What was found for each receipt, in their order.
        self.outcomes: list[Match | Reason] = ["unknown"] * len(receipts)

    def first_keys(self) -> set[Key]:
        """The keys to look up first; they find most attempts."""
        return set(self._first)

    def further_keys(self) -> set[Key]:
        """The further keys of the receipts that have no attempt yet."""
        return {key for place in self._open() for key in self._further(place)}

    def message_ids(self) -> set[str]:
        """Our ids of the messages that are named by receipts without an attempt yet."""
        named = (self._receipts[place].message_id.lower() for place in self._open())
        return {message_id for message_id in named if message_id}

    def learn(
        self,
        under: Mapping[Key, Sequence[AttemptRecord]],
        of_messages: Mapping[str, Sequence[AttemptRecord]] | None = None,
    ) -> None:
        """Take in what the store has, and match the receipts that have no attempt yet.

        `under`: the records by key; without `of_messages` those of the first keys, with it those of the
        further keys. `of_messages`: the records by our ids of the messages.
        """
        for place in self._open():
            receipt, filed = self._receipts[place], self._filed[place]
            if of_messages is None:
                filed += under.get(self._first[place], ())
            else:
                filed += (f for key in self._further(place) for f in under.get(key, ()))
                filed += of_messages.get(receipt.message_id.lower(), ())
            settled = receipt.at_us < self._settled_us
            outcome = match(receipt, filed, self._how[place], settled=settled, numbers=self._numbers)
            if isinstance(outcome, Match) and receipt.provider in self._per_message:
                outcome = Match(attempt=outcome.attempt, segment=0)
            self.outcomes[place] = outcome

    def rows(self, unseen: Unseen, elsewhere: Container[int] = ()) -> list[list[ActivityRow]]:
        """The rows to record, a list for each attempt that has any; `unseen` is not changed.

        `elsewhere`: the places of receipts that another matcher decides about.
        """
        attempts: dict[tuple[str, int], tuple[AttemptRecord, Known, list[tuple[int, Receipt]]]] = {}
        for place, outcome in enumerate(self.outcomes):
            if isinstance(outcome, Match) and place not in elsewhere:
                name = (outcome.attempt.message_id, outcome.attempt.attempt)
                if name not in attempts:
                    known = known_of(outcome.attempt, self._filed[place]).joined(unseen.known(*name))
                    attempts[name] = (self._with_number(outcome.attempt, self._receipts[place]), known, [])
                attempts[name][2].append((outcome.segment, self._receipts[place]))
        found = (
            rows_for(attempt, known, sorted(receipts, key=lambda pair: pair[1].at_us))
            for attempt, known, receipts in attempts.values()
        )
        return [rows for rows in found if rows]

    def _with_number(self, attempt: AttemptRecord, receipt: Receipt) -> AttemptRecord:
        """The attempt with its recipient's number, which webhooks tell, where that is known."""
        number = self._numbers.number_in(receipt.to, attempt.to)
        return attempt if number == attempt.to else msgspec.structs.replace(attempt, to=number)

    def _further(self, place: int) -> list[Key]:
        receipt = self._receipts[place]
        forms = others(receipt.provider_message_id, self._how[place])
        if receipt.message_id and receipt.provider_message_id:
            forms.append(normal(receipt.message_id))
        return [(receipt.provider, form) for form in forms if form != self._first[place][1]]

    def _open(self) -> list[int]:
        return [place for place, outcome in enumerate(self.outcomes) if not isinstance(outcome, Match)]


class Unseen:
    """What this matcher has recorded that is perhaps not in the store yet."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, int], Known] = {}
        # By shard, oldest first: the id of the activity entry and the attempts in it.
        self._recorded: dict[int, deque[tuple[StreamId, list[tuple[str, int]]]]] = {}
        # The id of the last activity entry about each attempt.
        self._last: dict[tuple[str, int], StreamId] = {}

    def __len__(self) -> int:
        return len(self._known)

    def known(self, message_id: str, attempt: int) -> Known:
        """What is recorded about an attempt (message id, number) and not yet in the store."""
        return self._known.get((message_id, attempt), NOTHING)

    def add(self, shard: int, entry_id: StreamId, rows: Iterable[ActivityRow]) -> None:
        """Remember rows that were put on the shard's activity stream under `entry_id`."""
        names = []
        for row in rows:
            name = (row.message_id, row.attempt)
            added = learnt(row.event, row.code, row.segment)
            self._known[name] = self._known.get(name, NOTHING).joined(added)
            self._last[name] = entry_id
            names.append(name)
        self._recorded.setdefault(shard, deque()).append((entry_id, names))

    def forget(self, archived_before: Mapping[int, StreamId | None]) -> None:
        """Forget what the store has by now.

        `archived_before`: for each shard, the entries before this one are in the store; None: all are.
        """
        for shard, recorded in self._recorded.items():
            until = archived_before.get(shard)
            while recorded and (until is None or recorded[0][0] < until):
                entry_id, names = recorded.popleft()
                for name in names:
                    if self._last.get(name) == entry_id:
                        del self._last[name], self._known[name]

    def clear(self) -> None:
        """Forget everything: another matcher begins."""
        self._known.clear()
        self._recorded.clear()
        self._last.clear()
