"""All that ever happened on one shard's usage stream, also what Redis has lost since.

Entries form a tree: where Redis went back, another branch begins. An entry is known by its link,
the digest of itself and of all before it on its branch.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterable
from typing import NamedTuple


class Used(NamedTuple):
    """A usage entry."""

    # The link before it.
    follows: str
    # {organisation: (held, captured, released)}
    deltas: dict[int, list[int]]


class History:
    def __init__(self) -> None:
        # Not yet in the books, in order.
        self.behind: deque[Used] = deque()
        # Where Redis went back and no ledger has looked yet: the last entry that it had then.
        self.fork: str | None = None
        # What the books must find settled when they close the shard; None: nothing is to be closed.
        self.settling: dict[int, int] = {}
        self._entries: dict[str, Used] = {}
        # Of the last entry; None when the stream has just begun anew.
        self._end: str | None = None

    def append(self, entry_id: bytes, fields: list[bytes], deltas: dict[int, list[int]]) -> str:
        """A new entry; what is wrong with it, or ""."""
        follows = fields[9].decode()
        if self._end not in (None, follows):
            return f"a usage entry names {follows} before it, not {self._end}"
        link = hashlib.sha1(b"\n".join((fields[9], entry_id, *fields[1:8:2]))).hexdigest()
        self._entries[link] = Used(follows, deltas)
        self._end = link
        self.behind.append(self._entries[link])
        return ""

    def went_to(self, link: str, fork: str | None) -> None:
        """Redis now ends with this entry, and had this fork then."""
        self._end = link
        self.fork = link if fork is None else fork

    def cleared(self, link: str, applied: str, unheard_close: bool) -> None:
        """The stream, which ended with `link`, begins anew; the books had applied up to `applied`."""
        rest = self.between(applied, link)
        if rest is None and unheard_close:
            rest = self.between(None, link)
        if rest is None and self.fork is not None:
            rest = self.between(self.fork, link)
        self.settling = settled(rest or ())
        self.behind.clear()
        self._end = None
        self.fork = None

    def between(self, first: str | None, last: str) -> deque[Used] | None:
        """The entries after `first` up to `last`, in order; None when `first` is not before `last`.

        No `first`: all of the stream.
        """
        found: deque[Used] = deque()
        while last != first:
            if last not in self._entries:
                return found if first is None else None
            found.appendleft(self._entries[last])
            last = self._entries[last].follows
        return found


def settled(entries: Iterable[Used]) -> dict[int, int]:
    """Units captured and released by these, by organisation."""
    sums: dict[int, int] = {}
    for used in entries:
        for o, (_, captured, released) in used.deltas.items():
            if captured + released:
                sums[o] = sums.get(o, 0) + captured + released
    return sums
