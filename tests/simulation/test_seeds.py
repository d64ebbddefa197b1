"""Hundreds of thousands of steps of the whole protocol under faults, and nothing promised is broken. As many
more as anybody likes: `make simulate`.

A step is one callback of one process or one event of the world outside (see clock.py): a
task resumed, a timer fired, a command reaching a server, an answer lost, a fault. The idle
ticks of the services are steps too.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.simulation.put_off_mutations import SEVERAL
from tests.simulation.redis_functions import Functions
from tests.simulation.runs import run

STEPS = 300_000
# Each seed draws its own settings and faults: so many of them at least.
SEEDS = 6
_ROOT = Path(__file__).resolve().parents[2]


def test_every_promise_holds_for_hundreds_of_thousands_of_steps_of_many_seeds() -> None:
    steps, seed = 0, 0
    failed, answered = [], {"202": 0, "402": 0, "503": 0}
    while steps < STEPS or seed < SEEDS:
        result = run(seed)
        steps += result.steps
        for kind in answered:
            answered[kind] += result.answered.get(kind, 0)
        if result.violation:
            failed.append(
                f"seed {seed}: {result.violation}\n    python -m tests.simulation --seed {seed} --trace"
            )
        seed += 1
    assert not failed, "\n" + "\n".join(failed)
    # All three ways to answer were taken often enough to mean something.
    assert min(answered.values()) > 100, answered


@pytest.mark.parametrize("seed", range(4))
def test_a_fence_that_was_booked_in_part_and_lost_lets_nobody_overspend(seed: int) -> None:
    assert run(seed, half_fences=True).violation == ""


@pytest.mark.parametrize("seed", [7, 9])
def test_no_entry_has_the_id_of_one_that_redis_lost_while_its_clock_is_behind(seed: int) -> None:
    assert run(seed, clock_behind=True).violation == ""


def test_who_holds_what_is_counted_anew_where_an_older_version_kept_the_sum_alone() -> None:
    counted: list[bytes] = []

    class Counting(Functions):
        def count_anew(self, keys: Any) -> None:
            super().count_anew(keys)
            counted.extend(self.store.hash(keys[1]))

    for seed in range(8):
        assert run(seed, older_sums=True, functions=Counting).violation == "", seed
    assert len(counted) > 10


def test_a_provider_is_given_no_more_than_its_throughput_while_more_waits() -> None:
    # Long enough for slots that are granted twice to be noticed (mutations.py).
    assert run(0, throughput=20.0, steps_max=20_000).violation == ""


def test_dead_letters_are_replayed_or_dropped_once_whoever_races_and_dies() -> None:
    letters = {"replay": 0, "drop": 0, "gone": 0}
    for seed in range(2, 5):
        result = run(seed, operators=3)
        assert result.violation == "", seed
        letters = {kind: count + result.letters[kind] for kind, count in letters.items()}
    assert min(letters.values()) > 5, letters


def test_a_message_that_became_a_dead_letter_by_chance_is_settled_where_nobody_replays_it() -> None:
    # Two workers in a row died with it.
    assert run(32_000_272).violation == ""


def test_messages_of_atomic_batches_are_canceled_or_sent_whoever_races_and_dies() -> None:
    cancels = {"canceled": 0, "in_hand": 0, "given_before": 0, "none": 0}
    for seed in range(3):
        result = run(seed, cancelers=3, operators=seed % 2)
        assert result.violation == "", seed
        cancels = {kind: count + result.cancels[kind] for kind, count in cancels.items()}
    assert cancels["given_before"] < 15 < min(cancels["canceled"], cancels["in_hand"], cancels["none"]), (
        cancels
    )


@pytest.mark.parametrize("seed", range(2))
def test_what_is_put_off_ends_once_whoever_cancels_dies_or_changes_the_routes(seed: int) -> None:
    result = run(seed, plans=SEVERAL, cancelers=seed % 3)
    assert result.violation == ""
    assert min(result.put_off, result.recalled) > 50, result


def test_a_seed_runs_the_same_in_another_process() -> None:
    seed = 3
    here = "\n".join(run(seed, trace=True, steps_max=20_000).trace)
    # Nothing may hang on the order of sets of strings, which differs between processes.
    environment = {**os.environ, "PYTHONHASHSEED": "7"}
    command = [sys.executable, "-m", "tests.simulation", "--seed", str(seed), "--steps", "20000", "--trace"]
    there = subprocess.run(
        command, cwd=_ROOT, env=environment, capture_output=True, text=True, timeout=60, check=True
    ).stdout
    assert len(here) > 10_000
    assert _digest(here) == _digest(there[: there.rindex("\nseed ")])


def test_a_run_can_be_cut_off_after_a_number_of_steps() -> None:
    assert run(1, steps_max=5_000).steps == 5_000


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
