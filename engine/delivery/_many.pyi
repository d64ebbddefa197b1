from collections import deque
from collections.abc import Iterable, Sequence

from engine.records import Entry, Message

def messages_of(entries: Iterable[Entry]) -> list[Message]:
    """The message of each."""

def segments_of(entries: Iterable[Entry]) -> int:
    """How many segments their messages have together."""

def take_first(waiting: deque[tuple[Entry, float]], count: int) -> tuple[list[tuple[Entry, float]], int]:
    """Take out the first `count`; they, and how many segments their messages have together. Raises IndexError
    when there are fewer."""

def plain_entries(waiting: list[tuple[Entry, float]], oldest_s: float, now_us: int) -> list[Entry] | None:
    """The entries, if each was read at `oldest_s` or later and is given for the first time, and its message
    has had no send of unknown outcome and is valid at `now_us`; else None."""

def note_begun(
    entries_by_token: dict[int, Entry],
    began_s: dict[int, float],
    entries: Iterable[Entry],
    token: int,
    now_s: float,
) -> None:
    """Note each entry, and when it began, under its token. `token`: that of the first; the others follow."""

def oldest_of(began_s: dict[int, float], tokens: list[int]) -> float | None:
    """When the first of these began; None: there are none, one is not known, or one stands there twice."""

def end_all(
    entries_by_token: dict[int, Entry], began_s: dict[int, float], tokens: list[int], now_s: float
) -> tuple[list[Entry], list[float]]:
    """Take out what was noted under these tokens: the entries, and how long each took until `now_s`, seconds.
    Raises KeyError for one that is not known."""

def ages_of(entries: Iterable[Entry], at_us: int) -> list[int]:
    """How long before `at_us` the message of each was accepted, or due where that is later, microseconds."""

def count_given(entries: Sequence[Entry], messages: dict[int, int], segments: dict[int, int]) -> None:
    """Add up, by shard, how many messages these are and how many segments they have. Raises KeyError for a
    shard that does not stand there."""
