"""What `benchmarks.isolation` says of messages that waited, and where its reports go."""

from __future__ import annotations

import math
from pathlib import Path

import msgspec

from benchmarks.isolation import drained_of
from benchmarks.isolation_report import Found, Wait, report_name, write_report

WAITS = [
    Wait(when=when, provider="p50=80ms", who=who, messages=10, p50_ms=80.0, p99_ms=900.0)
    for when in ("alone", "beside")
    for who in ("express", "other shards", "same shard")
]
FOUND = Found(
    throughput=50.0,
    nodes=2,
    answers="p50=80ms",
    organisations=1000,
    waiting=2,
    backlog=20_000,
    left=19_000,
    sent_per_s=48,
    redis_us=31.5,
    waits=WAITS,
    drained=[],
)


def test_what_waited_is_timed_from_the_first_answer_on_and_what_was_not_answered_has_no_time() -> None:
    numbers = {"a0": 0, "a1": 1, "b0": 0, "b1": 1}
    found = drained_of("p50=80ms", numbers, {"a0": 100.0, "b0": 101.0, "a1": 103.0, "other": 99.0})
    assert (found.messages, found.sent) == (4, 3)
    assert (found.first_p50_s, found.first_last_s) == (1.0, 1.0)
    assert (found.p50_s, found.last_s) == (3.0, math.inf)


def test_a_run_with_many_organisations_keeps_its_report_apart_and_says_what_was_not_measured(
    tmp_path: Path,
) -> None:
    drained = drained_of("p50=80ms", {"a0": 0, "a1": 1}, {"a0": 100.0})
    found = msgspec.structs.replace(FOUND, drained=[drained])
    assert report_name(msgspec.structs.replace(FOUND, nodes=1, organisations=0, waiting=0)) == "isolation"
    write_report([found], tmp_path)
    page = (tmp_path / "isolation-2-nodes-1000-organisations-2-waiting.md").read_text()
    assert "--nodes 2 --organisations 1000 --waiting 2" in page
    assert "48 a\nsecond were sent, with 31.5 µs of CPU of Redis each." in page
    assert "| p50=80ms | 2 | 1 | 0.0 | 0.0 | - | - |" in page


def test_a_run_with_several_backlogs_keeps_its_report_apart_and_says_whose_they_are(tmp_path: Path) -> None:
    found = msgspec.structs.replace(FOUND, nodes=1, organisations=0, waiting=0, heavy=100)
    write_report([found], tmp_path)
    page = (tmp_path / "isolation-100-heavy.md").read_text()
    assert "benchmarks.isolation --heavy 100`" in page
    assert "100 organisations have backlogs of normal." in page
