"""The longest prefix wins, as in a table that looks at every one of them."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from engine.prefix_table import PrefixTable

# Few digits, so that prefixes of prefixes are common.
prefixes = st.text("12", max_size=5).map(lambda digits: f"+{digits}" if digits else "")
tables = st.dictionaries(prefixes, st.none() | st.integers(), max_size=12)
numbers = st.text("12", max_size=8).map(lambda digits: f"+{digits}")


def naive(table: dict[str, int | None], number: str) -> list[int | None]:
    """The values of all prefixes that match, the longest first."""
    return [table[p] for p in sorted(table, key=len, reverse=True) if number.startswith(p)]


@given(tables, numbers)
def test_from_the_longest_all_that_match_are_reached(table: dict[str, int | None], number: str) -> None:
    whole = PrefixTable({prefix: prefix for prefix in table})
    found, prefix = [], whole.longest(number, "none")
    while prefix != "none":
        found.append(table[prefix])
        prefix = whole.shorter(prefix, "none")
    assert found == naive(table, number)


@given(tables, numbers, st.integers())
def test_the_longest_that_matches_is_found_also_when_its_value_is_none(
    table: dict[str, int | None], number: str, default: int
) -> None:
    assert PrefixTable(table).longest(number, default) == (naive(table, number) or [default])[0]


def test_a_table_keeps_what_it_was_made_of() -> None:
    given = {"+1": 1}
    table = PrefixTable(given)
    given["+12"] = 2
    assert table.longest("+12", 0) == 1
    assert PrefixTable[int]({}).longest("+1", 7) == 7
