"""Rule: what one process has counted, and how the counts of many become one.

Counters and histograms only grow. So what a process counted stays true when it is dead, and is added to the
totals of the dead once (`folded`). Gauges are of the living alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from engine.metrics.catalogue import METRICS, Metric

# Between the values of labels that are one key.
_BETWEEN = "\x1f"

# By metric, by the values of its labels in their order, joined: a number.
Numbers = dict[str, dict[str, float]]
# The same, with the counts of a histogram's buckets, and last the sum of its observations, seconds.
Buckets = dict[str, dict[str, list[float]]]


class Counts(msgspec.Struct, kw_only=True):
    """Counters and histograms: what may be added up for all time."""

    counters: Numbers = {}
    histograms: Buckets = {}
    # By histogram, its upper bounds when it was counted; counts with other bounds are not added.
    bounds_s: dict[str, tuple[float, ...]] = {}


class Snapshot(msgspec.Struct, kw_only=True):
    """Everything that one process shows at one time."""

    role: str
    counts: Counts
    gauges: Numbers = {}


class Totals(msgspec.Struct, kw_only=True):
    """What dead processes counted."""

    # Goes up with each change.
    version: int = 0
    # The files whose counts are in here, and which may not be deleted yet.
    names: list[str] = []
    counts: Counts = msgspec.field(default_factory=Counts)


def key_of(metric: Metric, labels: Mapping[str, str]) -> str:
    """The key of the series of `metric` with these labels. Raises KeyError for a label without a value."""
    return _BETWEEN.join([labels[label] for label in metric.labels])


def values_of(key: str) -> list[str]:
    """The values of the labels in a key, in the order of the metric's labels."""
    return key.split(_BETWEEN) if key else []


def added(parts: Iterable[Counts]) -> Counts:
    """The sum of all parts. Metrics that this version does not know, or with other bounds, are left out."""
    total = Counts()
    for part in parts:
        for name, numbers in part.counters.items():
            if name in METRICS and METRICS[name].kind == "counter":
                into = total.counters.setdefault(name, {})
                for key, number in numbers.items():
                    into[key] = into.get(key, 0) + number
        for name, series in part.histograms.items():
            metric = METRICS.get(name)
            if metric is None or metric.bounds_s != tuple(part.bounds_s.get(name, ())):
                continue
            total.bounds_s[name] = metric.bounds_s
            sums = total.histograms.setdefault(name, {})
            for key, counts in series.items():
                before = sums.get(key)
                sums[key] = list(counts) if before is None else [*map(sum, zip(before, counts, strict=True))]
    return total


def joined(gauges: Iterable[Numbers]) -> Numbers:
    """The gauges of all living processes as one, by the rule of each metric."""
    total: Numbers = {}
    for part in gauges:
        for name, numbers in part.items():
            metric = METRICS.get(name)
            if metric is None or metric.kind != "gauge":
                continue
            into = total.setdefault(name, {})
            for key, number in numbers.items():
                if key not in into:
                    into[key] = number
                else:
                    into[key] = max(into[key], number) if metric.across == "max" else into[key] + number
    return total


def folded(totals: Totals, dead: Mapping[str, Counts]) -> Totals:
    """`totals` with what the processes of these files counted; the files of `totals.names` are gone."""
    return Totals(
        version=totals.version + 1,
        names=sorted(dead),
        counts=added([totals.counts, *dead.values()]),
    )
