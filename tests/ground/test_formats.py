"""Nothing is written that a living process cannot read."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from engine import formats
from engine.formats import FORMATS, GONE_US, SINCE, gone, least, note
from engine.lifecycle import EVENTS

NOW = 1_700_000_000_000_000


def test_the_kinds_that_are_named_exist_and_this_version_reads_them() -> None:
    assert set(SINCE) - {"line", "pause", "bundle", "way"} <= set(EVENTS)
    assert max(SINCE.values()) <= FORMATS


@given(
    st.dictionaries(
        st.text(min_size=1), st.tuples(st.integers(0, 5), st.integers(NOW - 2 * GONE_US, NOW)), max_size=8
    ),
    st.sets(st.text(min_size=1), max_size=4),
)
def test_the_least_is_what_every_living_process_reads(
    noted: dict[str, tuple[int, int]], living: set[str]
) -> None:
    notes = {name: f"{number} {at_us}" for name, (number, at_us) in noted.items()}
    found = least(notes, living, NOW)
    fresh = {name: number for name, (number, at_us) in noted.items() if at_us >= NOW - GONE_US}
    assert set(gone(notes, NOW)) == set(noted) - set(fresh)
    assert found == min([FORMATS, *fresh.values(), *(0 for name in living - set(noted))])


def test_a_note_that_is_none_does_not_count() -> None:
    assert least({"a": "", "b": "x y", "c": note(NOW)}, ["a"], NOW) == formats.FORMATS
