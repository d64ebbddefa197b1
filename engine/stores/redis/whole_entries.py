"""Messages in a row that are all of one entry of a stream, so that they can be dealt with as one."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import repeat
from operator import is_

from engine import bundle_format
from engine.records import Entry

# Bundles of fewer messages cost less one by one.
LARGE = 8
_PLACES = [list(range(size)) for size in range(bundle_format.MESSAGES_MAX + 1)]


def end_of(entries: Sequence[Entry], at: int) -> int:
    """Behind which of `entries` the messages of the entry of the stream end of which the first is at `at`, if
    all of that are there in the order of their places, as they were read; else `at` + 1."""
    first = entries[at]
    end = at + first.bundle
    # Messages that were read together have the same object as their id.
    if (
        first.place == 0
        and end <= len(entries)
        and first.bundle < len(_PLACES)
        and all(map(is_, [entry.entry_id for entry in entries[at:end]], repeat(first.entry_id)))
        and [entry.place for entry in entries[at:end]] == _PLACES[first.bundle]
    ):
        return end
    return at + 1
