"""Rule: in how long the last message of an organisation will have left its backlog.

What waits behind the ready stream leaves it at the pace of `engine.limits.pace`, which the organisations of
all shards share. What is put off waits for a provider that takes no more now, and is counted by itself: most
of what left lately may have gone to another, faster one. It is counted for each provider, over all shards:

    it has a throughput                by that
    it has none                        by what was recalled for it in the last ten seconds
    it is paused, or not configured    nobody knows; of all that waits, where no other is left
    nothing was recalled for it lately nobody knows, because it may be broken; unless it takes less than a
                                       segment a second
    the routing plan is not known      nobody knows
    messages move to another plan      by the throughput of the provider that they wait for by each plan; that
                                       nothing was recalled for it says nothing then

Organisations share the streams, and each provider, by their weights. So one that has `s` segments and the
weight `w` is done when each other one has been served `s / w` times its own weight, or all that it has.
Nobody knows what comes meanwhile, or how much of its throughput the provider gives the other queue.

Of what is behind the ready stream such a part will be put off as was put off lately. An organisation is done
when all of that is. Pure.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from engine.limits.pace import DRAIN_S, LinePace


class Way(NamedTuple):
    """What waits in one way of one shard: see `engine.delivery.ways`."""

    number: int
    text: str
    messages: int
    # Of all organisations that wait in it and are not paused.
    weight: float
    # Segments that were recalled from it in about the last `DRAIN_S` seconds and not put back.
    moved: int


class Waits(NamedTuple):
    """What one organisation has waiting."""

    organisation_id: int
    weight: float
    paused: bool
    # Of all of it.
    messages: int
    segments: int
    # Segments that its turns moved in that time, and that were put off in it.
    turned: int
    off: int
    # By the number of a way: messages and segments that are put off there.
    ways: Mapping[int, tuple[int, int]]

    @property
    def behind(self) -> tuple[int, int]:
        """Messages and segments behind the ready stream."""
        return self.messages - sum(
            messages for messages, _ in self.ways.values()
        ), self.segments - self.put_off

    @property
    def put_off(self) -> int:
        """Segments that are put off."""
        return sum(segments for _, segments in self.ways.values())

    @property
    def growth(self) -> float:
        """How many times as much will be put off, as far as what was put off lately tells."""
        put_off = self.put_off
        if not put_off or not self.turned:
            return 1.0
        return 1.0 + (self.segments - put_off) * min(1.0, self.off / self.turned) / put_off


class Behind(NamedTuple):
    """What waits behind the ready stream of one shard, of all organisations that are not paused."""

    messages: int
    line: LinePace


class Shard(NamedTuple):
    """What waits in a queue of one shard; `waits` may have a part of the organisations alone."""

    waits: Sequence[Waits]
    ways: Sequence[Way]
    behind: Behind


def ends_in_ms(shards: Iterable[Shard], takes: Mapping[str, float | None] | None) -> dict[int, int | None]:
    """By organisation, when all that it has will have left, milliseconds from now; None: nobody knows.

    `takes`: the segments a second of each provider that messages may be sent through, None without a
    throughput; those that are paused are not in it. None: the routing plan is not known.
    """
    shards = list(shards)
    if takes is not None and not takes:
        return {waits.organisation_id: None for shard in shards for waits in shard.waits}
    takes = takes or {}
    moves = len({way.text.partition(" ")[0] for shard in shards for way in shard.ways}) > 1
    lanes: dict[str, _Lane] = {}
    for shard in shards:
        for way in shard.ways:
            if name := _taker(way.text, takes):
                lanes.setdefault(name, _Lane(takes[name], moves)).add(way, shard.waits)
    stream = _stream_of(shards)
    found: dict[int, int | None] = {}
    for shard in shards:
        by_number = {way.number: lanes.get(_taker(way.text, takes)) for way in shard.ways}
        for waits in shard.waits:
            found[waits.organisation_id] = _ends_in_ms(waits, by_number, stream)
    return found


def _stream_of(shards: Sequence[Shard]) -> _Stream:
    """What waits behind the ready streams of all shards."""
    shared = _Shared()
    for shard in shards:
        rows = [(*waits.behind, waits.weight, False) for waits in shard.waits if not waits.paused]
        line = shard.behind.line
        shared.add([row for row in rows if row[0]], shard.behind.messages, line.weight)
    return _Stream(sum(shard.behind.line.rate or 0.0 for shard in shards) or None, shared)


def _ends_in_ms(waits: Waits, lanes: Mapping[int, _Lane | None], stream: _Stream) -> int | None:
    """`lanes`: by the numbers of ways."""
    if waits.paused:
        return None
    ends_s = [0.0]
    if behind := waits.behind[1]:
        if stream.rate is None:
            return None
        ends_s.append(stream.shared.served(behind / waits.weight) / stream.rate)
    # Those of one provider wait for one another.
    own: dict[int, tuple[_Lane, float]] = {}
    for number, (_, segments) in waits.ways.items():
        lane = lanes.get(number)
        if lane is None:
            return None
        own[id(lane)] = lane, own.get(id(lane), (lane, 0.0))[1] + segments * waits.growth
    for lane, segments_ in own.values():
        if not (rate := lane.rate):
            return None
        ends_s.append(lane.shared.served(segments_ / waits.weight) / rate)
    return round(max(ends_s) * 1000)


def _taker(text: str, takes: Mapping[str, float | None]) -> str:
    """The provider that the messages of a way would go to now, the first that takes any; "": none."""
    names = text.partition(" ")[2].split(",")
    return next((name for name in names if name in takes), "")


class _Shared:
    """What organisations have waiting that share it by their weights."""

    def __init__(self) -> None:
        # (segments for each weight, segments, weight) of those that share it.
        self._shares: list[tuple[float, float, float]] = []
        # The same in order of the first, and the sums of the others up to each; made when first needed.
        self._order: list[float] = []
        self._sums: list[tuple[float, float]] = []

    def add(self, rows: Iterable[tuple[int, float, float, bool]], messages: int, weight: float) -> None:
        """Add those of whom something waits in one place: of those that are known messages, segments, weight,
        and whether they are paused. `messages`: of all; `weight`: of all that are not paused."""
        segments, known = 0.0, 0
        for its_messages, its_segments, its_weight, paused in rows:
            known, segments = known + its_messages, segments + its_segments
            if not paused:
                weight -= its_weight
                self._share(its_segments, its_weight)
        # The others together, with messages like those that are known.
        if (others := messages - known) > 0 and weight > 0.01:
            self._share(others * (segments / known if known else 1.0), weight)

    def served(self, each: float) -> float:
        """The segments that are sent until everybody has been served `each` times its weight."""
        if not self._order:
            self._shares.sort()
            self._order = [share[0] for share in self._shares]
            done, weight = 0.0, sum(share[2] for share in self._shares)
            self._sums = [(done, weight)]
            for _, segments, of in self._shares:
                done, weight = done + segments, weight - of
                self._sums.append((done, weight))
        done, weight = self._sums[bisect_right(self._order, each)]
        return done + each * max(0.0, weight)

    def _share(self, segments: float, weight: float) -> None:
        self._shares.append((segments / weight, segments, weight))


class _Stream(NamedTuple):
    """What waits behind the ready streams, and the segments a second that leave; None: nobody knows."""

    rate: float | None
    shared: _Shared


class _Lane:
    """What waits for one provider."""

    def __init__(self, throughput: float | None, moves: bool) -> None:
        """`moves`: messages are moving from a plan to the next."""
        self._throughput = throughput
        self._moves = moves
        self._moved = 0
        self.shared = _Shared()

    def add(self, way: Way, waits: Sequence[Waits]) -> None:
        """Add a way, and those of its organisations that are known."""
        self._moved += way.moved
        rows = []
        for one in waits:
            if way.number in one.ways:
                messages, segments = one.ways[way.number]
                rows.append((messages, segments * one.growth, one.weight, one.paused))
        self.shared.add(rows, way.messages, way.weight)

    @property
    def rate(self) -> float | None:
        """Segments a second; None: nobody knows."""
        if self._throughput is None:
            return self._moved / DRAIN_S or None
        return self._throughput if self._moved or self._moves or self._throughput < 1.0 else None
