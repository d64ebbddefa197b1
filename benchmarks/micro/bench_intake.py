"""What it costs to take a message in: from a draft to what is written to Redis.

    pytest benchmarks/micro/bench_intake.py -s

The compiled pass over a request is compared with the rule that it stands for, one message at a time, and the
compiled writer with msgspec, which writes the same octets. BENCH_ROUNDS makes it longer.
"""

from __future__ import annotations

import os

import msgspec
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.micro.rounds import fastest_ns
from engine import bundle_format, message_format
from engine.activity.row import row_of
from engine.intake.addressing import Addressing
from engine.intake.pricing import PriceTable
from engine.records import Addressed, MessageDraft, Submission
from engine.stores.redis._portion import Portion

ROUNDS = int(os.environ.get("BENCH_ROUNDS", "20"))
MESSAGES = 1_000
TEXT = "Your verification code is 482913. Do not share it with anyone."
NOW_US = 1_800_000_000_000_000
ADDRESSING = Addressing(PriceTable({"": 1, "+98": 2, "+4477": 3}), {"express": 300, "normal": 86_400})


@pytest.mark.parametrize("size", [1, 100])
def test_from_a_draft_to_octets(benchmark: BenchmarkFixture, size: int) -> None:
    draft = MessageDraft(to="+989121234567", text=TEXT)
    drafts = [draft] * size
    ids = ["01a202a3-c111-7fd3-92d4-9ad3082ddfbb"] * size
    requests = range(MESSAGES // size)

    def whole() -> None:
        for _ in requests:
            ADDRESSING.address_all(7, ids, drafts, NOW_US)

    def each() -> None:
        for _ in requests:
            [ADDRESSING.address(7, i, d, NOW_US) for i, d in zip(ids, drafts, strict=True)]

    taken, units = ADDRESSING.address_all(7, ids, drafts, NOW_US)
    messages = [one for one in taken if isinstance(one, Addressed)]
    submission = Submission(organisation_id=7, messages=messages, units=units)

    def written() -> None:
        for _ in requests:
            portion = Portion(0, b"", False)
            portion.add(submission)
            portion.arguments()

    def written_by_msgspec() -> None:
        for _ in requests:
            for one in messages:
                m = one.message
                row = row_of(m, m.id, one.queue, "accepted", NOW_US, expires_at_us=m.expires_at_us)
                msgspec.msgpack.encode(row)
                bundle_format.record(m.segments, message_format.packed(m))

    ways = {
        "addressed as a whole": whole,
        "addressed each": each,
        "written as a whole": written,
        "written each": written_by_msgspec,
    }
    us = {way: ns / 1e3 for way, ns in fastest_ns(ways, MESSAGES, ROUNDS).items()}
    print(f"\n{size} a request: " + ", ".join(f"{way} {time_us:.2f} µs" for way, time_us in us.items()))
    benchmark.extra_info.update(us)
    benchmark.pedantic(whole, rounds=5)  # type: ignore[no-untyped-call]
    assert us["addressed as a whole"] < us["addressed each"]
