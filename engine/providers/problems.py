"""What a provider sent that was not understood, or meant nothing here: counted by kind, the last few kept.

A provider's new habit shows here first. Each process of the engine notes what it meets, and hands it on
once a second (`engine.boot.problem_flush`).

Every such octet string is counted. Of each kind and provider the newest SAMPLES_KEPT are held between two
collections, cut and not yet looked at; `collect` masks those. So a flood costs a counter and the copy of a
few hundred octets each, and at most SAMPLES_KEPT maskings for each kind of each provider a second.

Killed here: what was noted since the last collection is lost; nothing depends on it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import msgspec

from engine.clocks.store_clock import wall_us
from engine.problem_records import Noted, Problem, ProblemKind
from engine.providers.masking import About, masked_answer, masked_form

# Samples of one kind of one provider that are held at most, and the characters of one.
SAMPLES_KEPT = 5
SAMPLE_CHARACTERS_MAX = 400
# So much of a sample is held until it is masked.
_HELD = 2 * SAMPLE_CHARACTERS_MAX


class _Held(NamedTuple):
    """A sample: microseconds since 1970, our own words, the beginning of what came, what it is about."""

    at_us: int
    lead: str
    octets: bytes | str
    about: About | None


class _Tally:
    __slots__ = ("count", "samples")

    def __init__(self) -> None:
        self.count = 0
        self.samples: deque[_Held] = deque(maxlen=SAMPLES_KEPT)


class Problems:
    """The notes of one process, of all its providers."""

    def __init__(self, now_us: Callable[[], int] = wall_us) -> None:
        """`now_us`: the time, UTC, microseconds since 1970."""
        self._now_us = now_us
        self._tallies: dict[tuple[str, ProblemKind], _Tally] = {}
        self._secrets: set[str] = set()

    def know(self, secrets: Iterable[str]) -> None:
        """Hide these spellings of secrets in every sample, whichever provider it is of."""
        self._secrets.update(secrets)

    def note(
        self,
        provider: str,
        kind: ProblemKind,
        sample: bytes | str,
        about: About | None = None,
        lead: str = "",
    ) -> None:
        """Count one, and hold the beginning of its sample among the newest. Never raises.

        `about`: the message that the sample answers. Without it only the form of the sample is kept.
        `lead`: words of the engine's own, which stand before the sample and are kept as they are.
        """
        tally = self._tallies.get((provider, kind))
        if tally is None:
            tally = self._tallies[provider, kind] = _Tally()
        tally.count += 1
        tally.samples.append(_Held(self._now_us(), lead, sample[:_HELD], about))

    def collect(self) -> list[Noted]:
        """What was noted since the last call, its samples masked; begins anew."""
        tallies, self._tallies = self._tallies, {}
        return [
            Noted(
                provider,
                kind,
                tally.count,
                tuple(Problem(held.at_us, self._shown(held)) for held in tally.samples),
            )
            for (provider, kind), tally in tallies.items()
        ]

    def _shown(self, held: _Held) -> str:
        known = list(self._secrets)
        if held.about is not None:
            shown = masked_answer(held.octets, SAMPLE_CHARACTERS_MAX, held.about, known)
        else:
            shown = masked_form(held.octets, SAMPLE_CHARACTERS_MAX, known)
        return (held.lead + shown)[:SAMPLE_CHARACTERS_MAX]


def joined(earlier: Sequence[Noted], later: Sequence[Noted]) -> list[Noted]:
    """Two collections as one, which is no larger than one: at most SAMPLES_KEPT samples of a kind."""
    found = {(one.provider, one.kind): one for one in earlier}
    for one in later:
        before = found.get((one.provider, one.kind))
        if before is not None:
            samples = (*before.samples, *one.samples)[-SAMPLES_KEPT:]
            one = msgspec.structs.replace(one, count=before.count + one.count, samples=samples)
        found[one.provider, one.kind] = one
    return list(found.values())
