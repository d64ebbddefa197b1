"""Message ids."""

from __future__ import annotations

import uuid

from hypothesis import given
from hypothesis import strategies as st

from engine.ids import MessageIds, accepted_at_us


@given(
    salt=st.integers(0, 2**26 - 1),
    start=st.integers(0, 2**48 - 1),
    now_ms=st.integers(0, 2**48 - 1),
    count=st.integers(1, 50),
)
def test_ids_are_distinct_uuids_of_version_7_that_carry_their_millisecond(
    salt: int, start: int, now_ms: int, count: int
) -> None:
    made = MessageIds(salt, start).make(now_ms, count)
    assert len(set(made)) == count
    for text in made:
        parsed = uuid.UUID(text)
        assert str(parsed) == text
        assert parsed.version == 7
        assert parsed.variant == uuid.RFC_4122
        assert accepted_at_us(text) == now_ms * 1000


@given(start=st.integers(0, 2**40), count=st.integers(2, 700))
def test_ids_made_at_once_are_those_that_are_made_one_after_another(start: int, count: int) -> None:
    one_by_one = MessageIds(7, start)
    assert MessageIds(7, start).make(5, count) == [one_by_one.make(5, 1)[0] for _ in range(count)]


def test_later_ids_sort_after_earlier_ones() -> None:
    ids = MessageIds(1, 5)
    made = [i for now_ms in (1, 2, 65535, 65536, 10**12) for i in ids.make(now_ms, 3)]
    assert made == sorted(made)


def test_what_is_no_id_has_no_time() -> None:
    for text in ("", "x" * 36, str(uuid.uuid4()), "0192f0c4-0000-7000-8000-00000000000g"):
        assert accepted_at_us(text) is None
