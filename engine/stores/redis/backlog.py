"""Which shards have messages behind their ready stream, as Redis said last, and how much is read of each.

The shards that have more than was asked for share a read by the weight that waits in each. What they were
given is counted in segments, as in the turns of a line, and compared with the share that each should have of
the sum. A shard that is ahead is asked for less the next time, and one that is behind for more, also where
its stream had no more. So organisations share a queue by their weights also when they belong to different
shards.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from engine.delivery._many import count_given
from engine.records import Entry

# The weight of a shard that has more than was asked for, and nobody who waits for a turn: that of one
# organisation, in tenths.
_WEIGHT = 10
# What a shard may be ahead of its share of all reads, or behind it, segments; more is forgotten. It is asked
# for so many times its share of one read at least, and at most: a shard that gives little does not keep the
# others from being read.
_OFF_MAX = 256.0
_ASKED_MIN, _ASKED_MAX = 0.5, 2.0
# A part of what lies ready that comes to more than the first, messages, is the second, or the third times as
# large where that is less. Redis does more for a message in a smaller stream, whose bundles and turns are
# smaller.
_PART_MIN, _PART, _LARGER = 24, 128, 2.5
# So many messages a step moves to a ready stream (MOVED_MAX in functions/queue).
MOVED_MAX = 256


class Backlog:
    """The shards of one queue where messages wait behind the ready stream, as far as one worker knows."""

    def __init__(self) -> None:
        # The weight that waits in each, tenths, where it was said since the last read.
        self._weights: dict[int, int] = {}
        # How many messages the steps that were written since the last read can move to the stream of a shard,
        # as far as messages wait; and how many that read gave of it.
        self._filled: dict[int, int] = {}
        self._taken: dict[int, int] = {}
        # The weight that waits in each, tenths, as it was said last.
        self.known: dict[int, int] = {}
        # Of the shards that shared the last read: the weight of each, how many segments it is behind its
        # share of what they all were given so far, and the segments of one entry of it.
        self._sharing: dict[int, int] = {}
        self._behind: dict[int, float] = {}
        self._segments: dict[int, float] = {}
        # The segments of one message in the last read.
        self.length = 1.0
        # What each was asked for in the last read.
        self._asked: dict[int, int] = {}

    def __bool__(self) -> bool:
        """Whether Redis has spoken of any since `take`."""
        return bool(self._weights)

    def take(self) -> tuple[dict[int, int], list[int]]:
        """(the shards with the weight that waits in each, in order; those of them whose streams a read has to
        fill first). They are forgotten until Redis speaks of them again."""
        weights, self._weights = dict(sorted(self._weights.items())), {}
        filled, self._filled = self._filled, {}
        taken = self._taken
        return weights, [s for s in weights if s not in filled or filled[s] < taken.get(s, 0)]

    def calm(self, shards: Iterable[int]) -> list[int]:
        """Those of `shards` where nobody waited when Redis spoke of them last."""
        return [shard for shard in shards if shard not in self.known and shard not in self._weights]

    def note(self, shards: Iterable[int], waiting: Iterable[Any]) -> None:
        """Note what weight waits in each of `shards`; no number, because Redis refused: none."""
        for shard, weight in zip(shards, waiting, strict=True):
            if isinstance(weight, int) and weight:
                self._weights[shard] = self.known[shard] = weight
            else:
                self._weights.pop(shard, None)
                self.known.pop(shard, None)

    def part_of(self, shard: int, messages: int) -> int:
        """The part of `messages` of the queue that is for `shard`, rounded up so that it seldom changes.

        Shards that have a backlog are read by the weight that waits in each, so it is divided alike. Another
        has its part as if it were one of them.
        """
        known = self.known
        of = known.get(shard)
        if not known or (of is not None and len(known) == 1):
            return messages
        part = messages / (len(known) + 1) if of is None else messages * of / sum(known.values())
        # To three binary digits.
        digit = 1 << max(0, math.ceil(math.log2(part)) - 3)
        return digit * math.ceil(part / digit)

    def ready_of(self, shard: int, ready_max: int) -> int:
        """How many of `ready_max` messages shall lie ready in the stream of `shard`.

        No less than its part, because shards are read no faster than the one that has the least ready for its
        weight. Where small parts of many would make small bundles, they are larger.
        """
        part = self.part_of(shard, ready_max)
        if part == ready_max or part <= _PART_MIN:
            return part
        return max(part, 1 << round(math.log2(min(_PART, _LARGER * part))))

    def keep(self, weights: Mapping[int, int]) -> None:
        """Note what weight was said to wait in these shards, unless Redis has spoken of them since."""
        self._weights = {**weights, **self._weights}

    def fills(self, shards: Iterable[int]) -> None:
        """Note that a step is written that fills the streams of these shards before any read that follows."""
        for shard in shards:
            self._filled[shard] = self._filled.get(shard, 0) + MOVED_MAX

    def counted(self, shards: Iterable[int], replies: Sequence[Sequence[int]]) -> int:
        """Note what waits, from replies [count, weight behind the stream]; the sum of the counts."""
        self.note(shards, [waiting for _, waiting in replies])
        return sum(count for count, _ in replies)

    def shares(
        self,
        shards: Sequence[int],
        busy: Sequence[int],
        weights: Mapping[int, int],
        count: int,
        ready_max: int = 1 << 30,
    ) -> list[tuple[list[int], int]]:
        """How many entries to read from which streams: [(shards, entries of each) …].

        Together they are at most `count` and one for each shard, because COUNT of XREADGROUP counts for
        each stream. `busy` are the shards that have more. They share three quarters of `count` at least, by
        `weights`, tenths, and some may have to wait for the next read; the others are asked for a few. When
        none is busy, all are asked for an equal share.

        Beside shards where somebody waits, a busy one where nobody does has few entries, and these are read
        at once. It has no share of the read, most of which it could not fill: such shards are asked for a
        quarter together, and those where somebody waits for half at least.

        Of several where somebody waits no more is read than all have ready in proportion, when `ready_max`
        messages shall lie ready: beyond that each would give what its stream holds, whatever its weight.
        """
        self._asked = {}
        if not busy:
            self._sharing, self._behind = {}, {}
            return [(list(shards), max(1, count // len(shards)))]
        sharing = [shard for shard in busy if shard in weights] or busy
        quick = [shard for shard in busy if shard not in sharing]
        calm = [shard for shard in shards if shard not in busy]
        look = max(1, count // (4 * len(shards)))
        # What comes where nobody waits is served at once, so it is not sent behind what is read with it.
        reads = [(calm, look)] if calm else []
        most = count // 4
        if quick:
            reads.append((quick, max(1, count // (4 * len(quick)))))
            most = count // 2
        # Of few entries of many messages, one for each of these would leave nothing for the others.
        looks = sum(len(of) * share for of, share in reads)
        self._asked = self._divided(sharing, weights, count - min(looks, most), ready_max)
        by_share: dict[int, list[int]] = {}
        for shard, share in self._asked.items():
            by_share.setdefault(share, []).append(shard)
        return reads + [(of, share) for share, of in by_share.items() if share]

    def waited(self) -> list[int]:
        """The busy shards that the last read did not ask."""
        return [shard for shard, share in self._asked.items() if not share]

    def gave(self, entries: Mapping[int, int], messages: Sequence[Entry]) -> dict[int, int]:
        """Note what a read gave: how many entries of each shard, and their messages. The segments of each."""
        segments, self._taken = dict.fromkeys(entries, 0), dict.fromkeys(entries, 0)
        count_given(messages, self._taken, segments)
        self.given(entries, segments)
        if messages:
            self.length = sum(segments.values()) / len(messages)
        return segments

    def given(self, entries: Mapping[int, int], segments: Mapping[int, int]) -> None:
        """Note what a read gave of each shard: entries and segments."""
        of = self._sharing
        whole, got = sum(of.values()), sum(segments.get(shard, 0) for shard in of)
        for shard, weight in of.items():
            own = segments.get(shard, 0)
            if entries.get(shard):
                self._segments[shard] = max(own, 1) / entries[shard]
            self._behind[shard] += got * weight / whole - own

    def _divided(
        self, busy: Sequence[int], weights: Mapping[int, int], count: int, ready_max: int
    ) -> dict[int, int]:
        """By shard, how many of `count` entries are read of it."""
        self._sharing = of = {shard: weights.get(shard, _WEIGHT) for shard in busy}
        whole = sum(of.values())
        size = {shard: self._segments.get(shard, 1.0) for shard in busy}
        # So many segments that the shares come to `count` entries.
        entries = sum(weight / whole / size[shard] for shard, weight in of.items())
        segments = count / entries
        if len(of) > 1 and weights:
            ready = min(self.ready_of(shard, ready_max) / weight for shard, weight in of.items())
            segments = min(segments, self.length * ready * whole)
            count = min(count, math.ceil(segments * entries))
        # One alone is ahead of nobody.
        before, self._behind = self._behind if len(of) > 1 else {}, {}
        wanted, bounded = {}, {}
        for shard, weight in of.items():
            share = segments * weight / whole
            self._behind[shard] = min(max(before.get(shard, 0.0), -_OFF_MAX), _OFF_MAX)
            wanted[shard] = share + self._behind[shard]
            bounded[shard] = min(max(wanted[shard], _ASKED_MIN * share), _ASKED_MAX * share) / size[shard]
        part = count / sum(bounded.values())
        asked = {shard: int(part * some) for shard, some in bounded.items()}
        # Parts of entries that come to whole ones go to the shards to which most is owed.
        left = count - sum(asked.values())
        behind = sorted(of, key=lambda shard: asked[shard] - wanted[shard] / size[shard])
        for shard in behind[:left]:
            asked[shard] += 1
        return asked
