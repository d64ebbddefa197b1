"""How long applied usage stays on the stream: so long that books that go back can apply it again.

Usage is kept for `keep_s` in any case, and then until every standby of PostgreSQL has the books that
applied it: whichever standby is promoted then goes on from an entry that is still there. Memory bounds
that: beyond `entries_max` entries the oldest go, though a standby may not have them; usage of the last
`_AUDIT_S` seconds always stays, because an audit reads it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from engine.credit.ledger_records import Standing
from engine.stream_id import StreamId

# An audit takes its cut within this time.
_AUDIT_S = 10.0
# So many moments are remembered; of more, every second one is forgotten.
_MOMENTS_MAX = 1_000


class _Moment(NamedTuple):
    at_s: float
    positions: dict[int, StreamId]
    written: int


class Trim(NamedTuple):
    """Up to where usage may go, by shard; `forced` when a standby does not have it."""

    positions: dict[int, StreamId]
    forced: bool


class Retention:
    """Remembers how far the books were when, and says what may be trimmed."""

    def __init__(self, keep_s: float, entries_max: int) -> None:
        """`entries_max`: of all shards together."""
        self._keep_s = keep_s
        self._entries_max = entries_max
        self._moments: list[_Moment] = []

    def note(self, now_s: float, positions: Mapping[int, StreamId], standing: Standing) -> None:
        """Note that the books are at `positions`, and that they are part of `standing.written` bytes."""
        if self._moments and self._moments[-1].positions == positions:
            return
        self._moments.append(_Moment(now_s, dict(positions), standing.written))
        if len(self._moments) > _MOMENTS_MAX:
            del self._moments[1:-1:2]

    def due(self, now_s: float, standing: Standing, entries: int) -> Trim | None:
        """What may be trimmed now; None: nothing. `entries`: how many the streams have together."""
        full = entries > self._entries_max
        last, forced = None, False
        for moment in self._moments:
            age_s = now_s - moment.at_s
            everywhere = standing.kept is None or moment.written <= standing.kept
            if age_s < _AUDIT_S or not (full or (age_s >= self._keep_s and everywhere)):
                break
            last, forced = moment, forced or not everywhere
            if full:
                # One moment at a time: the next look finds fewer entries.
                break
        if last is None:
            return None
        self._moments = self._moments[self._moments.index(last) + 1 :]
        return Trim(last.positions, forced)

    def forget(self) -> None:
        """Forget all moments: another ledger may have led meanwhile."""
        self._moments.clear()

    def waits_s(self, now_s: float) -> float:
        """How old the oldest usage is that is kept for longer than `keep_s`; 0: there is none."""
        if not self._moments:
            return 0.0
        return max(0.0, now_s - self._moments[0].at_s - self._keep_s)
