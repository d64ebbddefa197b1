"""Pauses double from the first up to the maximum, with jitter or without."""

from __future__ import annotations

from random import Random

import pytest

from engine.clocks.backoff import Backoff, pause_after


def test_pauses_double_up_to_the_maximum_and_begin_anew_after_a_success() -> None:
    backoff = Backoff(0.05, 2.0)
    assert [backoff.next() for _ in range(8)] == pytest.approx([0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0])
    assert backoff.failures == 8
    backoff.reset()
    assert (backoff.failures, backoff.next()) == (0, 0.05)


def test_jitter_draws_from_the_upper_half_and_from_all_of_it() -> None:
    drawn = [Backoff(1.0, 1.0, Random(seed)).next() for seed in range(200)]
    assert 0.5 <= min(drawn) < 0.55
    assert 0.95 < max(drawn) <= 1.0


def test_a_first_pause_beyond_the_maximum_and_countless_failures_end_at_the_maximum() -> None:
    assert Backoff(5.0, 2.0).next() == 2.0
    assert pause_after(10_000, 1e-6, 3600.0) == 3600.0
    assert pause_after(1, 500_000, 60_000_000) == 500_000
