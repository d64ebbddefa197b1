"""Rule: how fast things move: rates and quantiles of the last moments, from the counters of `engine.metrics`.

Each node makes them of its own counters (`FlowWindow`) and notes them; who is asked for the state of the
engine adds up those of all nodes (`added_up`). Rates are of the last `RATE_S` seconds, quantiles of the last
`QUANTILE_S`. A history has a point for each `STEP_S`, of which the last is over.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from engine.histogram import ANSWER_S, SENT_S
from engine.metrics.snapshot import Buckets, Counts, Numbers, values_of
from engine.records import QUEUES

RATE_S = 10.0
# What autoscaling goes by.
RECENT_S = 4.0
QUANTILE_S = 60.0
STEP_S = 5
POINTS = 60
# More providers than that are not noted.
PROVIDERS_MAX = 100

# By what is counted, the metric and, where only some series count, the values of its labels.
_CREDIT = {
    "submissions": ("smsengine_submissions", ()),
    "waits": ("smsengine_credit_waits", ()),
    "grants": ("smsengine_ledger_answers", ("grant",)),
    "refusals": ("smsengine_messages_refused", ("insufficient_credit",)),
}
_WEBHOOKS = {
    "events": ("smsengine_webhook_events", ()),
    **{outcome: ("smsengine_webhook_attempts", (outcome,)) for outcome in ("delivered", "again", "failed")},
}
_IN, _OUT, _SENT = (
    "smsengine_messages_accepted",
    "smsengine_messages_sent",
    "smsengine_accepted_to_sent_seconds",
)
_SENDS, _ANSWERS, _RECEIPTS = (
    "smsengine_provider_sends",
    "smsengine_provider_answer_seconds",
    "smsengine_receipts_matched",
)
_TIMES = (_SENT, _ANSWERS)
_COUNTERS = (
    *(_IN, _OUT, _SENDS, _RECEIPTS),
    *(metric for metric, _ in (*_CREDIT.values(), *_WEBHOOKS.values())),
)


class QueueFlow(msgspec.Struct, kw_only=True):
    """One queue on one node: messages a second accepted and sent, and how long they took."""

    in_per_s: float = 0.0
    out_per_s: float = 0.0
    # From acceptance to a provider, by the bounds `SENT_S`.
    sent: list[int] = []
    # Messages a second in each step, the last step last.
    ins: list[float] = []
    outs: list[float] = []
    # As `in_per_s`, of the last `RECENT_S`.
    recent_per_s: float = 0.0


class ProviderFlow(msgspec.Struct, kw_only=True):
    """One provider on one node."""

    sends_per_s: float = 0.0
    receipts_per_s: float = 0.0
    # From an attempt to its verdict, by the bounds `ANSWER_S`.
    answers: list[int] = []
    in_flight: int = 0
    waiting: int = 0
    # Segments a second; None: without a limit.
    throughput: float | None = None
    paused: bool = False
    # Workers by the state of their circuit breaker.
    circuits: dict[str, int] = {}


class NodeFlow(msgspec.Struct, kw_only=True):
    """What a node notes of how fast things move on it."""

    at_us: int
    # The number of the last step of the histories, since 1970.
    step: int = 0
    queues: dict[str, QueueFlow] = {}
    providers: dict[str, ProviderFlow] = {}
    # By what is counted (`_CREDIT`, `_WEBHOOKS`), how often a second.
    credit: dict[str, float] = {}
    webhooks: dict[str, float] = {}


class QueueRates(msgspec.Struct, kw_only=True):
    """One queue on all nodes; times are milliseconds, None when nothing was sent lately."""

    in_per_s: float = 0.0
    out_per_s: float = 0.0
    p50_ms: float | None = None
    p99_ms: float | None = None
    ins: list[float] = []
    outs: list[float] = []


class ProviderRates(msgspec.Struct, kw_only=True):
    """One provider on all nodes."""

    sends_per_s: float = 0.0
    receipts_per_s: float = 0.0
    p50_ms: float | None = None
    p99_ms: float | None = None
    in_flight: int = 0
    waiting: int = 0
    throughput: float | None = None
    paused: bool = False
    circuits: dict[str, int] = {}


class Flow(msgspec.Struct, kw_only=True):
    """How fast things move on all nodes together."""

    # The nodes that are counted in.
    nodes: list[str] = []
    # Seconds of one point of a history.
    step_s: int = STEP_S
    queues: dict[str, QueueRates] = {}
    providers: dict[str, ProviderRates] = {}
    credit: dict[str, float] = {}
    webhooks: dict[str, float] = {}


class _Sample(msgspec.Struct):
    """The counters at one time, seconds."""

    at_s: float
    counters: Numbers
    histograms: Buckets


class FlowWindow:
    """The counters of one node in the last minute, and the histories."""

    def __init__(self) -> None:
        self._samples: deque[_Sample] = deque()
        # By step and by (queue, whether in): messages a second.
        self._step: _Sample | None = None
        self._points: dict[tuple[str, str], deque[float]] = {}
        self._last_step = 0

    def add(self, at_us: int, counts: Counts) -> None:
        """What the node has counted up to `at_us`. Times go up."""
        sample = _Sample(
            at_us / 1e6,
            {name: dict(counts.counters.get(name, {})) for name in _COUNTERS},
            {name: dict(counts.histograms.get(name, {})) for name in _TIMES},
        )
        self._samples.append(sample)
        while len(self._samples) > 2 and self._samples[1].at_s <= sample.at_s - QUANTILE_S:
            self._samples.popleft()
        self._note_step(sample)

    def note(self, at_us: int, gauges: Numbers) -> NodeFlow:
        """What to note at `at_us`; `gauges`: of the living processes of the node."""
        rates, minute, recent = map(self._since, (RATE_S, QUANTILE_S, RECENT_S))
        flow = NodeFlow(at_us=at_us, step=self._last_step)
        for queue in QUEUES:
            flow.queues[queue] = QueueFlow(
                in_per_s=_rate(rates, _IN, (queue,)),
                out_per_s=_rate(rates, _OUT, (queue,)),
                sent=_grown(minute, _SENT, (queue,)),
                ins=list(self._points.get((queue, _IN), ())),
                outs=list(self._points.get((queue, _OUT), ())),
                recent_per_s=_rate(recent, _IN, (queue,)),
            )
        names = sorted({values_of(key)[0] for key in gauges.get("smsengine_provider_in_flight", {})})
        for name in names[:PROVIDERS_MAX]:
            flow.providers[name] = _provider(name, rates, minute, gauges)
        flow.credit = {what: _rate(rates, metric, labels) for what, (metric, labels) in _CREDIT.items()}
        flow.webhooks = {what: _rate(rates, metric, labels) for what, (metric, labels) in _WEBHOOKS.items()}
        return flow

    def _since(self, seconds: float) -> tuple[_Sample, _Sample] | None:
        """The samples at the begin and at the end of so many seconds; None while there is only one."""
        if len(self._samples) < 2:
            return None
        last = self._samples[-1]
        first = next((s for s in reversed(self._samples) if s.at_s <= last.at_s - seconds), self._samples[0])
        return first, last

    def _note_step(self, sample: _Sample) -> None:
        step = int(sample.at_s // STEP_S)
        before = self._step
        if before is None or step == int(before.at_s // STEP_S):
            self._step = before or sample
            return
        between = before, sample
        for queue in QUEUES:
            for metric in (_IN, _OUT):
                points = self._points.setdefault((queue, metric), deque(maxlen=POINTS))
                # One that was held up for several steps has the same rate in all of them.
                missed = min(step - int(before.at_s // STEP_S), POINTS)
                points.extend([_rate(between, metric, (queue,))] * missed)
        self._step, self._last_step = sample, step - 1


def _provider(
    name: str,
    rates: tuple[_Sample, _Sample] | None,
    minute: tuple[_Sample, _Sample] | None,
    gauges: Numbers,
) -> ProviderFlow:
    def gauge(metric: str) -> float:
        return sum(n for key, n in gauges.get(metric, {}).items() if values_of(key)[0] == name)

    circuits: dict[str, int] = {}
    for key, number in gauges.get("smsengine_provider_circuits", {}).items():
        provider, _, state = values_of(key)
        if provider == name and number:
            circuits[state] = circuits.get(state, 0) + int(number)
    limits = gauges.get("smsengine_provider_throughput", {})
    return ProviderFlow(
        sends_per_s=_rate(rates, _SENDS, (name,)),
        receipts_per_s=_rate(rates, _RECEIPTS, (name,)),
        answers=_grown(minute, _ANSWERS, (name,)),
        in_flight=int(gauge("smsengine_provider_in_flight")),
        waiting=int(gauge("smsengine_provider_waiting_messages")),
        throughput=limits.get(name),
        paused=bool(gauge("smsengine_provider_paused")),
        circuits=circuits,
    )


def _rate(between: tuple[_Sample, _Sample] | None, metric: str, labels: Sequence[str]) -> float:
    """How much the series with these first labels have grown, a second."""
    if between is None:
        return 0.0
    before, after = between
    had = before.counters[metric]
    grown = sum(
        number - had.get(key, 0)
        for key, number in after.counters[metric].items()
        if values_of(key)[: len(labels)] == list(labels)
    )
    # Counters of a process that just died may be missing for a moment.
    return round(max(0.0, grown) / max(after.at_s - before.at_s, 0.001), 2)


def _grown(between: tuple[_Sample, _Sample] | None, metric: str, labels: Sequence[str]) -> list[int]:
    """By how much the buckets of the series with these first labels have grown."""
    if between is None:
        return []
    before, after = between
    total: list[int] = []
    for key, counts in after.histograms[metric].items():
        if values_of(key)[: len(labels)] != list(labels):
            continue
        had = before.histograms[metric].get(key, [0.0] * len(counts))
        # The last number is the sum.
        grown = [max(0, int(n - m)) for n, m in zip(counts[:-1], had[:-1], strict=True)]
        total = grown if not total else [*map(sum, zip(total, grown, strict=True))]
    return total


def added_up(flows: Mapping[str, NodeFlow]) -> Flow:
    """The flows of several nodes, by name, as one."""
    total = Flow(nodes=sorted(flows))
    last = max((flow.step for flow in flows.values()), default=0)
    for queue in QUEUES:
        own = [(flow.step, flow.queues[queue]) for flow in flows.values() if queue in flow.queues]
        buckets = _sums(one.sent for _, one in own)
        total.queues[queue] = QueueRates(
            in_per_s=_sum(one.in_per_s for _, one in own),
            out_per_s=_sum(one.out_per_s for _, one in own),
            p50_ms=quantile_ms(buckets, SENT_S, 0.5),
            p99_ms=quantile_ms(buckets, SENT_S, 0.99),
            ins=_history([(last - step, one.ins) for step, one in own]),
            outs=_history([(last - step, one.outs) for step, one in own]),
        )
    for name in sorted({name for flow in flows.values() for name in flow.providers}):
        total.providers[name] = _provider_of_all(
            [flow.providers[name] for flow in flows.values() if name in flow.providers]
        )
    for what in _CREDIT:
        total.credit[what] = _sum(flow.credit.get(what, 0.0) for flow in flows.values())
    for what in _WEBHOOKS:
        total.webhooks[what] = _sum(flow.webhooks.get(what, 0.0) for flow in flows.values())
    return total


def _provider_of_all(own: Sequence[ProviderFlow]) -> ProviderRates:
    buckets = _sums(one.answers for one in own)
    circuits: dict[str, int] = {}
    for one in own:
        for state, workers in one.circuits.items():
            circuits[state] = circuits.get(state, 0) + workers
    return ProviderRates(
        sends_per_s=_sum(one.sends_per_s for one in own),
        receipts_per_s=_sum(one.receipts_per_s for one in own),
        p50_ms=quantile_ms(buckets, ANSWER_S, 0.5),
        p99_ms=quantile_ms(buckets, ANSWER_S, 0.99),
        in_flight=sum(one.in_flight for one in own),
        waiting=sum(one.waiting for one in own),
        # All workers share it.
        throughput=max((one.throughput for one in own if one.throughput is not None), default=None),
        paused=any(one.paused for one in own),
        circuits=circuits,
    )


def _sum(numbers: Iterable[float]) -> float:
    return round(sum(numbers), 2)


def _sums(rows: Iterable[Sequence[int]]) -> list[int]:
    """The sums by place. Rows of another length, of a version with other bounds, are left out."""
    total: list[int] = []
    for row in rows:
        if not total:
            total = list(row)
        elif len(row) == len(total):
            total = [*map(sum, zip(total, row, strict=True))]
    return total


def _history(rows: Sequence[tuple[int, Sequence[float]]]) -> list[float]:
    """The sum of histories, of which each ended so many steps ago."""
    length = max((ago + len(points) for ago, points in rows), default=0)
    total = [0.0] * min(length, POINTS)
    for ago, points in rows:
        for back, point in enumerate(reversed(points), start=ago + 1):
            if back <= len(total):
                total[-back] += point
    return [round(point, 2) for point in total]


def quantile_ms(buckets: Sequence[int], bounds_s: Sequence[float], part: float) -> float | None:
    """The time below which this part of the observations is, milliseconds; None without any.

    Inside a bucket they are taken as evenly spread; above the last bound it is that bound.
    """
    if len(buckets) != len(bounds_s) + 1 or not sum(buckets):
        return None
    wanted, below = part * sum(buckets), 0
    for place, count in enumerate(buckets[:-1]):
        if count and below + count >= wanted:
            low = bounds_s[place - 1] if place else 0.0
            return round(1000 * (low + (bounds_s[place] - low) * (wanted - below) / count), 1)
        below += count
    return round(1000 * bounds_s[-1], 1)
