"""From which shards a worker takes what waits, as it reads, and how much of each.

Where messages wait in several shards, each step and each read of a shard costs Redis as much as some tens
of messages. So a read does not ask all for a little. It visits some, and takes of each what is to be sent of
it in a while; the next read visits others. Until then all of it lies in lists, in its organisations' turns,
and a message of somebody who has nothing waiting lies in the stream alone.

Which are visited goes by deficit round robin (M. Shreedhar, G. Varghese: *Efficient Fair Queuing Using
Deficit Round-Robin*, IEEE/ACM Transactions on Networking 4, 1996), in segments, by the weight that waits in
each: those are next to which most is due for what one visit takes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from engine.bundle_format import MESSAGES_MAX
from engine.stores.redis.backlog import MOVED_MAX, Backlog

# A read takes no more than the first, messages, or such a part of what is sent in 20 ms where that is more.
# Redis is there for others in between.
_TAKEN_MIN, _TAKEN_PART = 512, 0.5
# A visit takes what a shard is to give in so many times 20 ms, the second at least and one step at most, or
# what is due to the shard where that is more.
_VISIT, _VISIT_MIN = 5, 8
# What a shard may be ahead of its share of all reads, or behind it, segments; more is forgotten. Two visits
# of long messages come to less.
_OFF_MAX = 8192.0
# So many entries are asked for where nothing is taken, at least. Where a step has made messages ready, in
# bundles of such a part of them, it is twice as many as these are and so many more: what is left in a stream
# lies before the messages of those who do not have to wait.
_LOOK, _BUNDLES, _MORE = 4, 4, 8


class Visits:
    """The visits of one worker to the shards of its queue."""

    def __init__(self, backlog: Backlog) -> None:
        self._backlog = backlog
        # Of the shards that could be visited in the last read: the weight of each, and how many segments it
        # is behind its share of what they all gave so far.
        self._weights: dict[int, int] = {}
        self._behind: dict[int, float] = {}

    def forget(self) -> None:
        """Note that what waits is read in another way: nothing is due to anybody any more."""
        self._weights, self._behind = {}, {}

    def shares(
        self,
        shards: Sequence[int],
        busy: Sequence[int],
        weights: Mapping[int, int],
        count: int,
        entries: int,
        ready_max: int,
    ) -> tuple[list[tuple[list[int], int]], dict[int, int]]:
        """What one read takes: ([(shards, entries of each) …], messages to make ready before, by shard).

        They are about `count` messages at most, which are likely to be so many `entries`. `busy`, `weights`
        and `ready_max`: as of `Backlog.shares`. Beside those that are visited all `shards` are asked for a
        few: what lies there came for somebody who does not have to wait.
        """
        quick = [shard for shard in busy if shard not in weights]
        most = min(count, max(_TAKEN_MIN, int(_TAKEN_PART * ready_max)))
        taken = self._visited({s: weights[s] for s in busy if s in weights}, most, ready_max)
        calm = [shard for shard in shards if shard not in taken and shard not in quick]
        made = max(taken.values())
        bundle = max(1, min(MESSAGES_MAX, made // _BUNDLES))
        reads = [
            (calm, max(_LOOK, entries // (4 * len(shards)))),
            (quick, max(_LOOK, entries // (4 * max(1, len(quick))))),
            (list(taken), max(2 * made // bundle, math.ceil(made * entries / count)) + _MORE),
        ]
        return [(of, some) for of, some in reads if of], taken

    def gave(self, segments: Mapping[int, int]) -> None:
        """Note the segments that the last read gave of each shard."""
        of = self._weights
        whole, got = sum(of.values()), sum(segments.get(shard, 0) for shard in of)
        for shard, weight in of.items():
            behind = self._behind.get(shard, 0.0) + got * weight / whole - segments.get(shard, 0)
            self._behind[shard] = min(max(behind, -_OFF_MAX), _OFF_MAX)

    def _visited(self, weights: dict[int, int], count: int, ready_max: int) -> dict[int, int]:
        """How many of `count` messages are taken of which of these shards."""
        self._weights = weights
        self._behind = {shard: self._behind.get(shard, 0.0) for shard in self._backlog.known}
        if len(weights) == 1:
            return dict.fromkeys(weights, count)
        whole, length = sum(weights.values()), self._backlog.length
        visit, due = {}, {}
        for shard, weight in weights.items():
            part = self._backlog.part_of(shard, ready_max)
            visit[shard] = min(MOVED_MAX, max(_VISIT_MIN, _VISIT * part))
            due[shard] = self._behind.get(shard, 0.0) / length + count * weight / whole
        taken: dict[int, int] = {}
        left = count
        for shard in sorted(weights, key=lambda shard: -due[shard] / visit[shard]):
            some = max(visit[shard], math.ceil(due[shard]))
            # A small rest is left to the next read, so that it is not a visit of its own.
            if not left or (taken and (due[shard] <= 0 or left < some / 2)):
                break
            taken[shard] = min(left, some)
            left -= taken[shard]
        return taken


def is_visited(backlog: Backlog, shard: int) -> bool:
    """Whether what waits in a shard is left there until it is taken: messages wait in it, and in others."""
    return shard in backlog.known and len(backlog.known) > 1


def steps_to(messages: int) -> list[int]:
    """How many messages lie ready after each of the steps that make `messages` ready."""
    return [*range(MOVED_MAX, messages, MOVED_MAX), messages]
