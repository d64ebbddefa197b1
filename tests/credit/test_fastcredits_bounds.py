"""The bounds of the credit map: what it refuses, its memory, the spread of its entries."""

from __future__ import annotations

import random
import subprocess
import sys
import time
import tracemalloc
from array import array
from collections.abc import Callable

import pytest

from engine._fastcredits import CreditMap

LARGEST = 2**63 - 1


@pytest.mark.parametrize("units", [0, -1, -LARGEST])
def test_amounts_below_one_are_refused_and_change_nothing(units: int) -> None:
    credits_ = CreditMap()
    credits_.grant(7, 5)
    for call in (credits_.reserve, credits_.release):
        with pytest.raises(ValueError, match="units must be at least 1"):
            call(7, units)
    with pytest.raises(ValueError, match="units must be at least 1"):
        credits_.reserve_batch([7, 7], [1, units])
    if units:
        with pytest.raises(ValueError, match="units must be at least 0"):
            credits_.grant(7, units)
    assert (credits_.items(), credits_.drain()) == ([(7, 5)], [])


@pytest.mark.parametrize("wrong", [1.0, "1", None, b"1"])
def test_what_is_not_an_integer_is_refused(wrong: object) -> None:
    credits_ = CreditMap()
    credits_.grant(1, 5)
    calls: list[Callable[..., object]] = [credits_.grant, credits_.reserve, credits_.release]
    for call in calls:
        for arguments in ((wrong, 1), (1, wrong)):
            with pytest.raises(TypeError, match="integer"):
                call(*arguments)
    for lone in (credits_.remaining, credits_.take, credits_.forget, credits_.__contains__):
        with pytest.raises(TypeError, match="integer"):
            lone(wrong)  # type: ignore[arg-type,operator]
    with pytest.raises(TypeError, match="integer"):
        credits_.reserve_batch([1, wrong], [1, 1])  # type: ignore[list-item]
    assert (credits_.items(), credits_.drain()) == ([(1, 5)], [])


def test_amounts_overflow_loudly_and_never_wrap() -> None:
    credits_ = CreditMap()
    credits_.grant(7, LARGEST)
    with pytest.raises(OverflowError):
        credits_.grant(7, 1)
    assert credits_.reserve(7, LARGEST) is True
    # What is used and may yet be released counts as well.
    with pytest.raises(OverflowError):
        credits_.grant(7, 1)
    assert credits_.drain() == [(7, LARGEST)]
    credits_.grant(7, 1)
    with pytest.raises(OverflowError):
        credits_.release(7, LARGEST)
    assert (credits_.remaining(7), credits_.drain()) == (1, [])
    for call in (credits_.grant, credits_.reserve, credits_.release):
        for arguments in ((2**63, 1), (1, 2**63), (-(2**63) - 1, 1)):
            with pytest.raises(OverflowError):
                call(*arguments)
    assert len(credits_) == 1


def test_releases_without_end_overflow_loudly() -> None:
    credits_ = CreditMap()
    credits_.release(7, LARGEST)
    assert credits_.take(7) == LARGEST
    with pytest.raises(OverflowError):
        credits_.release(7, 1)
    assert (credits_.remaining(7), credits_.drain()) == (0, [(7, -LARGEST)])


@pytest.mark.parametrize(
    ("ids", "units", "error"),
    [
        ([1, 1], [1], ValueError),
        ([1], [1, 1], ValueError),
        ([1, 2**63], [1, 1], OverflowError),
        ([1], 1, TypeError),
        (array("i", [1]), [1], TypeError),
        (array("Q", [1]), [1], TypeError),
        (array("d", [1.0]), [1], TypeError),
        (b"12345678", [1] * 8, TypeError),
        (memoryview(array("q", [1, 1, 1, 1]))[::2], [1, 1], TypeError),
        (memoryview(array("q", [1, 1])).cast("B").cast("q", [2, 1]), [1, 1], TypeError),
    ],
)
def test_a_wrong_batch_is_refused_whole(ids: object, units: object, error: type[Exception]) -> None:
    credits_ = CreditMap()
    credits_.grant(1, 5)
    with pytest.raises(error):
        credits_.reserve_batch(ids, units)  # type: ignore[arg-type]
    assert (credits_.items(), credits_.drain()) == ([(1, 5)], [])


def test_a_batch_keeps_no_reference_to_what_it_was_given() -> None:
    credits_ = CreditMap()
    organisation_id, ids, buffer = 10**15, [10**15], array("q", [1])
    ids = [organisation_id] * 3
    before = sys.getrefcount(organisation_id)
    for _ in range(100):
        credits_.reserve_batch(ids, [1, 1, 1])
        credits_.reserve_batch(buffer, buffer)
    assert sys.getrefcount(organisation_id) == before
    buffer.append(1)  # a buffer still held could not be resized


def test_a_map_that_is_gone_leaves_no_memory_behind() -> None:
    def live() -> None:
        credits_ = CreditMap()
        for organisation_id in range(5000):
            credits_.grant(organisation_id, 5)
            credits_.reserve(organisation_id, 1)
        credits_.reserve_batch(list(range(2000)), [1] * 2000)
        credits_.drain()
        credits_.drop()

    tracemalloc.start()
    try:
        live()  # fills the interpreter's own free lists
        before = tracemalloc.get_traced_memory()[0]
        for _ in range(10):
            live()
        # Less than one table of the smaller ones.
        assert tracemalloc.get_traced_memory()[0] - before < 50_000
    finally:
        tracemalloc.stop()


MILLION = """
from engine._fastcredits import CreditMap
def field(name):
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith(name))
credits_ = CreditMap()
before, highest_before = field("VmRSS"), field("VmHWM")
for organisation_id in range(1_000_000):
    credits_.grant(organisation_id, 10)
    credits_.reserve(organisation_id, 1)
print(credits_.memory_bytes, field("VmRSS") - before, field("VmHWM") - highest_before)
"""


def test_a_million_organisations_take_at_most_64_megabytes_also_while_growing() -> None:
    done = subprocess.run(
        [sys.executable, "-c", MILLION], capture_output=True, text=True, check=True, timeout=60
    )
    for number in done.stdout.split():
        assert int(number) <= 64_000_000, done.stdout


def test_a_drain_costs_what_was_touched_and_not_what_is_there() -> None:
    def drain_of_ten(organisations: int) -> float:
        """The least CPU time of some, seconds, with so many organisations in the map."""
        credits_, least = CreditMap(), 1e9
        for organisation_id in range(organisations):
            credits_.grant(organisation_id, 1000)
        for _ in range(50):
            for organisation_id in range(10):
                credits_.reserve(organisation_id, 1)
            begun = time.thread_time()
            assert len(credits_.drain()) == 10
            least = min(least, time.thread_time() - begun)
        return least

    # A walk over the table would cost thousands of times as much.
    assert drain_of_ten(300_000) < 50 * drain_of_ten(100)


@pytest.mark.parametrize("stride", [2, 64, 1000, 4096, 2**16, 2**20, 2**32, 2**40, 1597, 2584, 832040, 10**9])
def test_ids_at_equal_distances_spread_as_well_as_any(stride: int) -> None:
    def cost(ids: array[int]) -> float:
        credits_ = CreditMap()
        for organisation_id in ids:
            credits_.grant(organisation_id, 10**9)
        ones, best = array("q", [1] * len(ids)), 1e9
        for _ in range(7):
            begun = time.thread_time()
            credits_.reserve_batch(ids, ones)
            best = min(best, time.thread_time() - begun)
        return best

    # Ids that cluster would cost hundreds of times as much.
    scattered = array("q", random.Random(1).sample(range(2**60), 10_000))
    assert cost(array("q", [i * stride for i in range(10_000)])) < 8 * cost(scattered)
