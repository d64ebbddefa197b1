"""Tables, numbers and times as all commands print them. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from rich import box
from rich.table import Table
from rich.text import Text

# A line of an explanation that is longer was broken because it was full.
_FULL = 60


def table(
    columns: Sequence[str], rows: Iterable[Sequence[str]], right: frozenset[int] = frozenset()
) -> Table:
    """A plain table. The columns with their index in `right` are aligned to the right, for numbers."""
    made = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for place, name in enumerate(columns):
        made.add_column(name, justify="right" if place in right else "left", overflow="fold")
    for row in rows:
        made.add_row(*(Text(cell) for cell in row))
    return made


def listing(
    columns: Sequence[str], rows: Iterable[Sequence[str]], right: frozenset[int] = frozenset(), *, none: str
) -> Table | Text:
    """As `table`; without rows the sentence `none`, for a head alone looks as if something failed."""
    made = table(columns, rows, right)
    return made if made.row_count else Text(none)


def flowing(words: str) -> str:
    """An explanation whose lines end where the page does, not where the source does.

    What the author broke because the line was full is one line again; short lines, such as those of a list,
    and examples stay as they are."""
    lines: list[str] = []
    for line in words.split("\n"):
        before = lines[-1] if lines else ""
        if (
            len(before.rpartition("\n")[2]) > _FULL
            and line.strip()
            and not line.startswith(("[cyan]smsengine", " "))
        ):
            lines[-1] = f"{before} {line}"
        else:
            lines.append(line)
    return "\n".join(lines)


def number(count: int) -> str:
    """The number with a comma before each group of three digits."""
    return f"{count:,}"


def span(ms: int) -> str:
    """A length of time in the unit that fits it: 0, 340 ms, 12 s, 5 min, 3 h, 2 d."""
    if ms < 1000:
        return f"{ms} ms" if ms else "0"
    seconds = ms // 1000
    for limit, unit, name in ((120, 1, "s"), (7200, 60, "min"), (172_800, 3600, "h")):
        if seconds < limit:
            return f"{seconds // unit} {name}"
    return f"{seconds // 86400} d"


def usage_sentence(words: str) -> str:
    """What is wrong with a command line, as the library that reads it said it. Whoever types -5 means a
    number, which the library reads as an option."""
    below = re.fullmatch(r"No such option: (-[0-9].*)", words)
    return f"A number here must not be below 0, as {below[1]} is." if below else words
