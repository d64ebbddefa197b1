"""The formulas against published tables."""

from __future__ import annotations

import math

import pytest

from engine.capacity import queueing


@pytest.mark.parametrize(
    ("servers", "load", "blocked"),
    # The table of Erlang B, as in any handbook of teletraffic (ITU-D, Teletraffic Engineering Handbook,
    # 2005): the load in erlangs at which 1 % and 5 % are lost.
    [(1, 0.0101, 0.01), (5, 1.361, 0.01), (10, 4.461, 0.01), (20, 12.031, 0.01), (50, 37.901, 0.01),
     (100, 84.064, 0.01), (10, 6.216, 0.05), (50, 44.533, 0.05)],
)  # fmt: skip
def test_erlang_b_has_the_values_of_the_tables(servers: int, load: float, blocked: float):
    assert queueing.erlang_b(servers, load) == pytest.approx(blocked, rel=2e-3)


@pytest.mark.parametrize(
    ("servers", "load", "waiting"),
    # L. Kleinrock, Queueing Systems I, 3.5: by hand from the formula.
    [(1, 0.5, 0.5), (2, 1.0, 1 / 3), (2, 1.5, 9 / 14), (3, 2.0, 4 / 9), (5, 4.0, 0.554113)],
)
def test_erlang_c_has_the_values_of_the_formula(servers: int, load: float, waiting: float):
    assert queueing.erlang_c(servers, load) == pytest.approx(waiting, rel=1e-5)


def test_too_few_servers_wait_for_ever():
    assert queueing.erlang_c(3, 3.0) == 1.0
    assert queueing.wait_quantile_s(3, 3.5, 0.1, 0.99) == math.inf


def test_constant_services_wait_half_as_long_as_exponential_ones():
    constant, exponential = (queueing.wait_quantile_s(1, 0.8, 0.1, 0.99, v) for v in (0.5, 1.0))
    assert constant == pytest.approx(exponential / 2)


def test_the_quantile_of_the_wait_is_that_of_one_exponential_server():
    # M/M/1 with a load of 0.8: P(wait > t) = 0.8 exp(-(1 - 0.8) t / 0.1).
    assert queueing.wait_quantile_s(1, 0.8, 0.1, 0.99) == pytest.approx(math.log(80) * 0.1 / 0.2)
    assert queueing.wait_quantile_s(1, 0.8, 0.1, 0.1) == 0.0


def test_a_backlog_is_drained_by_what_is_left_of_the_capacity():
    assert queueing.drain_s(6000, 100, 150) == 120
    assert queueing.drain_s(1, 100, 100) == math.inf
    assert queueing.drain_s(0, 100, 100) == 0
