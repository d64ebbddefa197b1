"""The set of numbers holds what a set holds, in a few octets for each."""

from __future__ import annotations

import random
import tracemalloc
from array import array

from engine.intake.number_set import NumberSet


def test_it_holds_what_a_set_holds_whatever_is_done_to_it() -> None:
    rng, numbers, model = random.Random(5), NumberSet(), set[int]()
    first = sorted(rng.sample(range(20_000), 9_000))
    numbers.append(array("Q", first))
    model.update(first)
    for _ in range(30_000):
        number = rng.randrange(20_000)
        if rng.random() < 0.5:
            numbers.add(number)
            model.add(number)
        else:
            numbers.discard(number)
            model.discard(number)
    assert (len(numbers), list(numbers)) == (len(model), sorted(model))
    assert all((number in numbers) == (number in model) for number in range(20_001))
    for number in sorted(model):
        numbers.discard(number)
    assert (len(numbers), 7 in numbers) == (0, False)
    numbers.add(7)
    assert list(numbers) == [7]


def test_a_number_takes_about_nine_octets() -> None:
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    numbers = NumberSet()
    numbers.append(array("Q", range(100_000)))
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (after - before) / 100_000 < 9.5
    assert len(numbers) == 100_000
