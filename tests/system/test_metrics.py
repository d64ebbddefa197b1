"""One scrape counts for all processes of the node, and what a killed process counted stays."""

from __future__ import annotations

import json
import os
import signal
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families as prometheus

from engine.config import ROLES
from engine.metrics.catalogue import METRICS
from tests.system.conftest import Engine, start_engine

OPENMETRICS = "application/openmetrics-text; version=1.0.0"
# Longer than anything here takes, seconds.
LONG_S = 60.0
Series = dict[tuple[str, tuple[tuple[str, str], ...]], float]


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """One of its own: its processes are killed, and its counts begin with 0."""
    engine = start_engine(tmp_path_factory.mktemp("counted") / "data")
    yield engine
    assert engine.stop() == 0


def request(url: str, body: bytes | None = None, *, headers: dict[str, str]) -> tuple[int, str, bytes]:
    """Status, content type and body of one call."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, body, headers), timeout=LONG_S) as answer:
            return answer.status, answer.headers.get("Content-Type", ""), answer.read()
    except urllib.error.HTTPError as answer:
        return answer.code, answer.headers.get("Content-Type", ""), answer.read()


def text_of(engine: Engine, accept: str = "", key: str | None = None) -> tuple[int, str, str]:
    key = engine.admin_key if key is None else key
    headers = {"Accept": accept} | ({"Authorization": f"Bearer {key}"} if key else {})
    status, content_type, body = request(f"{engine.admin_url}/metrics", headers=headers)
    return status, content_type, body.decode()


def scrape(engine: Engine) -> Series:
    """Every series with its number; checked to be in the catalogue, with its labels."""
    status, _, text = text_of(engine)
    assert status == 200
    found: Series = {}
    for family in prometheus(text):
        metric = METRICS[family.name]
        assert family.type == metric.kind
        for sample in family.samples:
            assert sample.labels.keys() - {"le"} == set(metric.labels)
            found[sample.name, tuple(sorted(sample.labels.items()))] = sample.value
    return found


def total(series: Series, name: str, **labels: str) -> float:
    """The sum of the series of this name that have these labels."""
    wanted = labels.items()
    return sum(number for (of, theirs), number in series.items() if of == name and wanted <= set(theirs))


def until(engine: Engine, holds: Callable[[Series], bool]) -> Series:
    """Scrape until something is counted; the scrape. No counter may fall meanwhile."""
    deadline, before = time.monotonic() + LONG_S, Series()
    while True:
        now = scrape(engine)
        for key, number in before.items():
            # It goes with the place of its process: during a reload there is a place more.
            if key[0] != "smsengine_process_restarts_total" and key[0].endswith(
                ("_total", "_bucket", "_count")
            ):
                assert now[key] >= number, key
        if holds(now):
            return now
        assert time.monotonic() < deadline, text_of(engine)[2]
        before = now
        time.sleep(0.1)


def send(engine: Engine, queue: str, count: int, **more: Any) -> None:
    messages = [{"to": f"+4915112{at:06}", "text": "counted", "queue": queue} | more for at in range(count)]
    body = json.dumps({"messages": messages}).encode()
    headers = {"Authorization": f"Bearer {engine.api_key}", "Content-Type": "application/json"}
    status, _, answer = request(f"{engine.url}/v1/messages/batch", body, headers=headers)
    assert status == 202, answer


def test_a_whole_run_is_counted_as_it_was_sent(engine: Engine) -> None:
    send(engine, "express", 30)
    send(engine, "normal", 50)
    send(engine, "normal", 3, text="")
    send(engine, "normal", 2, send_at="2000-01-01T00:00:00Z")
    seen = until(engine, lambda s: total(s, "smsengine_archived_rows_total") == 2 * 80)
    for queue, count in (("express", 30), ("normal", 50)):
        assert total(seen, "smsengine_messages_accepted_total", queue=queue) == count
        assert total(seen, "smsengine_messages_sent_total", queue=queue) == count
        assert total(seen, "smsengine_provider_sends_total", queue=queue) == count
        assert total(seen, "smsengine_provider_verdicts_total", queue=queue, verdict="accepted") == count
        assert total(seen, "smsengine_provider_verdicts_total", queue=queue) == count
        assert total(seen, "smsengine_provider_answer_seconds_count", queue=queue) == count
        assert total(seen, "smsengine_accepted_to_sent_seconds_count", queue=queue) == count
        assert total(seen, "smsengine_accepted_to_sent_seconds_bucket", queue=queue, le="+Inf") == count
        assert total(seen, "smsengine_provider_circuits", queue=queue, state="closed") == 1
        assert total(seen, "smsengine_provider_in_flight", queue=queue) == 0
    assert total(seen, "smsengine_messages_refused_total") == 5
    assert total(seen, "smsengine_messages_refused_total", code="invalid_field") == 5
    assert total(seen, "smsengine_http_requests_total", status="202") == 4
    assert total(seen, "smsengine_submissions_total") == 4
    assert total(seen, "smsengine_ledger_answers_total", kind="grant") >= 1
    assert total(seen, "smsengine_queue_messages") == 0
    assert total(seen, "smsengine_status_part_up") == 6
    for store in ("redis", "postgres", "clickhouse"):
        assert total(seen, "smsengine_store_round_trip_seconds_count", store=store) > 0


def test_each_process_of_the_node_is_in_the_scrape(engine: Engine) -> None:
    roles = ROLES
    seen = until(engine, lambda s: total(s, "smsengine_processes") == len(roles))
    for role in roles:
        assert total(seen, "smsengine_processes", role=role) == 1
        process = f"{role} 1"
        assert total(seen, "smsengine_process_resident_memory_bytes", process=process, role=role) > 1e6
        assert total(seen, "smsengine_process_cpu_seconds_total", process=process, role=role) > 0
    until(
        engine, lambda s: all(total(s, "smsengine_process_loop_lag_seconds_count", role=r) > 0 for r in roles)
    )


def test_both_formats_are_served_and_only_with_a_key(engine: Engine) -> None:
    status, content_type, text = text_of(engine, OPENMETRICS)
    assert (status, content_type.partition(";")[0]) == (200, "application/openmetrics-text")
    assert text.endswith("# EOF\n")
    assert {family.name for family in openmetrics(text)} <= METRICS.keys()
    status, content_type, _ = text_of(engine)
    assert (status, content_type.partition(";")[0]) == (200, "text/plain")
    for key in ("", "wrong", engine.api_key):
        status, content_type, _ = text_of(engine, key=key)
        assert (status, content_type) == (401, "application/problem+json")
    seen = until(engine, lambda s: total(s, "smsengine_http_refusals_total", code="unauthorised") == 3)
    assert total(seen, "smsengine_http_requests_total", status="401") == 3


def pid_of(engine: Engine, role: str) -> int:
    rows = json.loads((engine.data_dir / "run" / "processes.json").read_bytes())["processes"]
    return next(row["pid"] for row in rows if row["role"] == role and row["state"] == "ready")


def test_a_killed_worker_takes_no_counts_along(engine: Engine) -> None:
    before = scrape(engine)
    sent, began = (
        total(before, "smsengine_messages_sent_total", queue="normal"),
        total(before, "smsengine_process_start_time_seconds", role="normal"),
    )
    send(engine, "normal", 40)
    # What a scrape has shown is in the worker's file, and the death cannot take it back.
    until(engine, lambda s: total(s, "smsengine_messages_sent_total", queue="normal") == sent + 40)
    for kills in range(1, 4):
        os.kill(pid_of(engine, "normal"), signal.SIGKILL)
        send(engine, "normal", 10)
        seen = until(
            engine,
            lambda s, wanted=sent + 40 + 10 * kills, kills=kills: (
                total(s, "smsengine_messages_sent_total", queue="normal") == wanted
                and total(s, "smsengine_processes", role="normal") == 1
                and total(s, "smsengine_process_restarts_total", role="normal") == kills
            ),
        )
        assert total(seen, "smsengine_process_start_time_seconds", role="normal") > began
        began = total(seen, "smsengine_process_start_time_seconds", role="normal")
    # One for each that lives; those of the dead were added up, but for one that died since.
    assert len(list((engine.data_dir / "run" / "metrics").glob("*.counts"))) <= 8


def test_counts_go_on_through_a_reload(tmp_path: Path) -> None:
    data, config = tmp_path / "data", tmp_path / "config.toml"
    config.write_text("[roles]\nexpress = 2\n")

    def began(series: Series) -> dict[Any, float]:
        return {key: n for key, n in series.items() if key[0] == "smsengine_process_start_time_seconds"}

    def all_sent(series: Series, count: int) -> bool:
        sent = total(series, "smsengine_messages_sent_total", queue="express")
        return sent == count and total(series, "smsengine_processes", role="express") == 2

    engine = start_engine(data, ("--demo", "--config", config))
    try:
        send(engine, "express", 20)
        first = until(engine, lambda s: all_sent(s, 20))
        (data / "secrets" / "metrics_key").write_text("only-for-metrics\n")
        engine.process.send_signal(signal.SIGHUP)
        # Workers and ingest are replaced one after another; two generations count at the same time.
        rolled = {key: n for key, n in began(first).items() if dict(key[1])["role"] in ("express", "ingest")}
        until(engine, lambda s: all(began(s).get(key, n) > n for key, n in rolled.items()))
        send(engine, "express", 20)
        until(engine, lambda s: all_sent(s, 40))
        assert text_of(engine, key="only-for-metrics")[0] == 200
    finally:
        assert engine.stop() == 0
    # Those of the last processes, and of those that were extra; the next start adds them up.
    assert len(list((data / "run" / "metrics").glob("*.counts"))) <= 11
