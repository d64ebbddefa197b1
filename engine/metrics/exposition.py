"""Rule: metrics as text, in the format of Prometheus or of OpenMetrics, whichever the reader asks for.

    https://prometheus.io/docs/instrumenting/exposition_formats/ (version 0.0.4)
    https://prometheus.io/docs/specs/om/open_metrics_spec/ (version 1.0.0)

The two differ in the head of a counter, in what is escaped in a meaning, and in the last line. Labels stand
in the order of the catalogue.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate

from engine.metrics.catalogue import METRICS, Metric
from engine.metrics.snapshot import Counts, Numbers, values_of

OPENMETRICS = "application/openmetrics-text"
_TYPES = {
    False: "text/plain; version=0.0.4; charset=utf-8",
    True: f"{OPENMETRICS}; version=1.0.0; charset=utf-8",
}


def rendered(counts: Counts, gauges: Numbers, accept: str) -> tuple[bytes, str]:
    """The text, and its content type. `accept`: the header of the request, "" for none."""
    is_open = OPENMETRICS in accept
    lines: list[str] = []
    for metric in METRICS.values():
        if metric.kind == "histogram":
            buckets = counts.histograms.get(metric.name)
            if buckets:
                lines += _head(metric, is_open)
                lines += _histogram(metric, buckets)
            continue
        numbers = (counts.counters if metric.kind == "counter" else gauges).get(metric.name)
        if numbers:
            lines += _head(metric, is_open)
            lines += _plain(metric, numbers)
    if is_open:
        lines.append("# EOF")
    lines.append("")
    return "\n".join(lines).encode(), _TYPES[is_open]


def _head(metric: Metric, is_open: bool) -> list[str]:
    name = metric.name if is_open or metric.kind != "counter" else f"{metric.name}_total"
    meaning = metric.meaning.replace("\\", r"\\").replace("\n", r"\n")
    if is_open:
        meaning = meaning.replace('"', r"\"")
    return [f"# HELP {name} {meaning}.", f"# TYPE {name} {metric.kind}"]


def _plain(metric: Metric, numbers: dict[str, float]) -> Iterator[str]:
    name = metric.name + ("_total" if metric.kind == "counter" else "")
    for key, number in sorted(numbers.items()):
        labels = _labels(metric, key)
        yield f"{name}{{{labels}}} {number!r}" if labels else f"{name} {number!r}"


def _histogram(metric: Metric, series: dict[str, list[float]]) -> Iterator[str]:
    name = metric.name
    bounds = [*(f"{float(bound)!r}" for bound in metric.bounds_s), "+Inf"]
    for key, numbers in sorted(series.items()):
        labels = _labels(metric, key)
        *counts, sum_s = numbers
        before = f"{name}_bucket{{{labels}," if labels else f"{name}_bucket{{"
        total = 0.0
        for bound, total in zip(bounds, accumulate(counts), strict=True):
            yield f'{before}le="{bound}"}} {total!r}'
        braced = f"{{{labels}}}" if labels else ""
        yield f"{name}_count{braced} {total!r}"
        yield f"{name}_sum{braced} {sum_s!r}"


def _labels(metric: Metric, key: str) -> str:
    pairs = zip(metric.labels, values_of(key), strict=True) if metric.labels else ()
    return ",".join([f'{label}="{_escaped(value)}"' for label, value in pairs])


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
