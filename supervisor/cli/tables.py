"""Tables as all commands print them, for the width of the page that they are printed on. Pure.

No heading and no number is broken, however narrow the page is and however long the values are: a number in
two lines is read as two. What is text is folded. When not even that is narrow enough, each row stands below
the one before it, a line for each of its values.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

from rich import box
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from supervisor.output import visible, visible_in_line

# The first column of a table is not folded, unless it takes more characters than that.
_WHOLE_MAX = 40
# A column of text is folded so far that words of so many characters are whole, or of the second where that is
# too wide.
_WORDS = (16, 8)
# Between two columns: as a rule, and where the page is narrow.
_GAP, _GAP_MIN = 3, 2


class Rows:
    """Headings and rows. The columns with their index in `right` are aligned to the right, for numbers."""

    def __init__(
        self, columns: Sequence[str], rows: Iterable[Sequence[str]], right: frozenset[int] = frozenset()
    ) -> None:
        # As they are seen, so that they have the widths that are measured here.
        self._columns = [*map(visible, columns)]
        self._cells = [[*map(visible_in_line, row)] for row in rows]
        self._right = right

    def __bool__(self) -> bool:
        """Whether there is any row."""
        return bool(self._cells)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """As a table, or row below row where the page is too narrow for it."""
        natural = [self._longest(place) for place in range(len(self._columns))]
        gaps = len(natural) - 1
        if sum(natural) + _GAP * gaps <= options.max_width:
            yield self._table(natural, _GAP)
            return
        room = options.max_width - _GAP_MIN * gaps
        for word_max in _WORDS:
            least = [self._least(place, natural[place], word_max) for place in range(len(natural))]
            if sum(least) <= room:
                yield self._table(_shared_out(least, natural, room), _GAP_MIN)
                return
        yield from self._below_each_other()

    def _longest(self, place: int) -> int:
        return max(map(cell_len, [self._columns[place], *(row[place] for row in self._cells)]))

    def _least(self, place: int, natural: int, word_max: int) -> int:
        """How wide a column must be. The first names the row, and is what the next command is given."""
        if place in self._right or (place == 0 and natural <= _WHOLE_MAX):
            cells = natural
        else:
            words = (cell_len(word) for row in self._cells for word in row[place].split())
            cells = min(max(words, default=0), word_max)
        return max([cells, *map(cell_len, self._columns[place].split())])

    def _table(self, widths: Sequence[int], gap: int) -> Table:
        # One of the gap is the space that the box has between columns.
        padding = (0, 1, 0, gap - 2)
        made = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=padding)
        for place, (name, width) in enumerate(zip(self._columns, widths, strict=True)):
            justify: Literal["left", "right"] = "right" if place in self._right else "left"
            made.add_column(name, justify=justify, overflow="fold", width=width)
        for row in self._cells:
            made.add_row(*map(Text, row))
        return made

    def _below_each_other(self) -> Iterable[RenderableType]:
        for number, row in enumerate(self._cells):
            if number:
                yield Text()
            of = Table.grid(padding=(0, 2, 0, 0))
            of.add_column(no_wrap=True)
            of.add_column(overflow="fold")
            for name, cell in zip(self._columns, row, strict=True):
                if cell:
                    of.add_row(Text(name, style="bold"), Text(cell))
            yield of


def _shared_out(least: Sequence[int], natural: Sequence[int], room: int) -> list[int]:
    """The widths of columns that have `room` together: what is left beyond the least is shared alike among
    those that need more."""
    widths, left = [*least], room - sum(least)
    wanting = sorted(range(len(least)), key=lambda place: natural[place] - least[place])
    for number, place in enumerate(wanting):
        more = min(max(0, natural[place] - least[place]), left // (len(wanting) - number))
        widths[place] += more
        left -= more
    return widths


def table(columns: Sequence[str], rows: Iterable[Sequence[str]], right: frozenset[int] = frozenset()) -> Rows:
    """A plain table. The columns with their index in `right` are aligned to the right, for numbers."""
    return Rows(columns, rows, right)


def listing(
    columns: Sequence[str], rows: Iterable[Sequence[str]], right: frozenset[int] = frozenset(), *, none: str
) -> Rows | Text:
    """As `table`; without rows the sentence `none`, for a head alone looks as if something failed."""
    return table(columns, rows, right) or Text(none)
