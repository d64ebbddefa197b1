"""What it costs a message to be in the histograms and counters of a worker.

    pytest -o python_files='bench_*.py' benchmarks/micro/bench_histogram.py

`extra_info` holds microseconds a message. The bound is 0.2 for all that a batch of messages costs.
"""

from __future__ import annotations

from random import Random
from typing import Any

import msgspec
import pytest

from engine.delivery.sent import SentEntries
from engine.delivery.settlement_counts import SettlementCounts
from engine.histogram import SENT_S, Histogram
from engine.records import Entry, Message

AT_US = 1_795_335_960_000_000
_TOOK_S = 0.04


def entries(count: int) -> list[Entry]:
    """Messages that were sent after some 40 ms."""
    rng = Random(1)
    usual = Message(
        id="", organisation_id=1, to="+4915112345678", text="", sender="", encoding="GSM-7", segments=1,
        units=1, accepted_at_us=0, expires_at_us=2 * AT_US,
    )  # fmt: skip
    messages = (
        msgspec.structs.replace(usual, accepted_at_us=AT_US - int(rng.expovariate(1 / _TOOK_S) * 1e6))
        for _ in range(count)
    )
    return [Entry(shard=0, queue="express", entry_id=b"1-0", message=message) for message in messages]


@pytest.mark.parametrize("size", [1, 20, 200, 1000])
def test_counting_what_a_flush_has_settled(benchmark: Any, size: int) -> None:
    counts, times = SettlementCounts(), Histogram(SENT_S, unit_s=1e-6)
    sent = (SentEntries(entries(size), [], AT_US),)
    benchmark(counts.add, (), sent, times)
    benchmark.extra_info["us_a_message"] = round(benchmark.stats.stats.min / size * 1e6, 3)
    assert counts.sent == sum(times.counts)


def test_one_observation(benchmark: Any) -> None:
    times = Histogram(SENT_S)
    benchmark(times.add, _TOOK_S)
    benchmark.extra_info["us_a_message"] = round(benchmark.stats.stats.min * 1e6, 3)
