"""Messages in a row that are all of one entry of a stream, so that they can be dealt with as one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import repeat
from operator import is_

from engine import bundle_format
from engine.records import Entry

_PLACES = [list(range(size)) for size in range(bundle_format.MESSAGES_MAX + 1)]


def pieces(entries: Sequence[Entry]) -> Iterator[tuple[int, int]]:
    """(begin, end) of each piece of `entries`, in order: all messages of one entry of a stream, as they
    were read, or one message else."""
    at, count = 0, len(entries)
    while at < count:
        first = entries[at]
        end = at + first.bundle
        # Messages that were read together have the same object as their id.
        if (
            first.bundle > 1
            and first.place == 0
            and end <= count
            and first.bundle < len(_PLACES)
            and all(map(is_, [entry.entry_id for entry in entries[at:end]], repeat(first.entry_id)))
            and [entry.place for entry in entries[at:end]] == _PLACES[first.bundle]
        ):
            yield at, end
            at = end
        else:
            yield at, at + 1
            at += 1
