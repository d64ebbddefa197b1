"""The simulator's rules: what it draws, what it refuses to be set to, how it counts."""

from __future__ import annotations

import math
import uuid
from collections import Counter
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import Refusal
from supervisor.simulator.behaviour import (
    Behaviour,
    ErrorRates,
    Latency,
    Lognormal,
    Receipts,
    changed,
    decode,
    quantiles_from_csv,
)
from supervisor.simulator.counts import SECONDS, Counts, Flow
from supervisor.simulator.draws import Sampler, Throttle, latency_source

DRAWS = 20_000
# Kolmogorov-Smirnov: the largest distance between the drawn and the true distribution
# function stays below 1.95 / sqrt(n) in 999 of 1,000 runs; the seeds make each run the same.
DISTANCE_MAX = 1.95 / math.sqrt(DRAWS)


def distance(latency: Latency, share_below: dict[float, float], seed: int) -> float:
    """Largest gap between drawn and wanted shares of latencies up to some milliseconds."""
    draw = latency_source(latency, Random(seed))
    drawn = sorted(draw() * 1000 for _ in range(DRAWS))
    return max(abs(sum(d <= ms for d in drawn) / DRAWS - share) for ms, share in share_below.items())


@pytest.mark.parametrize("seed", range(3))
def test_lognormal_latencies_follow_their_distribution(seed: int) -> None:
    # The normal distribution's deviates at 1, 10, 50, 90 and 99 percent.
    deviates = {0.01: -2.3263, 0.1: -1.2816, 0.5: 0.0, 0.9: 1.2816, 0.99: 2.3263}
    wanted = {120 * math.exp(0.6 * z): share for share, z in deviates.items()}
    latency = Latency(lognormal=Lognormal(median_ms=120, sigma=0.6))
    assert distance(latency, wanted, seed) < DISTANCE_MAX
    assert distance(Latency(lognormal=Lognormal(median_ms=120, sigma=0.5)), wanted, seed) > DISTANCE_MAX


@pytest.mark.parametrize("seed", range(3))
def test_quantile_latencies_follow_their_points_and_the_lines_between(seed: int) -> None:
    points = [(0.0, 10.0), (0.5, 20.0), (0.9, 100.0), (1.0, 1000.0)]
    wanted = {15.0: 0.25, 20.0: 0.5, 60.0: 0.7, 100.0: 0.9, 550.0: 0.95}
    assert distance(Latency(quantiles=points), wanted, seed) < DISTANCE_MAX


def test_latencies_outside_the_points_are_level() -> None:
    draw = latency_source(Latency(quantiles=[(0.4, 10.0), (0.6, 20.0)]), Random(1))
    drawn = Counter(round(draw() * 1000, 6) for _ in range(1000))
    assert min(drawn) == 10
    assert max(drawn) == 20
    assert drawn[10] == pytest.approx(400, abs=60)
    assert drawn[20] == pytest.approx(400, abs=60)


def test_a_constant_latency_is_constant() -> None:
    draw = latency_source(Latency(constant_ms=12.5), Random(1))
    assert {draw() for _ in range(10)} == {0.0125}


def test_fates_come_at_their_rates() -> None:
    rates = ErrorRates(temporary=0.1, permanent=0.05, timeout=0.02, reset=0.03)
    sampler = Sampler(Behaviour(error_rates=rates), Random(3))
    fates = Counter(sampler.fate(0.0)[0] for _ in range(DRAWS))
    wanted = {"temporary": 0.1, "permanent": 0.05, "timeout": 0.02, "reset": 0.03, "accepted": 0.8}
    assert fates.keys() == wanted.keys()
    for fate, rate in wanted.items():
        tolerance = 4 * math.sqrt(rate * (1 - rate) / DRAWS)
        assert fates[fate] / DRAWS == pytest.approx(rate, abs=tolerance)  # type: ignore[index]


def test_a_rate_of_one_is_every_time() -> None:
    sampler = Sampler(Behaviour(error_rates=ErrorRates(permanent=1.0)), Random(3))
    assert {sampler.fate(0.0)[0] for _ in range(1000)} == {"permanent"}


def test_a_seed_replays_the_same_decisions() -> None:
    behaviour = Behaviour(
        latency=Latency(lognormal=Lognormal(median_ms=50, sigma=1)), error_rates=ErrorRates(temporary=0.3)
    )

    def decisions(seed: int) -> list[tuple[str, float]]:
        sampler = Sampler(behaviour, Random(seed))
        return [sampler.fate(0.0) for _ in range(100)]

    assert decisions(1) == decisions(1)
    assert decisions(1) != decisions(2)


@pytest.mark.parametrize(
    ("outage", "fate"), [(True, "outage"), ("refuse", "refuse"), ("hang", "hang"), (False, "accepted")]
)
def test_an_outage_meets_every_send(outage: bool, fate: str) -> None:
    sampler = Sampler(Behaviour(outage=outage, error_rates=ErrorRates()), Random(1))
    assert {sampler.fate(0.0)[0] for _ in range(100)} == {fate}


@given(
    rate=st.floats(0.5, 50_000),
    sends=st.lists(st.tuples(st.floats(0, 0.5), st.integers(1, 10)), min_size=1, max_size=100),
)
def test_the_throughput_is_never_exceeded(rate: float, sends: list[tuple[float, int]]) -> None:
    """In no window more segments than the rate allows, plus a tenth of a second's worth, one,
    and what the last send has besides its first."""
    throttle = Throttle(rate)
    now_s, taken = 1000.0, []
    for gap, segments in sends:
        now_s += gap
        if throttle.wait_s(now_s, segments) == 0:
            taken.append((now_s, segments))
    for start in range(len(taken)):
        total = 0
        for end_s, segments in taken[start:]:
            allowed = (end_s - taken[start][0]) * rate + max(rate * 0.1, 1) + 1
            assert total + 1 <= allowed + 1e-6 * allowed
            total += segments


@given(
    st.lists(
        st.tuples(st.one_of(st.just(0.0), st.floats(0, 0.4), st.floats(0, 90)), st.integers(1, 9)),
        max_size=80,
    )
)
def test_segments_are_counted_by_the_second(arrivals: list[tuple[float, int]]) -> None:
    flow, now_s, came = Flow(), 1000.0, list[tuple[float, int]]()
    for gap, segments in arrivals:
        now_s += gap
        flow.add(now_s, segments)
        came.append((now_s, segments))
    assert flow.segments == sum(segments for _, segments in came)
    # The fullest second ends with an arrival: [t - 1, t] without its beginning.
    seconds = [sum(n for at_s, n in came[: i + 1] if at_s > end_s - 1) for i, (end_s, _) in enumerate(came)]
    assert flow.second_max == max(seconds, default=0)
    by_second: Counter[int] = Counter()
    for at_s, segments in came:
        by_second[int(at_s)] += segments
    last = {s: n for s, n in by_second.items() if s > int(now_s) - SECONDS}
    assert flow.per_second(now_s) == last
    flow.reset()
    assert (flow.segments, flow.second_max, flow.per_second(now_s)) == (0, 0, {})


@pytest.mark.parametrize("rate", [1, 3, 10, 1000, 20_000])
def test_sends_just_at_the_throughput_are_all_taken(rate: int) -> None:
    throttle = Throttle(rate)
    assert all(throttle.wait_s(1000 + i / rate) == 0 for i in range(5 * rate if rate < 5000 else 20_000))


def test_a_throttled_send_is_taken_after_the_wait_it_was_told() -> None:
    throttle = Throttle(2)
    assert throttle.wait_s(1000.0) == 0
    wait_s = throttle.wait_s(1000.1)
    assert wait_s == pytest.approx(0.4)
    assert throttle.wait_s(1000.1 + wait_s) == 0


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"latency": {}}, "latency"),
        ({"latency": {"constant_ms": 1, "lognormal": {"median_ms": 1, "sigma": 1}}}, "latency"),
        ({"latency": {"constant_ms": -1}}, "latency.constant_ms"),
        ({"latency": {"constant_ms": float("nan")}}, "latency.constant_ms"),
        ({"latency": {"lognormal": {"median_ms": 0, "sigma": 1}}}, "latency.lognormal.median_ms"),
        ({"latency": {"lognormal": {"median_ms": 1, "sigma": -1}}}, "latency.lognormal.sigma"),
        ({"latency": {"lognormal": {"median_ms": 1}}}, "latency.lognormal"),
        ({"latency": {"quantiles": [[0, 1]]}}, "latency.quantiles"),
        ({"latency": {"quantiles": [[0, 1], [2, 2]]}}, "latency.quantiles"),
        ({"latency": {"quantiles": [[0, 5], [1, 2]]}}, "latency.quantiles"),
        ({"latency": {"quantiles": [[0, 5], [0, 6]]}}, "latency.quantiles"),
        ({"latency": {"quantiles": [[0, 5], [1, "x"]]}}, "latency.quantiles[1][1]"),
        ({"latency": {"uniform": 1}}, "latency.uniform"),
        ({"error_rates": {"temporary": 1.1}}, "error_rates.temporary"),
        ({"error_rates": {"reset": "often"}}, "error_rates.reset"),
        ({"error_rates": {"temporary": 0.6, "permanent": 0.6}}, "error_rates"),
        ({"throughput": 0}, "throughput"),
        ({"throughput": -1}, "throughput"),
        ({"outage": "sometimes"}, "outage"),
        ({"seed": 1.5}, "seed"),
        ({"speed": 1}, "speed"),
        ({"throughput_unit": "messages"}, "throughput_unit"),
        ({"receipts": {"undelivered": 1.5}}, "receipts.undelivered"),
        ({"receipts": {"pending": float("nan")}}, "receipts.pending"),
        ({"receipts": {"delay": {}}}, "receipts.delay"),
        ({"receipts": {"delay": {"constant_ms": -1}}}, "receipts.delay.constant_ms"),
        (
            {"receipts": {"delay": {"lognormal": {"median_ms": 1, "sigma": 9}}}},
            "receipts.delay.lognormal.sigma",
        ),
        ({"receipts": {"url": "engine"}}, "receipts.url"),
        ({"receipts": {"url": "https://engine/"}}, "receipts.url"),
        ({"receipts": {"url": "http://engine/a b"}}, "receipts.url"),
        ({"receipts": {"url": "http://engine:x/"}}, "receipts.url"),
        ({"receipts": {"id_form": "octal"}}, "receipts.id_form"),
        ({"receipts": {"speed": 1}}, "receipts.speed"),
        ({"smpp": {"system_id": "x" * 16}}, "smpp.system_id"),
        ({"smpp": {"password": "\0"}}, "smpp.password"),
        ({"smpp": {"window": 0}}, "smpp.window"),
        ({"smpp": {"sessions_max": 0}}, "smpp.sessions_max"),
        ({"smpp": {"disconnect_every": 0}}, "smpp.disconnect_every"),
        ({"smpp": {"malformed": 2}}, "smpp.malformed"),
        ({"smpp": {"receipt_form": "json"}}, "smpp.receipt_form"),
    ],
)
def test_what_cannot_be_is_refused_by_name(settings: dict[str, object], field: str) -> None:
    with pytest.raises(Refusal) as refused:
        decode(settings)
    assert refused.value.field == field
    assert refused.value.status == 422
    assert refused.value.detail.startswith(field)
    assert refused.value.detail.endswith(".")


def test_a_part_changes_that_part_only() -> None:
    before = decode({"error_rates": {"temporary": 0.1, "reset": 0.2}, "throughput": 5, "seed": 1})
    after = changed(
        before, b'{"error_rates":{"temporary":0.3},"latency":{"lognormal":{"median_ms":9,"sigma":1}}}'
    )
    assert after.error_rates == ErrorRates(temporary=0.3, reset=0.2)
    assert after.latency == Latency(lognormal=Lognormal(median_ms=9, sigma=1))
    assert (after.throughput, after.seed) == (5, 1)
    assert changed(after, b'{"throughput":null}').throughput is None
    assert changed(after, b"{}") == after


def test_receipts_and_smpp_are_changed_field_by_field() -> None:
    before = decode({"smpp": {"window": 5, "password": "word"}})
    after = changed(before, b'{"receipts":{"pending":0.5},"smpp":{"window":null}}')
    assert after.receipts == Receipts(pending=0.5)
    assert (after.smpp.window, after.smpp.password) == (None, "word")
    after = changed(after, b'{"receipts":{"duplicate":1,"delay":{"lognormal":{"median_ms":9,"sigma":1}}}}')
    delay = Latency(lognormal=Lognormal(median_ms=9, sigma=1))
    assert after.receipts == Receipts(pending=0.5, duplicate=1, delay=delay)
    assert changed(after, b"{}") == after
    assert changed(after, b'{"receipts":null}').receipts is None


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b"\xff", b'{"a"}'])
def test_a_change_that_is_no_json_object_is_refused(body: bytes) -> None:
    with pytest.raises(Refusal) as refused:
        changed(Behaviour(), body)
    assert refused.value.status == 400


def test_points_are_read_from_csv() -> None:
    assert quantiles_from_csv("quantile,ms\n0,5\n\n0.5, 20\n1,90.5\n") == [(0, 5), (0.5, 20), (1, 90.5)]
    assert quantiles_from_csv("0,5\n1,9") == [(0, 5), (1, 9)]
    for text, line in (("0,5\n0.5;7\n", 2), ("0,5\n0.5,\n", 2), ("p50,7\n", 1), ("0,1,2\n", 1)):
        with pytest.raises(Refusal, match=f"line {line} must be"):
            quantiles_from_csv(text)


IDS = st.one_of(
    st.uuids().map(str),
    st.uuids().map(lambda u: str(u).upper()),
    st.uuids().map(lambda u: u.hex),
    st.text(min_size=1, max_size=40),
    st.text(alphabet="0123456789abcdef-", min_size=36, max_size=36),
)


@given(
    st.lists(IDS, max_size=30).flatmap(
        lambda ids: st.lists(st.sampled_from(ids), max_size=60) if ids else st.just([])
    )
)
def test_ids_are_counted_as_a_plain_counter_would(ids: list[str]) -> None:
    counts = Counts()
    for message_id in ids:
        counts.add(message_id)
    plain = Counter(ids)
    assert counts.received == len(ids)
    assert counts.ids() == list(plain)  # in order of first arrival, spelled as they came
    assert counts.distinct == len(plain)
    assert counts.repeated() == {i: n for i, n in plain.items() if n > 1}
    assert counts.ids(after=1, limit=2) == list(plain)[1:3]
    counts.reset()
    assert (counts.received, counts.distinct, counts.ids(), counts.repeated()) == (0, 0, [], {})


@pytest.mark.parametrize(
    "odd",
    [
        "00000000-0000-0000-0000-00000000-000",
        "0000000--000-0000-0000-000000000000",
        "a b c d e-0000-0000-0000-00000000000 ",
    ],
)
def test_an_id_that_only_looks_like_a_uuid_keeps_its_spelling(odd: str) -> None:
    counts = Counts()
    counts.add(odd)
    counts.add(str(uuid.UUID(int=0)))
    assert counts.ids() == [odd, str(uuid.UUID(int=0))]
