"""Rule: which formats the processes read that run beside this one, so that nothing is written too early.

Versions of the engine run side by side on the same stores while nodes are brought from one to the next.
Each process notes the number of the formats that it reads, and looks at those of the others with each
heartbeat (`engine.stores.redis.pulse`). A kind that is newer than the least of them is not written yet: what
is written instead is said where it is written.

To add a kind of event, of usage or of answer, an encoding, or a place where messages wait: count FORMATS
up, and name the kind in SINCE.
A field that is added at the end of a record, with a default, needs neither.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from engine.written_numbers import is_whole

# The number of the formats that this version reads; versions that noted none read 0.
FORMATS = 6
# By kind, the number of the first formats that have it; 0 for those that are not named.
# "line": messages in the lists behind the ready stream of a queue. "pause": lists of organisations that are
# paused and have no turn. "bundle": several messages in an entry of that stream. "canceled": that event.
# "way": messages that are put off in lists of their own, which a worker recalls.
SINCE = {
    "outcome_unknown": 1, "outcome_unknown_released": 1, "line": 2, "pause": 3, "bundle": 4, "canceled": 5,
    "way": 6,
}  # fmt: skip
# A process that has noted nothing for so long is gone, microseconds.
GONE_US = 30_000_000


def note(now_us: int) -> str:
    """What a process notes at `now_us` of itself."""
    return f"{FORMATS} {now_us}"


def gone(notes: Mapping[str, str], now_us: int) -> list[str]:
    """The names of the processes whose notes are too old to count."""
    return [name for name, text in notes.items() if _noted(text)[1] < now_us - GONE_US]


def least(notes: Mapping[str, str], living: Iterable[str], now_us: int) -> int:
    """The number of the formats that every living process reads, at most this version's own.

    `notes`: what processes noted, by name. `living`: holders and workers that are registered; one without
    a note is of a version that noted none.
    """
    old = set(gone(notes, now_us))
    reads = [_noted(text)[0] for name, text in notes.items() if name not in old]
    reads += [0 for name in living if name not in notes]
    return min([FORMATS, *reads])


def _noted(text: str) -> tuple[int, int]:
    """(formats, time) of a note; what is no note is as old as can be."""
    formats, _, at_us = text.partition(" ")
    return (int(formats), int(at_us)) if is_whole(formats) and is_whole(at_us) else (0, 0)
