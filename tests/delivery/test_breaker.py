"""The circuit breaker: what opens it, what closes it, and what it lets through."""

from __future__ import annotations

import math

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from engine.delivery.breaker import PAUSE_MAX_S, WINDOW, Breaker
from engine.records import VerdictKind


def told(breaker: Breaker, kind: VerdictKind, now_s: float = 0.0) -> None:
    """One message, begun and ended at once."""
    assert breaker.usable(now_s)
    breaker.began(now_s)
    breaker.ended(kind, now_s, now_s)


def state_of(breaker: Breaker) -> str:
    """As a plain string: the checker of types takes it for unchanged between two calls."""
    return breaker.state


def opened(failures: int = 3, pause_s: float = 2.0, now_s: float = 0.0) -> Breaker:
    breaker = Breaker(failures=failures, pause_s=pause_s)
    for _ in range(failures):
        told(breaker, "temporary", now_s)
    assert state_of(breaker) == "open"
    return breaker


@pytest.mark.parametrize("kind", ["temporary", "unknown"])
def test_so_many_failures_in_a_row_open_it(kind: VerdictKind) -> None:
    breaker = Breaker(failures=3, pause_s=2)
    told(breaker, kind)
    told(breaker, kind)
    assert breaker.usable(0)
    told(breaker, kind)
    assert not breaker.usable(0)
    assert breaker.closed_for(0.5) == 1.5


@pytest.mark.parametrize("kind", ["accepted", "permanent"])
def test_a_carrier_that_answers_begins_the_row_anew(kind: VerdictKind) -> None:
    breaker = Breaker(failures=3, pause_s=2)
    for _ in range(8):
        told(breaker, "unknown")
        told(breaker, "temporary")
        told(breaker, kind)
    assert state_of(breaker) == "closed"


def test_haste_of_ours_counts_neither_way() -> None:
    breaker = Breaker(failures=3, pause_s=2)
    for _ in range(1000):
        told(breaker, "throttled")
    told(breaker, "unknown")
    told(breaker, "unknown")
    told(breaker, "throttled")
    assert state_of(breaker) == "closed"
    told(breaker, "unknown")
    assert state_of(breaker) == "open", "the row goes on over what was throttled"


def test_a_large_share_of_failures_opens_it_though_few_are_in_a_row() -> None:
    breaker = Breaker(failures=1000, pause_s=2)
    for n in range(WINDOW - 1):
        told(breaker, "accepted" if n % 2 else "unknown")
    assert state_of(breaker) == "closed", "fewer than a window are not judged so"
    told(breaker, "unknown")
    assert state_of(breaker) == "open"


def test_a_smaller_share_does_not_open_it_and_old_failures_are_forgotten() -> None:
    breaker = Breaker(failures=1000, pause_s=2)
    for n in range(20 * WINDOW):
        told(breaker, "unknown" if n % 3 == 0 else "accepted")
    assert state_of(breaker) == "closed"


def test_after_the_pause_one_message_at_a_time_tries_and_a_success_closes_it() -> None:
    breaker = opened()
    assert not breaker.usable(1.999)
    assert breaker.usable(2.0)
    breaker.began(2.0)
    assert not breaker.usable(2.0)
    assert breaker.closed_for(2.0) > 0
    breaker.ended("accepted", 2.5, 2.0)
    assert breaker.usable(2.5)
    assert breaker.closed_for(2.5) == 0
    told(breaker, "unknown", 3.0)
    told(breaker, "unknown", 3.0)
    assert state_of(breaker) == "closed", "what failed before counts no more"


def test_the_pause_doubles_up_to_a_minute_and_is_short_again_after_a_success() -> None:
    breaker, now_s, pauses = opened(), 0.0, []
    for _ in range(8):
        pauses.append(breaker.closed_for(now_s))
        now_s += pauses[-1]
        told(breaker, "unknown", now_s)
    assert pauses == [2, 4, 8, 16, 32, 60, 60, 60]
    now_s += 60
    told(breaker, "permanent", now_s)
    for _ in range(3):
        told(breaker, "temporary", now_s)
    assert breaker.closed_for(now_s) == 2


def test_a_probe_that_is_throttled_proves_nothing_and_the_next_message_tries() -> None:
    breaker = opened()
    told(breaker, "throttled", 2.0)
    assert state_of(breaker) == "half-open"
    assert breaker.usable(2.1)
    told(breaker, "unknown", 2.1)
    assert breaker.closed_for(2.1) == pytest.approx(4)


def test_verdicts_of_before_it_opened_move_nothing_any_more() -> None:
    breaker = Breaker(failures=3, pause_s=2)
    for _ in range(100):
        breaker.began(0.0)
    for n in range(3):
        breaker.ended("unknown", 10.0 + n, 0.0)
    assert state_of(breaker) == "open"
    breaker.ended("unknown", 13.5, 0.0)
    breaker.ended("accepted", 13.5, 0.0)
    assert breaker.closed_for(13.5) == 0.5
    breaker.began(14.0)
    breaker.ended("unknown", 14.1, 0.0)
    breaker.ended("accepted", 14.1, 0.0)
    assert state_of(breaker) == "half-open", "only the probe stands for the present"
    assert not breaker.usable(14.1)
    breaker.ended("accepted", 14.2, 14.0)
    for _ in range(50):
        breaker.ended("unknown", 15.0, 0.0)
    assert state_of(breaker) == "closed"


class Life(RuleBasedStateMachine):
    """Messages begin and end in any order; a model beside it keeps every verdict."""

    @initialize(failures=st.integers(1, 6), pause_s=st.floats(0.05, 60))
    def start(self, failures: int, pause_s: float) -> None:
        self.breaker = Breaker(failures=failures, pause_s=pause_s)
        self.failures, self.pause_s = failures, pause_s
        self.now_s = 100.0
        # Begun and not ended, with whether each was begun as a probe.
        self.under_way: list[tuple[float, bool]] = []
        # Verdicts of messages begun since it last closed, oldest first; True: failed.
        self.verdicts: list[bool] = []
        self.state = "closed"
        self.since_s = -math.inf
        self.expected_pause_s = pause_s

    @rule(seconds=st.floats(0.001, 30))
    def wait(self, seconds: float) -> None:
        self.now_s += seconds

    @rule()
    def wait_until_usable(self) -> None:
        self.now_s += self.breaker.closed_for(self.now_s)

    @precondition(lambda self: self.breaker.usable(self.now_s))
    @rule(count=st.integers(1, 5))
    def begin(self, count: int) -> None:
        for _ in range(count):
            if not self.breaker.usable(self.now_s):
                assert self.state == "half-open"
                return
            if self.state == "open":
                assert self.now_s >= self.since_s + self.expected_pause_s
                self.state, self.since_s = "half-open", self.now_s
            self.under_way.append((self.now_s, self.state == "half-open"))
            self.breaker.began(self.now_s)

    @precondition(lambda self: self.under_way)
    @rule(
        which=st.integers(0, 1000),
        kind=st.sampled_from(["accepted", "permanent", "temporary", "unknown", "throttled"]),
    )
    def end(self, which: int, kind: VerdictKind) -> None:
        began_s, probe = self.under_way.pop(which % len(self.under_way))
        self.now_s += 0.001
        self.breaker.ended(kind, self.now_s, began_s)
        failed = None if kind == "throttled" else kind in ("temporary", "unknown")
        if failed is None:
            return
        if self.state == "half-open" and probe:
            self.state, self.since_s = ("open" if failed else "closed"), self.now_s
            self.expected_pause_s = min(60, 2 * self.expected_pause_s) if failed else self.pause_s
            self.verdicts = []
        elif self.state == "closed" and began_s >= self.since_s:
            self.verdicts.append(failed)
            row = self.verdicts[-self.failures :]
            recent = self.verdicts[-WINDOW:]
            if failed and (
                (len(row) == self.failures and all(row))
                or (len(recent) == WINDOW and sum(recent) * 2 >= WINDOW)
            ):
                self.state, self.since_s = "open", self.now_s

    @rule()
    def trip(self) -> None:
        self.now_s += 0.001
        self.breaker.trip(self.now_s)
        if self.state == "closed":
            self.state, self.since_s = "open", self.now_s

    @precondition(lambda self: self.state == "open")
    @rule()
    def mend(self) -> None:
        self.now_s += 0.001
        self.breaker.mend(self.now_s)
        self.state, self.since_s, self.verdicts = "closed", self.now_s, []

    @invariant()
    def it_is_as_the_model_says(self) -> None:
        if not hasattr(self, "state"):
            return
        assert state_of(self.breaker) == self.state
        probing = sum(probe and began_s >= self.since_s for began_s, probe in self.under_way)
        assert probing <= 1, "one probe at a time"
        usable = self.breaker.usable(self.now_s)
        if self.state == "closed":
            assert usable
        elif self.state == "half-open":
            assert usable == (probing == 0)
        assert (self.breaker.closed_for(self.now_s) == 0) == usable
        # A difference of sums of floats is not exact.
        assert self.breaker.closed_for(self.now_s) <= PAUSE_MAX_S + 1e-6
        assert self.breaker.pause_s == self.expected_pause_s

    @invariant()
    def it_always_comes_back(self) -> None:
        """Whatever happened: once all have ended, waiting as long as told makes it usable."""
        if hasattr(self, "state") and not any(probe for _, probe in self.under_way):
            assert self.breaker.usable(self.now_s + self.breaker.closed_for(self.now_s) + 1e-9)


Life.TestCase.settings = settings(max_examples=150, stateful_step_count=60, deadline=None)
TestLife = Life.TestCase


def test_a_circuit_that_is_tripped_opens_at_once_and_one_that_is_mended_closes() -> None:
    breaker = Breaker(failures=10, pause_s=2.0)
    breaker.trip(100.0)
    assert state_of(breaker) == "open"
    assert not breaker.usable(101.9)
    assert breaker.usable(102.0)
    breaker.mend(101.0)
    assert state_of(breaker) == "closed"
    assert breaker.usable(101.0)
