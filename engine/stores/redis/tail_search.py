"""Rule: how the rows of several messages are found in the tail of one shard's activity stream, in one pass.

Each message is looked for from its acceptance on, to the end of the stream. (A scheduled one may be canceled
before its time.) A message that is delivered and charged has had its last event that says anything new, so
the search for it ends there. Nobody is looked for in more than `entries_max` entries, nor beyond the page
with which 32 MB are exceeded: entries of batches are so large that a search would hold up Redis otherwise.

When Redis' clock was set back, the ids of new entries go on from the highest that there was, and a message
that was accepted since may have a later time than all of them. So a message with no entry behind its
acceptance is looked for once more, from the begin of the stream.

An archiver takes entries from the begin of the stream. So of a message whose acceptance still waits in it
nothing is archived, and what was found is all that there is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import msgspec

from engine.activity.blocks import fits
from engine.activity.records import ActivityEntry, MessageKey, RecentRows
from engine.batches import Batch
from engine.lifecycle import EVENTS
from engine.records import ActivityRow
from engine.stream_id import STREAM_START, StreamId

_OCTETS_MAX = 32 << 20
# How far Redis' clock may be ahead of the one that accepted a message, milliseconds.
_CLOCK_SLACK_MS = 2000
# One of these is the first event of every message.
_BEGINNINGS = ("accepted", "scheduled")
_MESSAGE_ID = ActivityRow.__struct_fields__.index("message_id")
# Values of the oldest rows: later versions have only added some.
_VALUES_MIN = len(ActivityRow.__struct_fields__) - len(ActivityRow.__struct_defaults__)


class _Wanted:
    """One message that is looked for."""

    def __init__(self, key: MessageKey) -> None:
        self.key = key
        self.needle = key.message_id.encode()
        # No entry before this one can have an event of it that was not seen yet.
        self.start = _not_before(key.accepted_at_us)
        self.looked_at = 0
        # It is looked for from the begin of the stream.
        self.anywhere = False
        self.rows: list[ActivityRow] = []
        # The entry with its acceptance; None: that was not found.
        self.begun: StreamId | None = None

    def seen(self, entry: StreamId, rows: Sequence[ActivityRow]) -> None:
        """Note rows of it."""
        self.rows += rows
        if self.begun is None and any(row.event in _BEGINNINGS for row in rows):
            self.begun = entry

    @property
    def over(self) -> bool:
        """Whether later events say nothing new."""
        events = {row.event for row in self.rows}
        return (
            "delivered" in events
            and not events.isdisjoint(_BEGINNINGS)
            and any(EVENTS[e].charge in ("captures", "releases") for e in events if e in EVENTS)
        )


class TailSearch:
    """The search for some messages of one shard: read the page behind `start` again and again, and give it
    to `take`, until `start` is None."""

    def __init__(
        self,
        messages: Sequence[MessageKey],
        decode: Callable[[ActivityEntry], Sequence[Sequence[object]]],
        entries_max: int,
    ) -> None:
        """`decode`: the rows of an entry as they were packed, [] when it cannot be read."""
        self._decode = decode
        self._entries_max = entries_max
        self._open = [_Wanted(key) for key in messages]
        self._octets = 0
        self._found: dict[MessageKey, RecentRows] = {}
        # Of those that are found as far as the stream has them: the entry with the acceptance.
        self._begun: dict[MessageKey, StreamId] = {}
        # Where the next page begins.
        self.start = min((wanted.start for wanted in self._open), default=None)

    def take(self, page: Sequence[ActivityEntry], *, last: bool) -> None:
        """Look through a page; `last`: the stream has no more."""
        self._octets += sum(len(entry.blob) for entry in page)
        for entry in page:
            wanted = [w for w in self._open if w.start <= entry.id]
            for w in wanted:
                w.looked_at += 1
            if mentioned := {w.key.message_id: w for w in wanted if w.needle in entry.blob}:
                self._note(entry, mentioned)
        again = [w for w in self._open if last and not w.looked_at and not w.anywhere]
        for w in again:
            w.start, w.anywhere = STREAM_START, True
        for w in self._open:
            if w in again:
                continue
            if last or w.over:
                self._found[w.key] = RecentRows(rows=w.rows, complete=True)
                if w.begun is not None:
                    self._begun[w.key] = w.begun
            elif w.looked_at >= self._entries_max or self._octets > _OCTETS_MAX:
                self._found[w.key] = RecentRows(rows=w.rows, complete=False)
        self._open = [w for w in self._open if w.key not in self._found]
        behind = page[-1].id.next if page and not again else STREAM_START
        self.start = max(behind, min(w.start for w in self._open)) if self._open else None

    @property
    def found(self) -> dict[MessageKey, RecentRows]:
        """What was found of each message whose search has ended."""
        return self._found

    @property
    def has_begun(self) -> bool:
        """Whether the acceptance of any message was found."""
        return bool(self._begun)

    def found_by(self, first: StreamId) -> dict[MessageKey, RecentRows]:
        """What was found, of a stream that began with the entry `first` after its last page was read: what
        has an acceptance that was not taken from it meanwhile is whole."""
        whole = {
            key: msgspec.structs.replace(self._found[key], whole=True)
            for key, at in self._begun.items()
            if at >= first
        }
        return self._found | whole

    def _note(self, entry: ActivityEntry, mentioned: dict[str, _Wanted]) -> None:
        rows: dict[str, list[ActivityRow]] = {}
        for row in _rows(self._decode(entry), lambda message_id: message_id in mentioned):
            # Another organisation's message is not theirs to see.
            if row.organisation_id == mentioned[row.message_id].key.organisation_id:
                rows.setdefault(row.message_id, []).append(row)
        for message_id, found in rows.items():
            mentioned[message_id].seen(entry.id, found)


def rows_between(entry: Sequence[Sequence[object]], organisation_id: int, batch: Batch) -> list[ActivityRow]:
    """The rows of the messages of a batch among those of an entry, as they were packed."""
    rows = _rows(entry, lambda message_id: batch.first <= message_id <= batch.last)
    return [row for row in rows if row.organisation_id == organisation_id]


def _rows(entry: Sequence[Sequence[object]], is_wanted: Callable[[str], bool]) -> Iterator[ActivityRow]:
    """The rows of an entry whose messages are wanted, by their ids."""
    for values in entry:
        if len(values) < _VALUES_MIN:
            continue
        message_id = values[_MESSAGE_ID]
        if type(message_id) is not str or not is_wanted(message_id) or not fits(values):
            continue
        # The event may be any word, so that one of a newer version is shown as it is.
        yield ActivityRow(**dict(zip(ActivityRow.__struct_fields__, values, strict=False)))  # type: ignore[arg-type]


def _not_before(at_us: int) -> StreamId:
    """An id below that of every entry recorded at this time or later."""
    return StreamId(max(0, at_us // 1000 - _CLOCK_SLACK_MS), 0)
