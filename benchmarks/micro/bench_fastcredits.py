"""What a call of the credit map costs, compared with an empty method call and with a Python dict.

    pytest benchmarks/micro/bench_fastcredits.py -s

All are measured in one run, each with the cost of the Python loop that makes the calls.
Organisations are drawn by Zipf's law: a few send most. BENCH_ROUNDS makes it longer.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from array import array
from collections.abc import Callable
from functools import cache, partial
from typing import NamedTuple

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.micro.empty_call import Empty, build_empty
from benchmarks.micro.rounds import fastest_ns
from engine._fastcredits import CreditMap

CALLS = 20_000
# As many as one group commit under load.
BATCH = 1_000
ROUNDS = int(os.environ.get("BENCH_ROUNDS", "60"))
PLENTY = 10**12

RESERVE_OVER_EMPTY_MAX = 1.3
DICT_OVER_RESERVE_MIN = 4
DICT_OVER_BATCH_MIN = 20


class DictCredits:
    """The same logic on dicts with int keys."""

    def __init__(self) -> None:
        self.remaining: dict[int, int] = {}
        self.used: dict[int, int] = {}

    def grant(self, organisation_id: int, units: int) -> None:
        """Add units to what the organisation may spend."""
        self.remaining[organisation_id] = self.remaining.get(organisation_id, 0) + units

    def reserve(self, organisation_id: int, units: int) -> bool:
        """Spend the units if the organisation has them; return whether it had."""
        remaining = self.remaining
        left = remaining.get(organisation_id, 0)
        if left < units:
            return False
        remaining[organisation_id] = left - units
        used = self.used
        used[organisation_id] = used.get(organisation_id, 0) + units
        return True

    def reserve_batch(self, organisation_ids: list[int], units: list[int]) -> list[bool]:
        """`reserve` for each pair, without a call for each: the fastest that Python can do."""
        remaining, used, verdicts = self.remaining, self.used, []
        for organisation_id, amount in zip(organisation_ids, units, strict=True):
            left = remaining.get(organisation_id, 0)
            if left < amount:
                verdicts.append(False)
                continue
            remaining[organisation_id] = left - amount
            used[organisation_id] = used.get(organisation_id, 0) + amount
            verdicts.append(True)
        return verdicts


class Load(NamedTuple):
    """The calls of one round: CALLS of them."""

    organisations: list[int]
    # One of `organisations` for each call, and what it costs.
    ids: list[int]
    units: list[int]


@cache
def load(organisations: int) -> Load:
    """CALLS calls for this number of organisations, drawn by Zipf's law; the same ones each time."""
    rng = random.Random(organisations)
    everyone = list(range(100_000, 100_000 + organisations))
    rng.shuffle(everyone)
    ids = rng.choices(everyone, [1 / rank for rank in range(1, organisations + 1)], k=CALLS)
    return Load(everyone, ids, [1 + i % 3 for i in range(CALLS)])


def each(call: Callable[[int, int], bool], work: Load) -> None:
    """Make all calls of `work`, one after another."""
    for organisation_id, units in zip(work.ids, work.units, strict=True):
        call(organisation_id, units)


def granted(work: Load) -> tuple[CreditMap, DictCredits]:
    """Both maps, with PLENTY units for every organisation of `work`."""
    fast, plain = CreditMap(), DictCredits()
    for organisation_id in work.organisations:
        fast.grant(organisation_id, PLENTY)
        plain.grant(organisation_id, PLENTY)
    return fast, plain


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Empty:
    """The extension type with empty methods, compiled for this module."""
    return build_empty(tmp_path_factory.mktemp("empty_call"))


@pytest.mark.parametrize("organisations", [10, 10_000, 1_000_000])
def test_reserve_one_at_a_time(benchmark: BenchmarkFixture, empty: Empty, organisations: int) -> None:
    work = load(organisations)
    fast, plain = granted(work)
    ns = fastest_ns(
        {
            "empty": partial(each, empty.typed, work),
            "untyped": partial(each, empty.untyped, work),
            "reserve": partial(each, fast.reserve, work),
            "dict": partial(each, plain.reserve, work),
        },
        CALLS,
        ROUNDS,
    )
    over_empty, over_dict = ns["reserve"] / ns["empty"], ns["dict"] / ns["reserve"]
    print(
        f"\n{organisations:>9,} organisations: reserve {ns['reserve']:.1f} ns, "
        f"empty call {ns['empty']:.1f} ns (arguments not read: {ns['untyped']:.1f}), "
        f"dict {ns['dict']:.1f} ns; reserve/empty {over_empty:.2f}, dict/reserve {over_dict:.1f}"
    )
    benchmark.extra_info.update(ns)
    benchmark.pedantic(each, (fast.reserve, work), rounds=5)  # type: ignore[no-untyped-call]
    # With a million it is the processor's caches that are measured.
    if organisations <= 10_000:
        assert over_empty <= RESERVE_OVER_EMPTY_MAX
        assert over_dict >= DICT_OVER_RESERVE_MIN


@pytest.mark.parametrize("organisations", [10, 10_000, 1_000_000])
def test_reserve_in_batches(benchmark: BenchmarkFixture, organisations: int) -> None:
    work = load(organisations)
    fast, plain = granted(work)
    spans = [slice(i, i + BATCH) for i in range(0, CALLS, BATCH)]
    lists = [(work.ids[span], work.units[span]) for span in spans]
    arrays = [(array("q", ids), array("q", units)) for ids, units in lists]

    def by_list() -> None:
        for ids, units in lists:
            fast.reserve_batch(ids, units)

    def by_array() -> None:
        for ids, units in arrays:
            fast.reserve_batch(ids, units)

    def by_dict() -> None:
        for ids, units in lists:
            plain.reserve_batch(ids, units)

    calls = partial(each, plain.reserve, work)
    ns = fastest_ns({"list": by_list, "array": by_array, "dict": by_dict, "calls": calls}, CALLS, ROUNDS)
    print(
        f"\n{organisations:>9,} organisations, batches of {BATCH:,}, per item: "
        f"list {ns['list']:.2f} ns, array('q') {ns['array']:.2f} ns, "
        f"dict in one loop {ns['dict']:.1f} ns, dict call by call {ns['calls']:.1f} ns; "
        f"dict loop/list {ns['dict'] / ns['list']:.1f}, dict loop/array {ns['dict'] / ns['array']:.1f}, "
        f"dict calls/list {ns['calls'] / ns['list']:.1f}"
    )
    benchmark.extra_info.update(ns)
    benchmark.pedantic(by_array, rounds=5)  # type: ignore[no-untyped-call]
    assert ns["dict"] / ns["array"] >= DICT_OVER_BATCH_MIN


# In a process of its own: how large blocks grow depends on what was freed before.
RESIDENT = """
from pathlib import Path
from engine._fastcredits import CreditMap
def resident():
    return int(Path("/proc/self/statm").read_text().split()[1])
credits_, before = CreditMap(), resident()
for organisation_id in range(1_000_000):
    credits_.grant(organisation_id, 10)
    credits_.reserve(organisation_id, 1)
print(resident() - before)
"""


def test_a_million_organisations(benchmark: BenchmarkFixture) -> None:
    def fill() -> CreditMap:
        credits_ = CreditMap()
        for organisation_id in range(1_000_000):
            credits_.grant(organisation_id, 1000)
        return credits_

    credits_ = fill()
    ended = subprocess.run([sys.executable, "-c", RESIDENT], capture_output=True, check=True, timeout=60)
    resident = int(ended.stdout) * os.sysconf("SC_PAGE_SIZE")

    def drain_ms(touched: int) -> float:
        for organisation_id in range(touched):
            credits_.reserve(organisation_id, 1)
        begun = time.perf_counter()
        assert len(credits_.drain()) == touched
        return (time.perf_counter() - begun) * 1e3

    few, many = min(drain_ms(10) for _ in range(10)), drain_ms(1_000_000)
    print(
        f"\n1,000,000 organisations: {credits_.memory_bytes / 1e6:.1f} MB allocated, "
        f"{resident / 1e6:.1f} MB resident when all are used; "
        f"drain of 10 touched {few:.4f} ms, of all {many:.0f} ms"
    )
    benchmark.extra_info.update(memory_bytes=credits_.memory_bytes, resident_bytes=resident)
    benchmark.pedantic(fill, rounds=2)  # type: ignore[no-untyped-call]
    assert max(credits_.memory_bytes, resident) <= 64_000_000
