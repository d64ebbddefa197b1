"""What one process could spend: its credit map, watched."""

from __future__ import annotations

from typing import Any, Protocol

from engine._fastcredits import CreditMap
from engine.shards import shard_of
from tests.simulation.clock import Process


class Totals(Protocol):
    """Units of each organisation, everywhere (see checkers.Truth)."""

    shards: int
    sums: dict[int, Any]

    def changed(self, organisation_id: int) -> None: ...


class Holding:
    """Counts a process's quota and reservations in the truth while its epoch lives.

    An epoch lives from the moment the process knows of it, for as long as Redis has
    neither fenced it nor given another to the same name.
    """

    def __init__(self, truth: Totals, process: Process) -> None:
        self.truth = truth
        self.process = process
        self.name = process.name
        self.left: dict[int, int] = {}
        self.reserved: dict[int, int] = {}
        # By shard: the epoch that Redis has for the name, and whether we count.
        self._epochs = [0] * truth.shards
        self._lives = [False] * truth.shards
        # Units that were counted as held, by flush (shard, epoch, sequence) and organisation.
        self._admitted: dict[tuple[int, ...], dict[int, int]] = {}
        # The same of flushes that Redis has lost.
        self._lost: dict[tuple[int, ...], dict[int, int]] = {}
        self._shard_of: dict[int, int] = {}

    def void(self, shard: int, epoch: int) -> None:
        """Redis now has another epoch for this name; ours is over."""
        self._epochs[shard] = epoch
        if self._lives[shard]:
            self._lives[shard] = False
            self._count(shard, -1)

    def killed(self) -> None:
        for shard in range(self.truth.shards):
            self.void(shard, -1)

    def change(self, organisation_id: int, left: int, reserved: int) -> None:
        shard = self._shard_of.get(organisation_id)
        if shard is None:
            shard = self._shard_of[organisation_id] = shard_of(organisation_id, self.truth.shards)
        lives = self._lives[shard] or self._comes_to_life(shard)
        self.left[organisation_id] = self.left.get(organisation_id, 0) + left
        self.reserved[organisation_id] = self.reserved.get(organisation_id, 0) + reserved
        if lives:
            sums = self.truth.sums[organisation_id]
            sums.m += left
            sums.r += reserved
            self.truth.changed(organisation_id)

    def went_back(self, shard: int, epoch: int, applied: str) -> None:
        """Redis has another epoch for this name, perhaps an earlier one that is ours again.

        `applied`: the last flush that it remembers, `epoch:sequence`.
        """
        self.void(shard, epoch)
        self._recount(shard, applied)
        self._comes_to_life(shard)

    def _recount(self, shard: int, applied: str) -> None:
        """A flush that Redis has lost and that was not answered comes again or is withdrawn: its units are
        reserved until then, or until Redis goes to a moment at which it had the flush."""
        quota = self.process.quota
        flush = quota._commits.outboxes[shard].under_way if quota is not None else None
        if flush is None:
            return
        there = applied == f"{flush.epoch}:{flush.sequence}"
        before, after = (self._lost, self._admitted) if there else (self._admitted, self._lost)
        named = (shard, flush.epoch, flush.sequence)
        if named in before:
            after[named] = before.pop(named)
            for organisation_id, units in after[named].items():
                self.reserved[organisation_id] -= units if there else -units

    def admitted(self, flush: tuple[int, ...], held: dict[int, int]) -> None:
        """What was reserved is held in Redis now. Once for each flush, which may come more than once."""
        if flush in self._admitted:
            return
        lives = {o for o in held if self._lives[shard_of(o, self.truth.shards)]}
        self._admitted[flush] = {o: units for o, units in held.items() if o in lives}
        for organisation_id, units in self._admitted[flush].items():
            self.reserved[organisation_id] -= units
            self.truth.sums[organisation_id].r -= units

    def dropped(self) -> None:
        for shard, lives in enumerate(self._lives):
            if lives:
                self._count(shard, -1)
        self.left.clear()
        self.reserved.clear()

    def _comes_to_life(self, shard: int) -> bool:
        if not self.process.alive or self.process.quota is None:
            return False
        if self.process.quota._commits.outboxes[shard]._epoch != self._epochs[shard]:
            return False
        self._lives[shard] = True
        self._count(shard, 1)
        return True

    def _count(self, shard: int, sign: int) -> None:
        for o in sorted(self.left.keys() | self.reserved.keys()):
            if self._shard_of[o] == shard:
                sums = self.truth.sums[o]
                sums.m += sign * self.left.get(o, 0)
                sums.r += sign * self.reserved.get(o, 0)
                self.truth.changed(o)


class WatchedMap:
    """The real `CreditMap`, reporting to the process's holding."""

    def __init__(self, holding: Holding, current: Any) -> None:
        self._map = CreditMap()
        self._holding = holding
        # The request that is being answered, if any.
        self._current = current
        self.forget = self._map.forget
        self.drain = self._map.drain
        self.remaining = self._map.remaining
        self.items = self._map.items

    def grant(self, organisation_id: int, units: int) -> None:
        self._map.grant(organisation_id, units)
        self._holding.change(organisation_id, units, 0)

    def reserve(self, organisation_id: int, units: int) -> bool:
        if not self._map.reserve(organisation_id, units):
            return False
        request = self._current.get()
        if request is not None:
            request.own += units
        self._holding.change(organisation_id, -units, units)
        return True

    def release(self, organisation_id: int, units: int) -> None:
        self._map.release(organisation_id, units)
        request = self._current.get()
        if request is not None:
            request.own -= units
        self._holding.change(organisation_id, units, -units)

    def take(self, organisation_id: int) -> int:
        units = self._map.take(organisation_id)
        if units:
            self._holding.change(organisation_id, -units, 0)
        return units

    def drop(self) -> list[tuple[int, int]]:
        self._holding.dropped()
        return self._map.drop()
