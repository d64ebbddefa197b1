"""Every counter is a metric, every metric is explained, and what rules and boards name is there."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path
from typing import Any

import msgspec
import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families as prometheus
from prometheus_client.registry import Collector

from engine.activity.archiver import ArchiverCounts
from engine.credit.accepted_counts import AcceptedCounts
from engine.credit.answer_counts import AnswerCounts
from engine.delivery.settlement_counts import SettlementCounts
from engine.delivery.verdict_counts import VerdictCounts
from engine.inbound.inbox import InboundCounts
from engine.inbound.reply_sending import AutoReplyCounts
from engine.intake.under_way import CreditWaits
from engine.metrics.catalogue import METRICS, RECORDS, Metric
from engine.metrics.exposition import rendered
from engine.metrics.snapshot import Counts, Numbers, Totals, added, folded, joined, key_of, values_of
from engine.providers.smpp.session import Counts as SmppCounts
from engine.receipts.ends import MatchCounts
from engine.stores.redis.receipt_sink import ReceiptCounts
from engine.webhooks.keeper import KeeperCounts
from engine.webhooks.notifier import NotifierCounts
from engine.webhooks.sender import SenderCounts

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "metrics.md"
# As Prometheus sends them.
ACCEPTS = {
    "text": "text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
    "openmetrics": "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3",
}
PARSERS: dict[str, Any] = {"text": prometheus, "openmetrics": openmetrics}
WATCHED = {
    "messages accepted": AcceptedCounts(),
    "messages ended": SettlementCounts(),
    "provider verdicts": VerdictCounts(),
    "provider traffic": SmppCounts(),
    "receipts stored": ReceiptCounts(),
    "receipts matched": MatchCounts(),
    "archived": ArchiverCounts(),
    "inbound stored": InboundCounts(),
    "auto-replies": AutoReplyCounts(),
    "credit found": CreditWaits(),
    "ledger answers": AnswerCounts(),
    "webhook events": NotifierCounts(),
    "webhook attempts": SenderCounts(),
    "webhook deliveries kept": KeeperCounts(),
}


def shown(metric: Metric) -> str:
    """The name as a reader of the page sees it."""
    return metric.name + ("_total" if metric.kind == "counter" else "")


def everything() -> tuple[Counts, Numbers]:
    """One series of each metric."""
    counts, gauges = Counts(), Numbers()
    for number, metric in enumerate(METRICS.values(), 1):
        key = key_of(metric, {label: f'a "{label}"\n\\' for label in metric.labels})
        if metric.kind == "histogram":
            counts.histograms[metric.name] = {key: [1.0] * (len(metric.bounds_s) + 1) + [float(number)]}
            counts.bounds_s[metric.name] = metric.bounds_s
        else:
            (counts.counters if metric.kind == "counter" else gauges)[metric.name] = {key: float(number)}
    return counts, gauges


@pytest.mark.parametrize("event", RECORDS)
def test_every_counter_of_a_record_has_its_metric(event: str) -> None:
    assert RECORDS[event].keys() == set(WATCHED[event].__struct_fields__)
    for place in RECORDS[event].values():
        if place is not None:
            assert METRICS[place.metric].kind == "counter"
            assert place.labels.keys() <= set(METRICS[place.metric].labels)


def test_names_are_as_prometheus_wants_them() -> None:
    for metric in METRICS.values():
        assert re.fullmatch(r"smsengine_[a-z_]+", metric.name)
        assert not metric.name.endswith(("_total", "_count", "_sum", "_bucket", "_ms", "_us"))
        assert not {"organisation", "organisation_id", "message_id", "to", "le"} & set(metric.labels)
        assert (metric.kind == "histogram") == bool(metric.bounds_s)
        assert list(metric.bounds_s) == sorted(set(metric.bounds_s))


class Written(Collector):
    """The same for the library to write."""

    def __init__(self, counts: Counts, gauges: Numbers) -> None:
        self.counts, self.gauges = counts, gauges

    def collect(self) -> Iterator[Family]:
        for metric in METRICS.values():
            meaning, labels = f"{metric.meaning}.", metric.labels
            if metric.kind == "histogram":
                family = HistogramMetricFamily(metric.name, meaning, labels=labels)
                for key, (*counts, sum_s) in self.counts.histograms[metric.name].items():
                    bounds = [*map(repr, map(float, metric.bounds_s)), "+Inf"]
                    buckets = list(zip(bounds, accumulate(counts), strict=True))
                    family.add_metric(values_of(key), buckets, sum_value=sum_s)
                yield family
                continue
            make = CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily
            family = make(metric.name, meaning, labels=labels)
            numbers = self.counts.counters if metric.kind == "counter" else self.gauges
            for key, number in numbers[metric.name].items():
                family.add_metric(values_of(key), number)
            yield family


@pytest.mark.parametrize("form", ACCEPTS)
def test_the_library_reads_what_it_would_have_written(form: str) -> None:
    counts, gauges = everything()
    registry = CollectorRegistry(auto_describe=False)
    registry.register(Written(counts, gauges))
    encode, library_type = choose_encoder(ACCEPTS[form])
    body, content_type = rendered(counts, gauges, ACCEPTS[form])
    assert content_type.split("; ")[:2] == library_type.split("; ")[:2]
    ours, theirs = list(PARSERS[form](body.decode())), list(PARSERS[form](encode(registry).decode()))
    assert [family.name for family in ours] == list(METRICS)
    assert ours == theirs


def test_the_sum_of_processes_is_the_sum_of_each_series() -> None:
    counts, gauges = everything()
    twice = added([counts, counts])
    for name, series in counts.counters.items():
        assert twice.counters[name] == {key: 2 * number for key, number in series.items()}
    for name, buckets in counts.histograms.items():
        assert twice.histograms[name] == {key: [2 * n for n in numbers] for key, numbers in buckets.items()}
    both = joined([gauges, gauges])
    for name, series in gauges.items():
        factor = 1 if METRICS[name].across == "max" else 2
        assert both[name] == {key: factor * number for key, number in series.items()}


def test_what_another_version_counted_is_added_where_it_is_the_same() -> None:
    older = Counts(
        counters={"smsengine_messages_sent": {"normal": 3.0}, "smsengine_gone": {"": 1.0}},
        histograms={"smsengine_process_loop_lag_seconds": {"ingest": [1.0, 2.0, 3.0]}},
        bounds_s={"smsengine_process_loop_lag_seconds": (0.1, 1.0)},
    )
    blob = msgspec.msgpack.encode(folded(Totals(), {"a": older}))
    totals = msgspec.msgpack.decode(blob, type=Totals)
    assert totals.names == ["a"]
    assert totals.counts == Counts(counters={"smsengine_messages_sent": {"normal": 3.0}})


def test_the_page_explains_every_metric() -> None:
    rows = re.findall(r"^\| `(smsengine_\w+)` \| (\w+) \| ([^|]*) \| ([^|]+) \|$", PAGE.read_text(), re.M)
    explained = {
        name: (kind, re.findall(r"`(\w+)`", labels), meaning) for name, kind, labels, meaning in rows
    }
    assert explained == {
        shown(metric): (metric.kind, list(metric.labels), metric.meaning) for metric in METRICS.values()
    }


def series_names() -> set[str]:
    """All names that an expression may ask for."""
    names = set()
    for metric in METRICS.values():
        ends = ("_bucket", "_count", "_sum") if metric.kind == "histogram" else ("",)
        names |= {shown(metric) + end for end in ends}
    return names


@pytest.mark.parametrize(
    "file", ["deploy/prometheus/smsengine.rules.yml", "deploy/grafana/smsengine.json", "docs/alerts.md"]
)
def test_what_rules_and_boards_ask_for_is_there(file: str) -> None:
    text = (ROOT / file).read_text()
    recorded = set(re.findall(r"record: (\S+)", (ROOT / "deploy/prometheus/smsengine.rules.yml").read_text()))
    asked = set(re.findall(r"\bsmsengine_\w+", text)) - {"smsengine_"}
    recordings = set(re.findall(r"\bsmsengine:[\w:]+", text))
    assert asked | recordings
    assert asked <= series_names()
    assert recordings <= recorded


def test_every_alert_says_what_to_do() -> None:
    rules = (ROOT / "deploy/prometheus/smsengine.rules.yml").read_text()
    alerts = re.findall(r"alert: (\w+)", rules)
    assert len(alerts) > 10
    headings = re.findall(r"^## (\w+)$", (ROOT / "docs/alerts.md").read_text(), re.M)
    assert headings == alerts
    assert rules.count("runbook: docs/alerts.md#") == len(alerts)
    for alert in alerts:
        assert f"runbook: docs/alerts.md#{alert.lower()}\n" in rules
