"""What a plan is made of, as people write it: times, distributions, peaks, targets, costs."""

from __future__ import annotations

import math

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.capacity import costs, durations, peaks, response_times, targets
from engine.capacity.costs import REFERENCE, PartCost
from engine.capacity.peaks import Peak

HEADER = "organisation,queue,messages_per_second,burst"


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("80ms", 0.08), ("2s", 2), ("10min", 600), ("1.5 h", 5400), ("500us", 5e-4), (".5s", 0.5)],
)
def test_durations_are_numbers_with_a_unit(text: str, seconds: float):
    assert durations.parse(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "80", "ms", "-1s", "1 day", "1e3s", "1,5s", "٣s", "2s!"])
def test_what_is_no_duration_is_refused_with_what_is_allowed(text: str):
    with pytest.raises(ValueError, match="such as 80ms"):
        durations.parse(text)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.0012, "1.2 ms"), (0.085, "85 ms"), (2, "2 s"), (720, "12 min"), (90, "90 s"), (36000, "10 h"),
     (math.inf, "for ever")],
)  # fmt: skip
def test_durations_are_shown_in_the_unit_that_suits_them(seconds: float, text: str):
    assert durations.show(seconds) == text


@pytest.mark.parametrize(
    ("text", "mean_s", "p50_s", "p99_s", "variation"),
    [
        ("exponential(mean=100ms)", 0.1, 0.1 * math.log(2), 0.1 * math.log(100), 1.0),
        ("constant(50ms)", 0.05, 0.05, 0.05, 0.0),
        ("lognormal(median=80ms, sigma=0.6)", 0.08 * math.exp(0.18), 0.08, 0.08 * math.exp(0.6 * 2.3263),
         math.exp(0.36) - 1),
        ("p50=80ms,p90=150ms,p99=900ms", 0.1422, 0.08, 0.9, None),
    ],
)  # fmt: skip
def test_distributions_have_their_moments_and_quantiles(text, mean_s, p50_s, p99_s, variation):
    seen = response_times.parse(text)
    assert seen.mean_s == pytest.approx(mean_s, rel=0.005)
    assert seen.quantile_s(0.5) == pytest.approx(p50_s, rel=0.005)
    assert seen.quantile_s(0.99) == pytest.approx(p99_s, rel=0.01)
    if variation is not None:
        assert seen.variation == pytest.approx(variation, rel=0.02, abs=1e-9)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "no quantile"),
        ("p50=80", "p50 must be a number with a unit"),
        ("p100=1s", "no quantile"),
        ("p50=1s,p50=2s", "must differ"),
        ("p50=2s,p90=1s", "must not have a shorter time"),
        ("p0=1s", "greater than 0 and less than 1"),
        ("exponential(100ms)", "takes mean"),
        ("exponential(mean=0ms)", "greater than 0"),
        ("constant(2h)", "at most 1 hour"),
        ("lognormal(median=80ms, sigma=x)", "sigma must be a number from 0 to 5"),
        ("gamma(2)", "is no distribution"),
        ("fast", "no quantile"),
    ],
)
def test_what_is_no_distribution_is_refused_with_what_is_wrong(text: str, says: str):
    with pytest.raises(ValueError, match=says):
        response_times.parse(text)


def test_a_file_of_quantiles_may_have_a_header():
    seen = response_times.parse_lines(["quantile,time", "0.5,80ms", "", "0.99, 900ms"], "times.csv")
    assert seen.quantile_s(0.5) == pytest.approx(0.08, rel=0.01)
    with pytest.raises(ValueError, match=r"line 2 of times\.csv"):
        response_times.parse_lines(["0.5,80ms", "0.99"], "times.csv")


@given(st.lists(st.floats(0.001, 100), min_size=1, max_size=8, unique=True).map(sorted))
def test_a_distribution_by_quantiles_goes_through_them(times: list[float]):
    parts = [(n + 1) / (len(times) + 1) for n in range(len(times))]
    seen = response_times.of_quantiles(list(zip(parts, times, strict=True)), "given")
    for part, time in zip(parts, times, strict=True):
        # To the next of the times that stand for it.
        near = seen.quantile_s(part - 1e-4), seen.quantile_s(part + 1e-4)
        assert near[0] <= time * 1.001
        assert near[1] >= time * 0.999
    assert list(seen.times_s) == sorted(seen.times_s)


def test_peaks_are_read_from_csv():
    text = [HEADER, "acme,express,12.5,1", "acme,normal,3,500", "", "shop, NORMAL ,1,"]
    assert peaks.read(text, "peaks.csv") == [
        Peak("acme", "express", 12.5, 1),
        Peak("acme", "normal", 3.0, 500),
        Peak("shop", "normal", 1.0, 1),
    ]


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        ([], "no column 'organisation'"),
        (["organisation,queue"], "no column 'messages_per_second'"),
        ([HEADER], "has no peaks"),
        ([HEADER, ",express,1,1"], "line 2: organisation must not be empty"),
        ([HEADER, "a,fast,1,1"], "line 2: queue must be express or normal"),
        ([HEADER, "a,express,0,1"], "line 2: messages_per_second must be a number greater than 0"),
        ([HEADER, "a,express,nan,1"], "line 2: messages_per_second"),
        ([HEADER, "a,express,inf,1"], "line 2: messages_per_second"),
        ([HEADER, "a,express,1,0"], "line 2: burst must be a whole number from 1"),
        ([HEADER, "a,express,1,1.5"], "line 2: burst"),
        ([HEADER, "a,express"], "line 2: messages_per_second"),
        ([HEADER, "a,express,1,1", "a,express,2,1"], "line 3: a has a line for express already"),
    ],
)
def test_a_wrong_line_is_named_with_its_column_and_what_is_allowed(lines: list[str], says: str):
    with pytest.raises(ValueError, match=says):
        peaks.read(lines, "peaks.csv")


@pytest.mark.parametrize("text", ["express p99 <= 2s", "express p99<=2s", " EXPRESS  p99 ≤ 2000ms "])
def test_a_target_is_a_queue_a_quantile_and_a_time(text: str):
    assert targets.parse(text) == ("express", pytest.approx(0.99), pytest.approx(2.0))
    assert str(targets.parse(text)) == "express p99 <= 2 s"


@pytest.mark.parametrize(
    "text",
    ["", "express", "fast p99 <= 2s", "express p99 >= 2s", "express 99 <= 2s", "express p99 <= 2",
     "express p0 <= 2s", "express p99 <= 0s", "express p99 <= soon"],
)  # fmt: skip
def test_what_is_no_target_is_refused(text: str):
    with pytest.raises(ValueError, match="must be"):
        targets.parse(text)


def test_a_part_costs_less_in_larger_requests():
    part = PartCost(single_us=30.0, batch_us=6.0)
    assert part.us(1) == pytest.approx(30.0)
    assert part.us(100) == part.us(5000) == pytest.approx(6.0)
    assert 6 < part.us(10) < 9


def test_costs_are_read_as_they_were_written():
    assert costs.decode(msgspec.json.encode(REFERENCE)) == REFERENCE
    with pytest.raises(ValueError, match="lacks the cost of ingest"):
        costs.decode(msgspec.json.encode(msgspec.structs.replace(REFERENCE, parts={})))
    with pytest.raises(ValueError, match=r"required field|malformed|truncated"):
        costs.decode(b"{}")
