"""Rates, quantiles and histories from counters that only grow, of one node and of several."""

from __future__ import annotations

from bisect import bisect_left
from math import ceil
from random import Random

from engine.histogram import SENT_S, Histogram
from engine.metrics.catalogue import METRICS
from engine.metrics.snapshot import Counts, key_of
from engine.nodes.flow import POINTS, STEP_S, FlowWindow, NodeFlow, QueueFlow, added_up, quantile_ms

_SECOND = 1_000_000


class Node:
    """Counts what the test says happened."""

    def __init__(self) -> None:
        self.window, self.at_s = FlowWindow(), 1000
        self.accepted = self.sends = self.grants = 0
        self.times = Histogram(SENT_S)

    def counts(self) -> Counts:
        def key(metric: str, **labels: str) -> str:
            return key_of(METRICS[metric], labels)

        accepted, sends = "smsengine_messages_accepted", "smsengine_provider_sends"
        answers, times = "smsengine_ledger_answers", "smsengine_accepted_to_sent_seconds"
        return Counts(
            counters={
                accepted: {key(accepted, queue="normal"): self.accepted},
                sends: {key(sends, provider="a", queue=q): self.sends for q in ("normal", "express")},
                answers: {key(answers, kind="grant"): self.grants},
            },
            histograms={times: {key(times, queue="normal"): [*self.times.counts, self.times.sum_s]}},
        )

    def tick(self, seconds: int = 2) -> None:
        self.at_s += seconds
        self.window.add(self.at_s * _SECOND, self.counts())

    def note(self) -> NodeFlow:
        gauges = {
            "smsengine_provider_in_flight": {"a\x1fnormal": 3.0, "a\x1fexpress": 4.0},
            "smsengine_provider_circuits": {"a\x1fnormal\x1fopen": 1.0, "a\x1fexpress\x1fclosed": 1.0},
            "smsengine_provider_throughput": {"a": 50.0},
        }
        return self.window.note(self.at_s * _SECOND, gauges)


def test_rates_are_of_the_last_seconds_and_quantiles_of_the_last_minute() -> None:
    node = Node()
    node.accepted, node.grants = 5000, 77
    node.times.add_all([9.0] * 1000)
    node.tick()
    assert node.note().queues["normal"].in_per_s == 0, "what was counted before nobody knows when"
    for _ in range(60):
        node.accepted += 20
        node.sends += 4
        node.times.add_all([0.02] * 99 + [0.4])
        node.tick()
    flow = added_up({"n": node.note()})
    normal, provider = flow.queues["normal"], flow.providers["a"]
    assert node.note().queues["normal"].recent_per_s == 10
    assert (normal.in_per_s, provider.sends_per_s, flow.credit["grants"]) == (10, 4, 0)
    assert normal.p50_ms is not None
    assert 15 <= normal.p50_ms <= 20
    assert normal.p99_ms == 20
    assert (provider.in_flight, provider.throughput, provider.circuits) == (7, 50, {"open": 1, "closed": 1})
    assert normal.ins[-3:] == [10, 10, 10]
    # Counters of a process that died may be missing for a moment.
    node.accepted -= 100
    node.tick()
    assert node.note().queues["normal"].in_per_s >= 0


def test_a_history_has_a_point_for_each_step_also_for_those_that_were_missed() -> None:
    node = Node()
    node.tick(5)
    for seconds in (5, 5, 15, 5):
        node.accepted += 10 * seconds
        node.tick(seconds)
    assert node.note().queues["normal"].ins == [10] * 6
    for _ in range(2 * POINTS):
        node.tick(STEP_S)
    assert len(node.note().queues["normal"].ins) == POINTS


def test_histories_of_nodes_are_added_by_their_steps() -> None:
    def flow(step: int, *ins: float) -> NodeFlow:
        return NodeFlow(at_us=0, step=step, queues={"normal": QueueFlow(ins=list(ins))})

    total = added_up({"a": flow(10, 1, 2, 3), "b": flow(9, 10, 20), "c": NodeFlow(at_us=0)})
    assert total.queues["normal"].ins == [11, 22, 3]
    assert added_up({}).queues["normal"].p50_ms is None


def test_a_quantile_is_within_its_bucket() -> None:
    rng = Random(5)
    for _ in range(50):
        times = sorted(rng.uniform(0.0001, 10) for _ in range(rng.randrange(1, 300)))
        histogram = Histogram(SENT_S)
        histogram.add_all(times)
        for part in (0.5, 0.99):
            found = quantile_ms(histogram.counts, SENT_S, part)
            assert found is not None
            exact = times[ceil(part * len(times)) - 1]
            above = bisect_left(SENT_S, exact)
            assert 1000 * SENT_S[above - 1] * (above > 0) <= found + 0.1 <= 1000 * SENT_S[above] + 0.2
    assert quantile_ms([], SENT_S, 0.5) is None
    assert quantile_ms([1, 2], SENT_S, 0.5) is None, "of a version with other bounds"
