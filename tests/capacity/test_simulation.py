"""The simulation against the formulas that exist, and against the same in plain Python."""

from __future__ import annotations

import dataclasses
import math
from array import array
from random import Random

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.capacity import _simulate, costs, queueing, response_times
from engine.capacity.peaks import Peak
from engine.capacity.simulation import Arrivals, Death, Latencies, Shape, System, simulate
from engine.delivery.settlement import RetryPauses
from tests.capacity.model import Model

# An engine that costs nothing.
FREE = msgspec.structs.replace(costs.REFERENCE, round_us=0.0, message_us=0.0, inner_ms=[(0.5, 1e-4)])
BACKOFF = {"express": 0.5, "normal": 1.0}


def system(times: str, peaks: list[Peak], **settings) -> System:
    answers = dict.fromkeys(("express", "normal"), response_times.parse(times))
    return System(peaks=peaks, answers=answers, **({"costs": FREE, "backoff_s": BACKOFF} | settings))


def run(made: System, processes: int, concurrency: int, messages: int = 300_000, seed: int = 7) -> Latencies:
    queues = made.queues
    arrivals = Arrivals(made, queues, (messages, 4 * messages), seed)
    shapes = dict.fromkeys(queues, Shape(processes=processes, concurrency=concurrency))
    return simulate(made, shapes, arrivals, seed)[queues[-1]]


def sojourn_s(servers: int, load: float, service_s: float, part: float) -> float:
    """The exact quantile of wait and service together (M/M/c), by halving."""
    waits, mu = queueing.erlang_c(servers, load), 1 / service_s
    theta = (servers - load) * mu

    def beyond(t: float) -> float:
        # A. O. Allen, Probability, Statistics and Queueing Theory, table 5 of appendix C.
        if abs(theta - mu) < 1e-9:
            return (1 + waits * mu * t) * math.exp(-mu * t)
        both = (mu * math.exp(-theta * t) - theta * math.exp(-mu * t)) / (mu - theta)
        return (1 - waits) * math.exp(-mu * t) + waits * both

    low, high = 0.0, 1000 * service_s
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if beyond(middle) > 1 - part else (low, middle)
    return low


def test_a_message_that_waits_for_its_slot_keeps_no_other_from_being_sent():
    made = system("lognormal(median=80ms, sigma=0.6)", [Peak("a", "normal", 400.0)], throughput=200.0)
    arrivals = Arrivals(made, made.queues, (1, 10**9), 7, seconds=20.0)
    # With a slot each, 20 sends in flight could be 209 a second.
    seen = simulate(made, {"normal": Shape(processes=1, concurrency=20)}, arrivals)["normal"]
    assert len(arrivals.times) / (20.0 + seen.quantile_s(1.0)) > 0.96 * 200


@pytest.mark.parametrize(("servers", "load"), [(1, 0.5), (5, 4.0), (20, 18.0), (100, 90.0)])
def test_random_arrivals_and_exponential_answers_have_the_latencies_of_erlang(servers: int, load: float):
    made = system("exponential(mean=100ms)", [Peak("a", "normal", load / 0.1)])
    seen = run(made, 1, servers)
    for part in (0.5, 0.9, 0.95, 0.99):
        assert seen.quantile_s(part) == pytest.approx(sojourn_s(servers, load, 0.1, part), rel=0.05)
    assert seen.used_slots == pytest.approx(load / servers, rel=0.03)


def test_slots_of_several_processes_are_nearly_one_pool():
    made = system("exponential(mean=100ms)", [Peak("a", "normal", 90.0)])
    apart, together = run(made, 5, 2), run(made, 1, 10)
    # A process may have a message in hand while another has a free slot.
    assert 1 <= apart.quantile_s(0.99) / together.quantile_s(0.99) < 1.1


@pytest.mark.parametrize("burst", [1, 10])
def test_a_loop_that_takes_constant_time_for_each_message_has_the_wait_of_pollaczek_and_khinchine(burst: int):
    # One slot, so that each message has a round of its own; the answer's round is 1 us.
    made = system("constant(10ms)", [Peak("a", "normal", 70.0, burst)])
    seen = run(made, 1, 1)
    mean = sum(count * 1e-6 * 1.01 ** (n - 0.5) for n, count in enumerate(seen.bins) if count) / seen.count
    # One server with groups of arrivals: M. L. Chaudhry and J. G. C. Templeton, A First Course in Bulk
    # Queues, 1983, 3.2; groups of one are the formula of Pollaczek and Khinchine.
    load = 70.0 * 0.01
    expected = (load / 2 + (burst - 1) / 2) * 0.01 / (1 - load) + 0.01
    assert mean == pytest.approx(expected, rel=0.04)


def test_rounds_that_cost_time_bound_what_a_worker_does():
    dear = msgspec.structs.replace(FREE, message_us=1000.0, round_us=0.0)
    seen = run(system("constant(1ms)", [Peak("a", "normal", 900.0)], costs=dear), 1, 1000, 100_000)
    assert seen.used_cpu == pytest.approx(0.9, rel=0.03)
    # Each message is in two rounds of half a millisecond or more.
    assert seen.quantile_s(0.5) > 0.004


def test_a_throughput_bounds_both_queues_and_keeps_its_share_for_express():
    made = system(
        "constant(1ms)",
        [Peak("a", "express", 15.0), Peak("b", "normal", 80.0, 2000)],
        throughput=100.0,
        express_share=0.2,
    )
    arrivals = Arrivals(made, made.queues, (3_000, 60_000), 3)
    seen = simulate(made, dict.fromkeys(made.queues, Shape(processes=1, concurrency=50)), arrivals)
    assert seen["express"].quantile_s(0.99) < 0.5
    assert seen["normal"].quantile_s(0.5) > 5


def test_organisations_take_turns():
    # A light one beside a campaign waits for one message of the campaign, not for all.
    made = system("constant(100ms)", [Peak("campaign", "normal", 80.0, 5_000), Peak("light", "normal", 1.0)])
    alone = Arrivals(made, ["normal"], (20_000, 400_000), 5)
    light = [i for i, o in enumerate(alone.organisations) if o == 1]
    bins = _bins(made, alone, 10)
    # The light ones are 1 of 81 messages; the campaign's wait for half a minute and more.
    within = sum(bins[: int(math.log(1.5 / 1e-6) / math.log(1.01)) + 1])
    assert within >= len(light) * 0.85


def _bins(made: System, arrivals: Arrivals, concurrency: int) -> array:
    return simulate(made, {"normal": Shape(processes=1, concurrency=concurrency)}, arrivals)["normal"].bins


def test_sends_that_fail_are_tried_again_after_a_pause():
    made = system("constant(10ms)", [Peak("a", "normal", 50.0)], failed=0.1)
    seen = run(made, 1, 100, 60_000)
    assert seen.quantile_s(0.89) < 0.02
    # One pause of 0.5 to 1 s, as the worker draws it, and then one twice as long.
    pauses = [RetryPauses(first_us=10**6, max_us=10**7).after_round(1, Random(n)) / 1e6 for n in range(2000)]
    assert seen.quantile_s(0.905) == pytest.approx(min(pauses), rel=0.15)
    assert seen.quantile_s(0.985) == pytest.approx(max(pauses), rel=0.15)
    assert 1.5 < seen.quantile_s(0.995) < 3.1


def test_what_a_killed_worker_had_in_hand_is_sent_again_once_another_has_looked():
    made = system("constant(400ms)", [Peak("a", "normal", 100.0)])
    arrivals = Arrivals(made, made.queues, (1, 10**9), 7, seconds=30.0)
    shapes = {"normal": Shape(processes=2, concurrency=60)}
    death = Death(at_s=15.0, queue="normal")
    calm, seen = (simulate(made, shapes, arrivals, deaths=deaths)["normal"] for deaths in ((), (death,)))
    # Nothing is lost, and nothing counts twice.
    assert seen.count == calm.count
    late = [n for n, count in enumerate(seen.bins) for _ in range(count) if n > _bin(0.5)]
    # Half of the 40 sends in flight were its own. Each takes 400 ms again, after the fence, and after one
    # of the two has looked: within a second.
    assert 10 <= len(late) <= 30
    assert _bin(0.4 + made.costs.fenced_s) <= late[0]
    assert late[-1] <= _bin(0.8 + made.costs.fenced_s + 1.0) + 1


def test_a_queue_with_one_worker_stands_still_until_that_is_replaced():
    made = system("constant(10ms)", [Peak("a", "normal", 100.0)])
    made = dataclasses.replace(made, costs=msgspec.structs.replace(made.costs, replaced_s=0.4, fenced_s=0.6))
    arrivals = Arrivals(made, made.queues, (1, 10**9), 7, seconds=30.0)
    death = Death(at_s=15.0, queue="normal")
    seen = simulate(made, {"normal": Shape(processes=1, concurrency=60)}, arrivals, deaths=[death])["normal"]
    # About 35 messages arrive meanwhile.
    late = [n for n, count in enumerate(seen.bins) for _ in range(count) if n > _bin(0.02)]
    assert 15 <= len(late) <= 60
    assert seen.quantile_s(0.999) < made.costs.replaced_s + 0.05
    assert seen.quantile_s(0.999) > made.costs.replaced_s - 0.1


def test_a_death_of_a_process_that_there_is_not_is_refused():
    made = system("constant(10ms)", [Peak("a", "normal", 100.0)])
    arrivals = Arrivals(made, made.queues, (1, 10**9), 7, seconds=1.0)
    with pytest.raises(ValueError, match="normal has 2 processes"):
        simulate(
            made,
            {"normal": Shape(processes=2, concurrency=1)},
            arrivals,
            deaths=[Death(at_s=0.5, queue="normal", process=2)],
        )


def _bin(latency_s: float) -> int:
    return int(math.log(latency_s / 1e-6) / math.log(1.01)) + 1


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    bursts=st.lists(
        st.tuples(st.floats(0, 2), st.integers(0, 3), st.integers(1, 12)), min_size=1, max_size=40
    ),
    processes=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    concurrency=st.tuples(st.integers(1, 6), st.integers(1, 6)),
    ahead=st.tuples(st.integers(0, 5), st.integers(0, 5)),
    given_s=st.lists(st.sampled_from([0.004, 0.03, 0.2, -0.05]), max_size=20),
    slot_s=st.sampled_from([0.0, 0.003, 0.02]),
    share=st.sampled_from([0.0, 0.2, 1.0]),
    failed=st.sampled_from([0.0, 0.3]),
    seed=st.integers(1, 1000),
    deaths=st.lists(st.tuples(st.floats(0, 2.5), st.integers(0, 1)), max_size=4),
)
def test_the_compiled_simulation_is_that_in_plain_python(
    bursts, processes, concurrency, ahead, given_s, slot_s, share, failed, seed, deaths
):
    def arguments() -> dict:
        ordered = sorted(bursts)
        return {
            "burst_times": array("d", [b[0] for b in ordered]),
            "burst_organisations": array("i", [b[1] for b in ordered]),
            "burst_sizes": array("i", [b[2] for b in ordered]),
            "queues": array("i", [0, 1, 1, 0]),
            "processes": processes,
            "concurrency": concurrency,
            "ahead": ahead,
            "worth": (max(1, ahead[0] // 2), max(1, ahead[1] // 2)),
            "round_s": (0.0011, 0.0007),
            "event_s": (0.00013, 0.00017),
            "backoff_s": (0.05, 0.07),
            "usual_s": (0.03, 0.05),
            "express_answers": array("d", [0.011, 0.023, 0.31]),
            "normal_answers": array("d", [0.013, 0.041, 0.57]),
            "given": array("d", given_s if any(s > 0 for s in given_s) else []),
            "inner": array("d", [0.0001, 0.003]),
            "slot_s": slot_s,
            "share": share,
            "horizon_s": 0.06,
            "segments": 1.25,
            "failed": failed,
            "counted_from": 0.1,
            "seed": seed,
            "express_bins": array("q", bytes(8 * _simulate.BINS)),
            "normal_bins": array("q", bytes(8 * _simulate.BINS)),
            # The first process, or the last of all.
            "deaths": tuple((at, last * (sum(processes) - 1)) for at, last in deaths),
            "recovery_s": (0.21, 0.33, 0.45, 0.05),
        }

    compiled, plain = arguments(), arguments()
    end, busy, held = _simulate.simulate(*compiled.values())
    assert Model(**plain).run() == (
        pytest.approx(end),
        pytest.approx(busy),
        pytest.approx(held),
    )
    assert compiled["express_bins"] == plain["express_bins"]
    assert compiled["normal_bins"] == plain["normal_bins"]
