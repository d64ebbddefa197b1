"""Four octets are found where `in` finds them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.webhooks._search import has_four


@given(st.binary(max_size=40), st.integers(0, 1100), st.binary(max_size=5))
def test_four_octets_are_found_wherever_they_are(before: bytes, fill: int, after: bytes) -> None:
    octets = before + b"h" * fill + b"ttp" + after
    for four in (b"http", b"ttph", b"hhhh", octets[-4:], octets[:4]):
        if len(four) == 4:
            assert has_four(octets, four) is (four in octets)


def test_only_four_octets_are_looked_for() -> None:
    for wrong in (b"", b"htt", b"https"):
        with pytest.raises(ValueError, match="Four"):
            has_four(b"https", wrong)
