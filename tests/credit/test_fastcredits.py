"""The credit map does what a plain model of it does."""

from __future__ import annotations

import random
from array import array
from collections import Counter

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from engine._fastcredits import CreditMap

LARGEST = 2**63 - 1


class Model:
    """What the map promises, written for reading."""

    def __init__(self) -> None:
        self.remaining: dict[int, int] = {}
        self.used: Counter[int] = Counter()

    def grant(self, organisation_id: int, units: int) -> None:
        self.remaining[organisation_id] = self.remaining.get(organisation_id, 0) + units

    def reserve(self, organisation_id: int, units: int) -> bool:
        if self.remaining.get(organisation_id, 0) < units:
            return False
        self.remaining[organisation_id] -= units
        self.used[organisation_id] += units
        return True

    def release(self, organisation_id: int, units: int) -> None:
        self.remaining[organisation_id] = self.remaining.get(organisation_id, 0) + units
        self.used[organisation_id] -= units

    def take(self, organisation_id: int) -> int:
        units = self.remaining.get(organisation_id, 0)
        if organisation_id in self.remaining:
            self.remaining[organisation_id] = 0
        return units

    def drain(self) -> dict[int, int]:
        drained = {organisation_id: used for organisation_id, used in self.used.items() if used}
        self.used.clear()
        return drained

    def forget(self, organisation_id: int) -> bool:
        if self.remaining.get(organisation_id) != 0 or self.used[organisation_id]:
            return False
        del self.remaining[organisation_id]
        return True


# Fewer than fill the smallest table twice: it fills up, wraps around, grows and is thinned.
IDS = st.one_of(
    st.integers(0, 90), st.sampled_from([-1, -(2**63), LARGEST, 2**30, 2**30 - 1, 2**60, 2**60 - 1, -(2**30)])
)
UNITS = st.integers(1, 40)


class MapAgainstModel(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.map = CreditMap()
        self.model = Model()
        self.granted: Counter[int] = Counter()
        self.taken: Counter[int] = Counter()
        self.drained: Counter[int] = Counter()
        self.reserved: Counter[int] = Counter()

    @rule(organisation_ids=st.lists(IDS, max_size=60, unique=True), units=st.integers(0, 100))
    def grant(self, organisation_ids: list[int], units: int) -> None:
        for organisation_id in organisation_ids:
            self.map.grant(organisation_id, units)
            self.model.grant(organisation_id, units)
            self.granted[organisation_id] += units

    @rule(organisation_id=IDS, units=UNITS)
    def reserve(self, organisation_id: int, units: int) -> None:
        verdict = self.map.reserve(organisation_id, units)
        assert verdict is self.model.reserve(organisation_id, units)
        self.reserved[organisation_id] += units * verdict

    @rule(pairs=st.lists(st.tuples(IDS, UNITS)), buffers=st.booleans())
    def reserve_batch(self, pairs: list[tuple[int, int]], buffers: bool) -> None:
        ids, units = [p[0] for p in pairs], [p[1] for p in pairs]
        verdicts = self.map.reserve_batch(array("q", ids) if buffers else ids, units)
        assert list(verdicts) == [self.model.reserve(*pair) for pair in pairs]
        for organisation_id, amount, verdict in zip(ids, units, verdicts, strict=True):
            self.reserved[organisation_id] += amount * verdict

    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        open_ids = sorted(i for i, units in self.reserved.items() if units)
        if open_ids:
            organisation_id = data.draw(st.sampled_from(open_ids))
            units = data.draw(st.integers(1, self.reserved[organisation_id]))
            self.map.release(organisation_id, units)
            self.model.release(organisation_id, units)
            self.reserved[organisation_id] -= units

    @rule(organisation_ids=st.lists(IDS))
    def take(self, organisation_ids: list[int]) -> None:
        for organisation_id in organisation_ids:
            units = self.map.take(organisation_id)
            assert units == self.model.take(organisation_id)
            self.taken[organisation_id] += units

    @rule()
    def drain(self) -> None:
        drained = self.map.drain()
        assert len(dict(drained)) == len(drained)
        assert dict(drained) == self.model.drain()
        self.drained.update(dict(drained))

    @rule(organisation_ids=st.lists(IDS))
    def forget(self, organisation_ids: list[int]) -> None:
        for organisation_id in organisation_ids:
            assert self.map.forget(organisation_id) is self.model.forget(organisation_id)

    @rule()
    def take_and_forget_all(self) -> None:
        for organisation_id, _ in self.map.items():
            self.take([organisation_id])
            self.forget([organisation_id])

    @rule()
    def drop(self) -> None:
        assert dict(self.map.drop()) == self.model.remaining
        MapAgainstModel.__init__(self)

    @invariant()
    def agrees(self) -> None:
        items = self.map.items()
        assert len(items) == len(self.map) == len(self.model.remaining)
        assert dict(items) == self.model.remaining
        for organisation_id, remaining in self.model.remaining.items():
            assert organisation_id in self.map
            assert self.map.remaining(organisation_id) == remaining
            assert remaining >= 0

    @invariant()
    def conserves(self) -> None:
        for organisation_id, granted in self.granted.items():
            used = self.model.used[organisation_id] + self.drained[organisation_id]
            unspent = self.map.remaining(organisation_id)
            assert granted == unspent + used + self.taken[organisation_id]


TestMapAgainstModel = MapAgainstModel.TestCase
TestMapAgainstModel.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


@pytest.mark.parametrize("seed", range(4))
def test_a_long_life_of_growing_and_thinning_agrees_with_the_model(seed: int) -> None:
    rng = random.Random(seed)
    credits_, model = CreditMap(), Model()
    pool = [
        rng.randrange(-(2**63), 2**63) if rng.random() < 0.5 else rng.randrange(5000) for _ in range(4000)
    ]
    for step in range(60_000):
        organisation_id, units = rng.choice(pool), rng.randrange(1, 5)
        action = rng.random()
        if action < 0.3:
            credits_.grant(organisation_id, units)
            model.grant(organisation_id, units)
        elif action < 0.6:
            assert credits_.reserve(organisation_id, units) is model.reserve(organisation_id, units)
        elif action < 0.95:
            assert credits_.take(organisation_id) == model.take(organisation_id)
            assert credits_.forget(organisation_id) is model.forget(organisation_id)
        elif step % 50 == 0:
            assert dict(credits_.drain()) == model.drain()
    assert dict(credits_.items()) == model.remaining
    assert dict(credits_.drain()) == model.drain()


def test_growing_loses_no_organisation() -> None:
    # Small tables many times over: what is difficult happens at a table's two ends.
    for seed in range(2000):
        ids = random.Random(seed).sample(range(2**40), 100)
        credits_ = CreditMap()
        for organisation_id in ids:
            credits_.grant(organisation_id, 1)
        assert credits_.reserve_batch(ids, [1] * len(ids)) == b"\x01" * len(ids)
        assert len(credits_) == len(ids)


def test_an_unknown_organisation_has_nothing() -> None:
    credits_ = CreditMap()
    assert (credits_.remaining(7), credits_.take(7), credits_.reserve(7, 1), 7 in credits_) == (
        0,
        0,
        False,
        False,
    )
    assert credits_.forget(7) is False
    assert (len(credits_), credits_.drain(), credits_.items(), credits_.drop()) == (0, [], [], [])


def test_id_zero_is_an_organisation_like_any_other() -> None:
    credits_ = CreditMap()
    assert 0 not in credits_
    assert credits_.reserve(0, 1) is False
    credits_.grant(0, 1)
    assert 0 in credits_
    assert credits_.reserve(0, 1) is True
    assert credits_.drain() == [(0, 1)]


def test_a_grant_of_nothing_makes_the_organisation_known() -> None:
    credits_ = CreditMap()
    credits_.grant(7, 0)
    assert credits_.items() == [(7, 0)]
    assert credits_.forget(7) is True
    assert credits_.items() == []


def test_a_release_after_the_drain_is_drained_as_a_negative_amount() -> None:
    credits_ = CreditMap()
    credits_.grant(7, 10)
    credits_.reserve(7, 6)
    assert credits_.drain() == [(7, 6)]
    credits_.release(7, 2)
    assert credits_.remaining(7) == 6
    assert credits_.drain() == [(7, -2)]


def test_a_release_after_the_organisation_was_forgotten_keeps_its_units() -> None:
    credits_ = CreditMap()
    credits_.grant(7, 10)
    credits_.reserve(7, 10)
    credits_.drain()
    assert credits_.forget(7) is True
    credits_.release(7, 10)
    assert (credits_.remaining(7), credits_.drain()) == (10, [(7, -10)])


def test_what_was_reserved_and_released_is_not_drained_and_can_be_forgotten() -> None:
    credits_ = CreditMap()
    for organisation_id in (6, 7, 8):
        credits_.grant(organisation_id, 5)
        credits_.reserve(organisation_id, 5)
    credits_.release(7, 5)
    assert credits_.take(7) == 5
    # Many times over: the list of touched organisations has room for each only once.
    for _ in range(1000):
        assert credits_.forget(7) is True
        credits_.grant(7, 1)
        credits_.reserve(7, 1)
        credits_.release(7, 1)
        credits_.take(7)
    assert sorted(credits_.drain()) == [(6, 5), (8, 5)]


def test_an_organisation_with_undrained_usage_is_not_forgotten() -> None:
    credits_ = CreditMap()
    credits_.grant(7, 3)
    credits_.reserve(7, 3)
    assert credits_.forget(7) is False
    credits_.drain()
    assert credits_.forget(7) is True


def test_a_dropped_map_starts_anew() -> None:
    credits_ = CreditMap()
    small = credits_.memory_bytes
    for organisation_id in range(1000):
        credits_.grant(organisation_id, 2)
        credits_.reserve(organisation_id, 1)
    assert credits_.memory_bytes > small
    assert sorted(credits_.drop()) == [(organisation_id, 1) for organisation_id in range(1000)]
    assert (len(credits_), credits_.drain(), credits_.memory_bytes) == (0, [], small)
    credits_.grant(3, 1)
    assert credits_.items() == [(3, 1)]


def test_a_batch_takes_lists_tuples_iterators_and_buffers_alike() -> None:
    ids, units, expected = [1, 2, 1, 3], [2, 1, 2, 1], b"\x01\x00\x00\x00"
    for form in (list, tuple, iter, lambda x: array("q", x), lambda x: memoryview(array("q", x))):
        credits_ = CreditMap()
        credits_.grant(1, 3)
        assert credits_.reserve_batch(form(ids), form(units)) == expected
        assert credits_.items() == [(1, 1)]


@pytest.mark.parametrize("count", [0, 1, 511, 512, 513, 5000])
def test_a_batch_of_any_length_says_what_single_calls_say(count: int) -> None:
    rng = random.Random(count)
    whole, single = CreditMap(), CreditMap()
    # Beyond the second-level cache, where a batch fetches ahead.
    for organisation_id in range(60_000):
        whole.grant(organisation_id, 4)
        single.grant(organisation_id, 4)
    ids = [rng.randrange(61_000) if rng.random() < 0.5 else rng.randrange(50) for _ in range(count)]
    units = [rng.randrange(1, 4) for _ in range(count)]
    verdicts = whole.reserve_batch(array("q", ids), units)
    assert list(verdicts) == [single.reserve(i, u) for i, u in zip(ids, units, strict=True)]
    assert whole.items() == single.items()
    assert whole.drain() == single.drain()
