"""Numbers as people and programs write them here: in ASCII.

Python's `int`, `float`, `str.isdecimal` and `\\d` read the digits of every script, the first two also `_`
between them. Nothing else here does: not the stores, not the next program. Phone numbers of recipients are
read in all scripts (`engine.intake.phone_numbers`), and kept in ASCII.
"""

from __future__ import annotations

# Python reads no whole number of thousands of digits, and nothing here is as large.
_DIGITS_MAX = 18


def plural(noun: str, count: float) -> str:
    """The noun as it stands behind the number `count`: "unit" behind 1, "units" behind 0 and 1.5."""
    if abs(count) == 1:
        return noun
    if noun.endswith(("s", "x", "ch")):
        return f"{noun}es"
    return f"{noun[:-1]}ies" if noun[-1] == "y" and noun[-2] not in "aeiou" else f"{noun}s"


def is_whole(text: str) -> bool:
    """Whether the text is a whole number from 0: up to 18 ASCII digits and nothing else."""
    return text.isascii() and text.isdecimal() and len(text) <= _DIGITS_MAX


def real(text: str) -> float:
    """The number, as `float` reads it from ASCII. Raises ValueError for anything else."""
    if not text.isascii() or "_" in text:
        raise ValueError("a number must be written in ASCII digits")
    return float(text)


def whole(text: str) -> int:
    """The whole number, which may be below 0. Raises ValueError for anything else."""
    if not is_whole(text.removeprefix("-")):
        raise ValueError("a whole number must be written in ASCII digits")
    return int(text)
