"""What a provider sent that was not understood, or meant nothing here: counted by kind, the last few kept.

A provider's new habit shows here first. Counting is for every such octet string; of each kind and
provider at most SAMPLES_KEPT samples are held between two collections, cut to SAMPLE_OCTETS and masked,
so that a flood costs a counter.

Killed here: what was noted since the last collection is lost; nothing depends on it.
"""

from __future__ import annotations

import enum
import re
import time
from collections import deque
from typing import NamedTuple

import msgspec

# Samples of one kind of one provider that are held at most, and the octets of one.
SAMPLES_KEPT = 5
SAMPLE_OCTETS = 400


class ProblemKind(enum.StrEnum):
    """What was not understood."""

    # A delivery or a pushed receipt that looks like a receipt and cannot be read, or names no message.
    receipt_unread = "receipt_unread"
    # A receipt with a state that neither the standard nor the provider's `states` has.
    receipt_state = "receipt_state"
    # A text in the form of a receipt, not marked as one, from a provider that is not set to send such.
    receipt_unmarked = "receipt_unmarked"
    # A receipt for which no message was found.
    receipt_unmatched = "receipt_unmatched"
    # An answer to a send of which it is not clear whether the message was taken.
    answer_unread = "answer_unread"
    # A refusal that is not in the provider's own words: a proxy's page, for example.
    refusal_foreign = "refusal_foreign"
    # A PDU that breaks the protocol, or an HTTP answer that does.
    protocol_broken = "protocol_broken"


class Problem(NamedTuple):
    """One sample: microseconds since 1970, and printable text, masked and cut."""

    at_us: int
    sample: str


class Noted(msgspec.Struct, frozen=True):
    """What was noted of one kind of one provider since the last collection; the newest samples last."""

    provider: str
    kind: ProblemKind
    count: int
    samples: tuple[Problem, ...]


class _Tally:
    __slots__ = ("count", "samples")

    def __init__(self) -> None:
        self.count = 0
        self.samples: deque[Problem] = deque(maxlen=SAMPLES_KEPT)


class Problems:
    """The notes of one process, of all its providers."""

    def __init__(self) -> None:
        self._tallies: dict[tuple[str, ProblemKind], _Tally] = {}

    def note(self, provider: str, kind: ProblemKind, sample: bytes | str) -> None:
        """Count one, and keep its sample among the newest. Never raises."""
        tally = self._tallies.get((provider, kind))
        if tally is None:
            tally = self._tallies[provider, kind] = _Tally()
        tally.count += 1
        tally.samples.append(Problem(time.time_ns() // 1000, masked(sample)))

    def collect(self) -> list[Noted]:
        """What was noted since the last call; begins anew."""
        noted = [Noted(*key, tally.count, tuple(tally.samples)) for key, tally in self._tallies.items()]
        self._tallies.clear()
        return noted


_DIGITS = re.compile(r"\d{7,}")


def masked(sample: bytes | str) -> str:
    """A sample as printable text of at most SAMPLE_OCTETS characters, without numbers of telephones."""
    text = sample[:SAMPLE_OCTETS]
    if isinstance(text, bytes):
        text = text.decode("ascii", "backslashreplace")
    printable = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return _DIGITS.sub(lambda found: found[0][:3] + "***", printable)[:SAMPLE_OCTETS]
