"""The meter shows records where the catalogue says, and goes on when its file cannot be written."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest
import structlog
from structlog.testing import capture_logs

from engine.boot.loop_lag import watch_lag
from engine.boot.meter import Meter
from engine.boot.metric_files import read_all
from engine.delivery.settlement_counts import SettlementCounts
from engine.delivery.verdict_counts import VerdictCounts
from engine.histogram import ROUND_TRIP_S, SENT_S, Histogram
from engine.metrics.snapshot import added
from tests.providers.scripted import until


def meter(directory: Path | None = None) -> Meter:
    return Meter("express", "node.express.1", directory, structlog.get_logger())


def test_a_record_is_shown_with_the_labels_of_its_process_and_its_own() -> None:
    shown, ended, verdicts = meter(), SettlementCounts(sent=3), VerdictCounts(accepted=2, unknown=1)
    shown.watch("messages ended", ended)
    shown.watch("provider verdicts", verdicts, provider="a")
    ended.sent += 1
    counters = shown.snapshot().counts.counters
    assert counters["smsengine_messages_sent"] == {"express": 4}
    of_provider = counters["smsengine_provider_verdicts"]
    assert {key.replace("\x1f", " "): n for key, n in of_provider.items() if n} == {
        "a express accepted": 2,
        "a express unknown": 1,
    }


def test_two_records_of_the_same_series_are_added() -> None:
    shown = meter()
    for sent in (1, 2):
        times = Histogram(SENT_S)
        times.add(0.001 * sent)
        shown.watch("messages ended", SettlementCounts(sent=sent))
        shown.histogram("smsengine_accepted_to_sent_seconds", times)
    counts = shown.snapshot().counts
    assert counts.counters["smsengine_messages_sent"] == {"express": 3}
    *buckets, total_s = counts.histograms["smsengine_accepted_to_sent_seconds"]["express"]
    assert (sum(buckets), total_s) == (2, pytest.approx(0.003))


def test_what_the_catalogue_does_not_have_is_a_fault() -> None:
    with pytest.raises(KeyError):
        meter().watch("something else", SettlementCounts())
    with pytest.raises(KeyError):
        meter().watch("messages ended", VerdictCounts())


async def test_it_copies_what_was_counted_and_once_more_at_the_end(tmp_path: Path) -> None:
    shown, ended = meter(tmp_path / "metrics"), SettlementCounts(sent=1)
    shown.watch("messages ended", ended)

    def sent() -> float:
        found = read_all(tmp_path / "metrics")
        numbers = added(one.counts for one in found.snapshots.values()).counters
        return numbers.get("smsengine_messages_sent", {}).get("express", 0)

    running = asyncio.create_task(shown.run())
    await until(lambda: (tmp_path / "metrics").exists() and sent() == 1)
    ended.sent = 2
    running.cancel()
    shown.close()
    assert sent() == 2
    assert (await shown.read_all()).living == {"node.express.1"}


async def test_a_directory_that_cannot_be_written_costs_the_process_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "metrics").write_text("no directory")
    with capture_logs() as logs:
        shown = meter(tmp_path / "metrics")
        running = asyncio.create_task(shown.run())
        await until(lambda: bool(logs))
        running.cancel()
        shown.close()
    assert [line["event"] for line in logs] == ["metrics of this process are not kept"]
    assert (await shown.read_all()).snapshots.keys() == {"node.express.1"}


def test_the_time_in_which_the_loop_has_work_is_counted_and_that_in_which_it_has_none_is_not() -> None:
    shown = meter()

    def counted(metric: str) -> float:
        return sum(shown.snapshot().counts.counters[metric].values())

    busy_s, cpu_s = counted("smsengine_process_busy_seconds"), counted("smsengine_process_cpu_seconds")
    end_s = time.thread_time() + 0.05
    while time.thread_time() < end_s:
        pass
    assert counted("smsengine_process_busy_seconds") - busy_s >= 0.045
    assert counted("smsengine_process_cpu_seconds") - cpu_s >= 0.045


async def test_how_long_a_timer_waits_for_the_loop_is_seen() -> None:
    lag, works = Histogram(ROUND_TRIP_S), []
    watching = asyncio.create_task(watch_lag(lag, lambda: bool(works)))
    try:
        await asyncio.sleep(0.2)
        assert sum(lag.counts) == 0, "a process at rest is left alone"
        works.append(1)
        await until(lambda: sum(lag.counts) > 0)
        before_s = lag.sum_s
        # Whenever the next look is due, this holds it up.
        time.sleep(0.25)  # noqa: ASYNC251 - a loop that is held up is what is seen
        await until(lambda: sum(lag.counts) > 1)
        assert lag.sum_s - before_s >= 0.09
    finally:
        watching.cancel()
