"""The verdict on a message from what becomes of its segments, and how a session slows down."""

from __future__ import annotations

from collections import deque
from itertools import permutations, product
from random import Random

import pytest

from engine.providers.smpp.congestion import Slowdown
from engine.providers.smpp.message import OneVerdict, Sending
from engine.records import Verdict, VerdictKind

OUTCOMES = ("accepted", "permanent", "unknown", "temporary", "throttled", "unsent")


def no_verdict(verdict: Verdict) -> None:
    raise AssertionError


def sending(segments: int) -> Sending:
    verdicts = OneVerdict(no_verdict, "carrier")
    return Sending(verdicts, 1, [b"%d" % n for n in range(segments)], 1.0, segments == 1)


def report(to: Sending, part: int, outcome: str) -> None:
    if outcome == "accepted":
        to.accepted(part, f"id{part}")
    elif outcome == "throttled":
        to.throttled(part, "code-throttled")
    elif outcome == "unsent":
        to.give_back(part)
    else:
        to.failed(outcome, f"code-{outcome}")  # type: ignore[arg-type]


def expected(outcomes: tuple[str, ...]) -> tuple[str, str]:
    """The first line of the table that holds."""
    for kind in ("permanent", "unknown", "temporary", "throttled"):
        if kind in outcomes:
            return kind, f"code-{kind}"
    return ("throttled", "window") if "unsent" in outcomes else ("accepted", "ESME_ROK 0x00")


@pytest.mark.parametrize("outcomes", [o for n in (1, 2, 3) for o in product(OUTCOMES, repeat=n)])
def test_the_table_holds_in_whatever_order_the_answers_come(outcomes: tuple[str, ...]) -> None:
    for order in permutations(range(len(outcomes))):
        one = sending(len(outcomes))
        assert [one.take(2.0) for _ in outcomes] == list(range(len(outcomes)))
        for part in order:
            assert not one.over
            report(one, part, outcomes[part])
        one.give_up("window")
        assert one.over
        verdict = one.verdict("carrier", 3.0)
        assert (verdict.kind, verdict.code) == expected(outcomes)
        ids = ",".join(f"id{part}" for part in range(len(outcomes)))
        assert verdict.provider_message_id == (ids if verdict.kind == "accepted" else "")
        assert verdict.latency_us == 1_000_000


@pytest.mark.parametrize("outcome", [outcome for outcome in OUTCOMES if outcome != "accepted"])
def test_sent_the_short_way_a_message_comes_to_the_same(outcome: str) -> None:
    one = sending(1)
    one.sent_s = 2.0
    report(one, 0, outcome)
    assert not one.queued
    if one.wants:
        assert (one.over, one.take(2.5), one.wants) == (False, 0, False)
        report(one, 0, outcome)
    one.give_up("window")
    assert one.over
    verdict = one.verdict("carrier", 3.0)
    assert (verdict.kind, verdict.code) == expected((outcome,))


def test_segments_go_out_in_order_and_again_in_order() -> None:
    one = sending(3)
    assert [one.take(2.0), one.take(2.0)] == [0, 1]
    report(one, 0, "throttled")
    report(one, 1, "throttled")
    assert [one.take(2.5), one.take(2.5), one.take(2.5)] == [0, 1, 2]
    assert (one.wants, one.over) == (False, False)


@pytest.mark.parametrize("kind", ["permanent", "temporary", "unknown"])
def test_after_a_failure_nothing_more_is_sent(kind: VerdictKind) -> None:
    one = sending(4)
    for _ in range(3):
        one.take(2.0)
    one.failed(kind, "code")
    one.throttled(1, "code-throttled")
    assert (one.wants, one.over) == (False, False), "one is still under way"
    one.accepted(2, "id2")
    assert one.over
    assert one.verdict("carrier", 3.0).kind == kind


def test_one_that_never_went_out_took_the_provider_no_time() -> None:
    one = sending(1)
    one.give_up("not_bound")
    verdict = one.verdict("carrier", 9.0)
    assert (verdict.kind, verdict.code, verdict.latency_us) == ("temporary", "not_bound", 0)


# -- slowing down


def test_nothing_is_slowed_before_the_carrier_throttles() -> None:
    slowdown = Slowdown()
    slowdown.taken(1000, 5.0)
    assert slowdown.rate == 0
    assert slowdown.allowed(5.0) > 1_000_000


def test_throttled_it_pauses_and_goes_on_at_half_of_what_was_taken() -> None:
    slowdown = Slowdown()
    for n in range(11):
        slowdown.taken(10, 1 + n / 10)
    for _ in range(6):
        slowdown.throttled(2.0)
    assert slowdown.rate == 50
    assert slowdown.allowed(2.1) == 0
    sent = 0
    for n in range(100):
        count = slowdown.allowed(2.2 + n * 0.01)
        assert count <= 5, "what was not used is no leave for a burst"
        slowdown.sent(count)
        sent += count
    # 0.8 s of 50 a second and 0.2 s of 75.
    assert 50 <= sent <= 61


def test_many_throttled_at_once_are_one_decrease() -> None:
    slowdown = Slowdown()
    slowdown.taken(100, 1.0)
    for n in range(50):
        slowdown.throttled(2.0 + n * 0.01)
    assert slowdown.rate == 50
    for _ in range(3):
        slowdown.throttled(3.1)
    assert slowdown.rate < 50


def test_few_throttled_among_many_change_nothing() -> None:
    slowdown = Slowdown()
    for n in range(100):
        slowdown.taken(30, n / 10)
        slowdown.throttled(n / 10 + 0.05)
    assert slowdown.rate == 0


def test_left_alone_the_rate_grows_until_nothing_is_slowed() -> None:
    slowdown = Slowdown()
    slowdown.taken(20, 1.5)
    for _ in range(3):
        slowdown.throttled(2.0)
    rates = []
    for second in range(3, 60):
        slowdown.allowed(second)
        rates.append(slowdown.rate)
        if not slowdown.rate:
            break
    assert rates[:-1] == sorted(rates[:-1])
    assert rates[-1] == 0
    assert 5 < len(rates) < 30


class Carrier:
    """Takes `limit` a second, counted in whole seconds, and throttles the rest."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.second, self.count = -1, 0

    def takes(self, now_s: float) -> bool:
        if int(now_s) != self.second:
            self.second, self.count = int(now_s), 0
        self.count += 1
        return self.count <= self.limit


@pytest.mark.parametrize("limit", [10, 100, 2000])
def test_it_settles_below_what_the_carrier_takes(limit: int) -> None:
    """A minute of more messages than the carrier takes, answered after 20 to 50 ms, with a window
    of 100: most of the limit is used, and little is throttled."""
    rng, slowdown, carrier = Random(limit), Slowdown(), Carrier(limit)
    answers: deque[tuple[float, bool]] = deque()
    taken = throttled = 0
    for step in range(60_00):
        now_s = step / 100
        while answers and answers[0][0] <= now_s:
            well = answers.popleft()[1]
            taken += well
            throttled += not well
            if well:
                slowdown.taken(1, now_s)
            else:
                slowdown.throttled(now_s)
        count = min(100 - len(answers), slowdown.allowed(now_s) if slowdown.rate else 100)
        if slowdown.rate:
            slowdown.sent(count)
        for _ in range(count):
            answers.append((now_s + 0.02 + rng.random() * 0.03, carrier.takes(now_s)))
    assert taken >= 0.6 * limit * 60
    assert throttled <= 0.15 * taken + 150


def test_after_an_outage_it_is_soon_at_full_speed() -> None:
    slowdown = Slowdown()
    for tenth in range(300):
        if slowdown.allowed(tenth / 10):
            slowdown.sent(1)
            slowdown.throttled(tenth / 10)
    for tenth in range(300, 700):
        slowdown.sent(slowdown.allowed(tenth / 10) if slowdown.rate else 0)
        if not slowdown.rate:
            return
    raise AssertionError(f"still slowed to {slowdown.rate} a second")
