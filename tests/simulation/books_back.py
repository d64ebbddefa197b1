"""What is true of the books while PostgreSQL is back at an earlier moment, and when they have come right."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from engine.credit.laws import NO_UNITS, Units
from engine.redis_keys import usage_head_key
from engine.stream_id import StreamId
from tests.simulation.postgres_server import Change, Tables


class BooksBack:
    """The part of `checkers.Truth` that knows of books that went back."""

    def __init__(self, truth: Any) -> None:
        """`truth`: the `Truth` that this is a part of."""
        self._truth = truth
        # Whether they ever did; and shards whose books are not where they were yet.
        self.went_back = False
        self.back: set[int] = set()
        # By organisation, units of top-ups that went with them.
        self._lost_top_ups: dict[int, int] = {}

    def unbooked(self, organisation_id: int) -> Units:
        """What the books say could not be booked of an organisation."""
        found = [u for u in self._truth.postgres.tables.unbooked if u.organisation_id == organisation_id]
        if not found:
            # It is asked with every change, and there is hardly ever one.
            return NO_UNITS
        return Units(*(sum(getattr(u, name) for u in found) for name in Units._fields))

    def shows(self, tables: Tables) -> bool:
        """Whether Redis knows more of the books than is in `tables`."""
        for shard in range(self._truth.shards):
            head = self._truth.redis.store.db.get(usage_head_key(shard), {})
            note = head.get(b"books", b"").decode().split(" ")
            if len(note) == 4 and (
                StreamId.parse(note[1]) > tables.marks[shard].position or int(note[2]) > tables.term
            ):
                return True
        return False

    def go_back(self) -> None:
        """PostgreSQL has its tables of an earlier moment; Redis is as it was."""
        truth, self.went_back = self._truth, True
        self.back = set(range(truth.shards))
        tables = truth.postgres.tables
        for shard, history in enumerate(truth.histories):
            behind = history.between(tables.marks[shard].link, truth.link(shard))
            if behind is None:
                truth.fail(f"shard {shard}: the simulation went back too far")
            history.behind = behind
        for o, s in truth.sums.items():
            row, unbooked = tables.accounts[o], self.unbooked(o)
            self._lost_top_ups[o] = self._lost_top_ups.get(o, 0) + s.t - row.topped_up
            s.t, s.a = row.topped_up, row.available
            held = row.held + unbooked.held - unbooked.captured - unbooked.released
            truth.shadow[o] = [held, row.captured + unbooked.captured]
            truth.changed(o)

    def noticed(self) -> None:
        """A ledger says that PostgreSQL went back."""
        if not self.went_back:
            self._truth.fail("PostgreSQL is said to have gone back, and did not")

    def committed(self, change: Change) -> None:
        """Usage is set aside only when the books went back, and no more than top-ups were lost."""
        for o in {*change.covered, *(u.organisation_id for u in change.unbooked)}:
            unbooked = self.unbooked(o)
            if self._truth.sums[o].shard not in self.back and not any(unbooked):
                self._truth.fail(f"organisation {o}: the books lack units")
            if unbooked.held - unbooked.released > self._lost_top_ups.get(o, 0):
                self._truth.fail(f"organisation {o}: {unbooked} are unbooked, lost was less")

    def come_right(self, shards: Iterable[int]) -> None:
        """Books that went back are right again once they have all usage, and nobody can spend more."""
        truth = self._truth
        for shard in self.back.intersection(shards):
            of = [o for o, s in truth.sums.items() if s.shard == shard]
            if not truth.histories[shard].behind and all(
                truth.sums[o].a + truth.sums[o].m <= truth.unspent(o) for o in of
            ):
                self.back.discard(shard)
