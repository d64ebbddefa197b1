"""Rule: the records of a CSV text, each on its own: a quote that went wrong costs one line, not the rest.

The format is that of RFC 4180, with any delimiter. A field in quotes may hold line breaks, so a quote
that nobody closes would take all lines up to the next one with it. Therefore a record that cannot be read
is given up with its first line, and reading goes on at the line after it. A record of several
lines is also given up when one of them would be a message by itself: it was swallowed, most likely.
"""

from __future__ import annotations

import csv
import re
from collections import deque
from collections.abc import Callable, Collection, Iterator
from typing import NamedTuple

# A text of 10 segments has 1,530 characters at most; a field that goes on for longer is not closed.
_LINES_MAX, _CHARACTERS_MAX = 50, 20_000
_DELIMITERS = ",;\t|"
# The first line that spreadsheets write, or want, where the comma is the decimal point.
_SEP = re.compile(r'"?sep=(.)"?[\r\n]*', re.IGNORECASE | re.DOTALL)
_NOT_CLOSED = "a quote opens a field and is not closed"
_REASONS = {
    "unexpected end of data": _NOT_CLOSED,
    "expected after": 'a quote within a field in quotes must be doubled ("")',
    "field larger": "it has a field of more than 131,072 characters",
}


class Record(NamedTuple):
    """One record; without cells it is the line that could not be read, and `reason` says why."""

    # Of its first line, from 1.
    number: int
    cells: list[str]
    reason: str = ""


class Records:
    """Iterates once over the records of `lines`, texts with their line ends.

    `delimiter` may be set before the first record is read. `is_record` says of the cells of a line whether
    they are a whole record by themselves; it is asked about the lines within a field in quotes.
    """

    def __init__(self, lines: Iterator[str]) -> None:
        self.delimiter = ","
        self.is_record: Callable[[list[str]], bool] = lambda cells: False
        self._lines = lines
        self._again: deque[str] = deque()
        self._number = 0

    def first_line(self) -> str:
        """The line that is read next, "" at the end."""
        if not self._again:
            self._again.extend(line for line in [next(self._lines, "")] if line)
        return self._again[0] if self._again else ""

    def skip_line(self) -> None:
        """Pass over the line that would be read next."""
        self.first_line()
        self._again.popleft()
        self._number += 1

    def __iter__(self) -> Iterator[Record]:
        return self

    def __next__(self) -> Record:
        number = self._number + 1
        taken: list[str] = []
        try:
            cells = next(csv.reader(self._taking(taken), delimiter=self.delimiter, strict=True))
            swallowed = len(taken) > 1 and any(map(self._stands_alone, taken[1:]))
            reason = _NOT_CLOSED if swallowed else ""
        except csv.Error as e:
            cells, reason = [], next((r for part, r in _REASONS.items() if part in str(e)), str(e))
        if reason:
            self._again.extendleft(reversed(taken[1:]))
            del taken[1:]
        self._number += len(taken)
        return Record(number, [] if reason else cells, reason)

    def _taking(self, taken: list[str]) -> Iterator[str]:
        characters = 0
        while len(taken) < _LINES_MAX and characters < _CHARACTERS_MAX:
            line = self._again.popleft() if self._again else next(self._lines, "")
            if not line:
                return
            taken.append(line)
            characters += len(line)
            yield line

    def _stands_alone(self, line: str) -> bool:
        try:
            return self.is_record(next(csv.reader([line], delimiter=self.delimiter, strict=True), []))
        except csv.Error:
            return False


def delimiter_of(line: str, names: Collection[str]) -> tuple[str, bool]:
    """The delimiter by the first line of a file, and whether that line does nothing but name it.

    Of comma, semicolon, tab and bar it is the one that makes most of the column `names` of the line.
    """
    if named := _SEP.fullmatch(line):
        return named[1], True
    found = {d: sum(column_name(cell) in names for cell in line.split(d)) for d in _DELIMITERS}
    return max(found, key=lambda d: found[d]), False


def column_name(cell: str) -> str:
    """The name in a cell of the header: "Send at" is `send_at`."""
    return re.sub(r"[\s-]+", "_", cell.strip("\ufeff\"'= \t\r\n\xa0").lower())
