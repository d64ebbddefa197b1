"""What autoscaling is told of a queue: rates, shares, answers, and when nothing may be concluded."""

from __future__ import annotations

from engine.capacity.measured import Measured
from engine.capacity.readings import Others, Readings
from engine.histogram import ANSWER_S, ROUND_TRIP_S, Histogram
from engine.metrics.snapshot import Counts, Numbers
from engine.nodes.flow import quantile_ms

ALONE = Others(unread=0.0)
BETWEEN = "\x1f"


class Node:
    """Counts what the test says happened on a node with these providers, second by second."""

    def __init__(self, **windows: int | None) -> None:
        self.readings = Readings(windows)
        self.at_s, self.accepted = 100.0, 0
        self.sends = dict.fromkeys(windows, 0)
        self.verdicts = {name: {"accepted": 0, "temporary": 0} for name in windows}
        self.answers = {name: Histogram(ANSWER_S) for name in windows}
        self.lags, self.cpu_s, self.busy_s = Histogram(ROUND_TRIP_S), 0.0, 0.0
        self.gauges: Numbers = {}
        for name in windows:
            self.show(name)

    def show(self, name: str, *, circuit: str = "closed", flies: int = 0, paused: bool = False) -> None:
        circuits = self.gauges.setdefault("smsengine_provider_circuits", {})
        for state in ("closed", "open", "half-open"):
            circuits[BETWEEN.join((name, "express", state))] = float(state == circuit)
        self.gauges.setdefault("smsengine_provider_in_flight", {})[f"{name}{BETWEEN}express"] = float(flies)
        self.gauges.setdefault("smsengine_provider_paused", {})[name] = float(paused)

    def worked(self, *, cpu_s: float, busy_s: float, lag_s: float) -> None:
        """What the only worker is going to show of the next second; timers came late by `lag_s`."""
        self.cpu_s, self.busy_s = self.cpu_s + cpu_s, self.busy_s + busy_s
        self.lags.add_all([lag_s] * 10)

    def second(self, arrive: int = 0, *, took_s: float = 0.06, **sent: int) -> None:
        """One more second; `sent`: by provider, messages that it took, in `took_s` each."""
        self.at_s += 1
        self.accepted += arrive
        for name, count in sent.items():
            self.sends[name] += count
            self.verdicts[name]["accepted"] += count
            self.answers[name].add_all([took_s] * count)
        counters: Numbers = {
            "smsengine_messages_accepted": {"express": self.accepted, "normal": 5},
            "smsengine_provider_sends": {f"{n}{BETWEEN}express": c for n, c in self.sends.items()},
            "smsengine_provider_verdicts": {
                BETWEEN.join((name, "express", verdict)): float(count)
                for name, of in self.verdicts.items()
                for verdict, count in of.items()
            },
            "smsengine_process_cpu_seconds": {
                f"express{BETWEEN}express 1": self.cpu_s,
                f"normal{BETWEEN}n": 9,
            },
            "smsengine_process_busy_seconds": {
                f"express{BETWEEN}express 1": self.busy_s,
                f"normal{BETWEEN}n": 9,
            },
        }
        answers = {f"{n}{BETWEEN}express": [*h.counts, h.sum_s] for n, h in self.answers.items()}
        lags = {"express": [*self.lags.counts, self.lags.sum_s]}
        histograms = {
            "smsengine_provider_answer_seconds": answers,
            "smsengine_process_loop_lag_seconds": lags,
        }
        counts = Counts(counters=counters, histograms=histograms)
        self.readings.add(self.at_s, counts, self.gauges)

    def seen(self, others: Others = ALONE, horizon_s: float = 3.0) -> Measured:
        return self.readings.of("express", others, horizon_s)


def test_each_node_counts_its_share_of_what_arrives_on_all() -> None:
    node = Node(a=100)
    node.second()
    assert node.seen().hold == "nothing is measured yet"
    for _ in range(5):
        node.second(100, a=100)
    seen = node.seen(Others(unread=900.0, arrivals_per_s=200.0, nodes=3))
    assert (seen.arrivals_per_s, seen.unread, seen.hold) == (100, 300, "")
    assert (seen.window, seen.part, seen.throughput) == (100, 1.0, None)
    assert sum(seen.answers) == 300, "of the last three seconds"
    node.gauges["smsengine_provider_throughput"] = {"a": 90.0}
    node.second(100, a=100)
    assert node.seen(Others(unread=0.0, nodes=3)).throughput == 30


def test_a_step_is_seen_before_the_horizon_is_full_of_it_and_chance_is_none() -> None:
    node = Node(a=None)
    for _ in range(10):
        node.second(20, a=20)
    node.second(26, a=20)
    assert node.seen().arrivals_per_s == 22
    node.second(200, a=20)
    assert 150 < node.seen().arrivals_per_s < 200
    assert node.seen(horizon_s=60.0).arrivals_per_s < 50, "where messages may wait there is no haste"


def test_counts_that_are_missing_for_a_moment_are_no_arrivals_when_they_come_back() -> None:
    node = Node(a=None)
    for _ in range(5):
        node.second(10, a=10)
    node.accepted -= 40
    node.second(0, a=10)
    node.accepted += 40
    node.second(20, a=10)
    assert node.seen().arrivals_per_s <= 10


def test_a_provider_that_is_down_is_left_out_and_without_any_nothing_is_concluded() -> None:
    node = Node(a=10, b=20, c=30)
    for _ in range(5):
        node.second(20, a=10, b=10)
    assert (node.seen().window, node.seen().part) == (30, 1.0), "c has nothing to do with the queue"
    node.show("a", circuit="open")
    node.second(20, b=10)
    assert (node.seen().window, node.seen().part, node.seen().hold) == (20, 0.75, "")
    node.show("b", circuit="half-open")
    node.second(20)
    assert (node.seen().hold, node.seen().calm) == ("no provider takes messages: a, b", False)
    node.show("a", circuit="closed")
    node.show("b", circuit="closed")
    node.second(20, a=10)
    assert node.seen().hold == ""
    for name in ("a", "b", "c"):
        node.show(name, paused=True)
    node.second(20)
    assert node.seen().hold == "the queue or its providers are paused"


def test_a_provider_that_refuses_most_is_down_before_its_circuit_opens() -> None:
    node = Node(a=10)
    for _ in range(6):
        node.second(20, a=20)
    for _ in range(5):
        node.verdicts["a"]["temporary"] += 200
        node.second(20, a=2)
    assert node.seen().hold == "no provider takes messages: a"


def test_answers_that_waited_for_the_loop_say_nothing_of_the_provider() -> None:
    node = Node(a=None)
    for _ in range(5):
        node.worked(cpu_s=0.1, busy_s=0.2, lag_s=0.0005)
        node.second(100, a=100)
    seen = node.seen()
    assert (sum(seen.answers), seen.wait_s, seen.late) == (300, 0.0, False)
    for _ in range(5):
        node.worked(cpu_s=0.5, busy_s=0.95, lag_s=0.2)
        node.show("a", flies=40)
        node.second(1000, a=500, took_s=0.46)
        node.show("a", flies=7)
    seen = node.seen()
    assert (quantile_ms(seen.answers, ANSWER_S, 0.99) or 0) <= 75, "of the time before"
    assert (seen.wait_s, seen.late) == (0.0, True)
    assert (round(seen.message_s, 6), round(seen.busy, 3), seen.in_flight) == (0.001, 0.95, 40)
    for _ in range(60):
        node.worked(cpu_s=0.5, busy_s=0.95, lag_s=0.2)
        node.second(1000, a=500, took_s=0.46)
    seen = node.seen()
    assert sum(seen.answers) == 1500, "nobody knows better any more"
    assert round(seen.wait_s, 6) == 0.4, "and twice the wait of the loop is not the provider's"


def test_silence_while_something_is_in_flight_says_nothing_and_is_calm() -> None:
    node = Node(a=10)
    for _ in range(5):
        node.second(20, a=20)
    node.show("a", flies=10)
    node.second(20)
    assert node.seen().hold == ""
    node.second(20)
    assert (node.seen().hold, node.seen().calm) == ("no answers come", True)
    node.second(20, a=5)
    assert node.seen().hold == ""
