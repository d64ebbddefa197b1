"""Rule: metrics as text, in the format of Prometheus or of OpenMetrics, whichever the reader asks for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import accumulate

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
)
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.registry import Collector

from engine.metrics.catalogue import METRICS, Metric
from engine.metrics.snapshot import Counts, Numbers, values_of


def rendered(counts: Counts, gauges: Numbers, accept: str) -> tuple[bytes, str]:
    """The text, and its content type. `accept`: the header of the request, "" for none."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Families(counts, gauges))
    encode, content_type = choose_encoder(accept)
    return encode(registry), content_type


class _Families(Collector):
    """What is shown, as the library wants it."""

    def __init__(self, counts: Counts, gauges: Numbers) -> None:
        self._counts = counts
        self._gauges = gauges

    def describe(self) -> Iterable[Family]:
        """None: nothing else is in the registry that a name could collide with."""
        return ()

    def collect(self) -> Iterator[Family]:
        """Each metric that has at least one series, in the order of the catalogue."""
        for metric in METRICS.values():
            if metric.kind == "histogram":
                series = self._counts.histograms.get(metric.name)
                if series:
                    yield _histogram(metric, series)
                continue
            numbers = (self._counts.counters if metric.kind == "counter" else self._gauges).get(metric.name)
            if numbers:
                yield _plain(metric, numbers)


def _plain(metric: Metric, numbers: dict[str, float]) -> Family:
    make = CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily
    family = make(metric.name, f"{metric.meaning}.", labels=metric.labels)
    for key, number in sorted(numbers.items()):
        family.add_metric(values_of(key), number)
    return family


def _histogram(metric: Metric, series: dict[str, list[float]]) -> Family:
    family = HistogramMetricFamily(metric.name, f"{metric.meaning}.", labels=metric.labels)
    bounds = [*(f"{bound:g}" for bound in metric.bounds_s), "+Inf"]
    for key, numbers in sorted(series.items()):
        *counts, sum_s = numbers
        family.add_metric(values_of(key), list(zip(bounds, accumulate(counts), strict=True)), sum_value=sum_s)
    return family
