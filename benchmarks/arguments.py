"""What the arguments of the benchmarks may be: types for argparse, which says what each raises."""

from __future__ import annotations

import math
import os
from argparse import ArgumentParser, ArgumentTypeError, RawDescriptionHelpFormatter
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from engine.capacity import response_times

T = TypeVar("T", bound=float)

# Python reads no number of thousands of digits, and nothing here is as large as this.
_DIGITS_MAX = 15


def parser_of(name: str, explanation: str | None, *, versions: bool = False) -> ArgumentParser:
    """The parser of a benchmark, whose docstring is the explanation. `versions`: it compares versions."""
    parser = ArgumentParser(
        prog=f"benchmarks.{name}", description=explanation, formatter_class=RawDescriptionHelpFormatter
    )
    if versions:
        parser.add_argument("--versions", type=_root, nargs="*", default=[], help="roots of other versions")
    return parser


def count_from_1(text: str) -> int:
    """A whole number from 1 on."""
    return _whole(text, 1)


def count_from_0(text: str) -> int:
    """A whole number from 0 on."""
    return _whole(text, 0)


def more_than_0(text: str) -> float:
    """A number greater than 0."""
    found = _number(text)
    if not found > 0:
        raise ArgumentTypeError(f"must be a number greater than 0, not {text[:40]!r}.")
    return found


def from_0(text: str) -> float:
    """A number, 0 or more."""
    found = _number(text)
    if not found >= 0:
        raise ArgumentTypeError(f"must be a number, 0 or more, not {text[:40]!r}.")
    return found


def share(text: str) -> float:
    """A number from 0 to 1."""
    found = _number(text)
    if not 0 <= found <= 1:
        raise ArgumentTypeError(f"must be a number from 0 to 1, not {text[:40]!r}.")
    return found


def several(one: Callable[[str], T]) -> Callable[[str], list[T]]:
    """Such numbers, with commas between."""
    return lambda text: [one(part.strip()) for part in text.split(",")]


def times(text: str) -> str:
    """The response times of a provider, as `smsengine plan` takes them."""
    try:
        response_times.parse(text)
    except ValueError as e:
        raise ArgumentTypeError(f"{e}.") from e
    return text


def _root(text: str) -> Path:
    """The root of another version of the engine."""
    if not text or not os.path.isdir(os.path.join(text, "engine")):
        raise ArgumentTypeError(f"must be the root of a version, with a folder engine, not {text[:200]!r}.")
    return Path(text)


def folder(text: str) -> Path:
    """Where to write, a folder that is there or can be made."""
    found = Path(text)
    try:
        nearest = next(place for place in (found, *found.absolute().parents) if place.exists())
        fits = text != "" and nearest.is_dir() and os.access(nearest, os.W_OK)
    except (OSError, ValueError):
        # A name that is too long, or none.
        fits = False
    if not fits:
        raise ArgumentTypeError(f"must be a folder that can be written to, not {text[:200]!r}.")
    return found


def words(text: str) -> list[str]:
    """The words of a file, such as the keys in its lines."""
    try:
        return Path(text).read_text(encoding="utf-8").split()
    except (OSError, ValueError) as e:
        raise ArgumentTypeError(f"must be a file that can be read, not {text[:200]!r}.") from e


def _whole(text: str, least: int) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) <= _DIGITS_MAX and int(text) >= least):
        raise ArgumentTypeError(f"must be a whole number, {least} or more, not {text[:40]!r}.")
    return int(text)


def _number(text: str) -> float:
    """The number, NaN for what is none, has no end, or has digits of another script."""
    try:
        found = float(text) if text.isascii() else math.nan
    except ValueError:
        return math.nan
    return found if math.isfinite(found) else math.nan
