"""Messages in a row that are all of one entry of a stream, so that they can be dealt with as one."""

from __future__ import annotations

from collections.abc import Sequence

from engine.records import Entry
from engine.stores.redis._entries import same_entry


def end_of(entries: Sequence[Entry], at: int) -> int:
    """Behind which of `entries` the messages of the entry of the stream end of which the first is at `at`, if
    all of that are there in the order of their places, as they were read; else `at` + 1."""
    return at + entries[at].bundle if same_entry(entries, at) else at + 1
