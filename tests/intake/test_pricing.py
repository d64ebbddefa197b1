"""The price of a destination is that of its longest prefix."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import ConfigError
from engine.intake.pricing import PriceTable, first_wrong


def test_the_longest_prefix_counts() -> None:
    table = PriceTable({"": 1, "+98": 2, "+9891": 3, "+1": 4, "+447": 5})
    priced = {
        to: table.units_per_segment(to)
        for to in ("+98912", "+98212", "+12025550123", "+447700", "+4420", "+")
    }
    assert priced == {"+98912": 3, "+98212": 2, "+12025550123": 4, "+447700": 5, "+4420": 1, "+": 1}


def test_one_price_for_all_is_every_destinations_price() -> None:
    assert PriceTable({"": 7}).units_per_segment("+989121234567") == 7


def test_later_changes_to_the_mapping_change_no_price() -> None:
    prices = {"": 1}
    table = PriceTable(prices)
    prices[""] = 2
    assert table.units_per_segment("+98") == 1


PREFIXES = st.text(alphabet="0123", max_size=4).map(lambda digits: "+" + digits if digits else "")


@given(st.dictionaries(PREFIXES, st.integers(1, 9)), st.text(alphabet="0123", max_size=6))
def test_it_agrees_with_a_walk_over_all_prefixes(prices: dict[str, int], digits: str) -> None:
    prices[""] = 1
    to = "+" + digits
    longest = max((prefix for prefix in prices if to.startswith(prefix)), key=len)
    assert PriceTable(prices).units_per_segment(to) == prices[longest]


@pytest.mark.parametrize(
    ("prices", "named"), [({}, 'entry ""'), ({"": 0}, '""'), ({"": 1, "+98": -1}, '"+98"')]
)
def test_a_wrong_table_is_named_to_the_operator(prices: dict[str, int], named: str) -> None:
    with pytest.raises(ConfigError) as caught:
        PriceTable(prices)
    assert named in str(caught.value)


def test_a_table_that_is_right_has_nothing_wrong() -> None:
    assert first_wrong({"": 1, "+1": 1_000_000, "+123456789012345": 2}) is None


@pytest.mark.parametrize(
    ("prices", "field"),
    [
        ({}, "prices"),
        ({"+98": 1}, "prices"),
        ({"": 1} | {f"+{n}": 1 for n in range(10_000)}, "prices"),
        ({"": 0}, 'prices[""]'),
        ({"": 1, "+98": 0}, 'prices["+98"]'),
        ({"": 1, "+98": 1_000_001}, 'prices["+98"]'),
        ({"": 1, "98": 2}, 'prices["98"]'),
        ({"": 1, "+": 2}, 'prices["+"]'),
        ({"": 1, "+1234567890123456": 2}, 'prices["+1234567890123456"]'),
        ({"": 1, "+98\n": 2}, 'prices["+98\n"]'),
        ({"": 1, "+\u0661": 2}, 'prices["+\u0661"]'),
        ({"": 1, "x" * 1000: 2}, f'prices["{"x" * 20}"]'),
    ],
)
def test_what_is_wrong_is_named_with_what_is_allowed(prices: dict[str, int], field: str) -> None:
    wrong = first_wrong(prices)
    assert wrong is not None
    assert wrong[0] == field
    assert wrong[1]
