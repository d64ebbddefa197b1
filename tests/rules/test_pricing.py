"""The price of a destination is that of its longest prefix."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import ConfigError
from engine.pricing import PriceTable


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
