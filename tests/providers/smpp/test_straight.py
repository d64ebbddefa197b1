"""The short way by which most messages are packed into a submit_sm."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.intake.segments import BASIC, EXTENSION, measure
from engine.providers.settings import DataCodings
from engine.providers.smpp import submit
from engine.providers.smpp.submit import SubmitEncoder
from tests.providers.smpp.scripted_smsc import message, settings

NOW_US = 1_800_000_000_000_000
BASE = msgspec.structs.replace(message(), expires_at_us=NOW_US + 3_600_000_000)

# Settings that change how a text or its validity is written; the first changes nothing.
WRITINGS: list[dict[str, object]] = [
    {},
    {"gsm7": "packed"},
    {"gsm7": "latin1"},
    {"default_alphabet": "latin1"},
    {"default_alphabet": "ascii"},
    {"data_coding": DataCodings(default=1)},
    {"message_id_parameter": "1401"},
    {"validity_period": "absolute"},
    {"validity_period": "none"},
]

texts = st.one_of(
    st.text(st.sampled_from("abc @£_\r\nÀ"), max_size=20),
    st.text(st.sampled_from(BASIC + EXTENSION), max_size=165),
    st.text(max_size=80).filter(lambda text: text.isprintable()),
)


@given(
    texts,
    st.sampled_from(["+989120000001", "989120000001", "+1", "+" + "9" * 21, "+98x", "", "++98"]),
    st.sampled_from(WRITINGS),
)
def test_a_message_is_packed_the_second_time_as_the_first(
    text: str, to: str, changes: dict[str, object]
) -> None:
    """The first of a sender, and of a second, always goes the long way."""
    measured = measure(text)
    one = msgspec.structs.replace(
        BASE, text=text, to=to, encoding=measured.encoding, segments=measured.segments
    )
    encoder = SubmitEncoder(settings(1, parameters={"1400": "ff00"}, **changes))
    try:
        first = encoder.bodies(one, NOW_US)
    except ValueError:
        with pytest.raises(ValueError, match="to must be"):
            encoder.bodies(one, NOW_US)
        return
    assert encoder.bodies(one, NOW_US) == first
    later = encoder.bodies(one, NOW_US + 1_000_000)
    assert later == SubmitEncoder(settings(1, parameters={"1400": "ff00"}, **changes)).bodies(
        one, NOW_US + 1_000_000
    )


@pytest.mark.parametrize("changes", [one for one in WRITINGS if not {"packed", "1401"} & set(one.values())])
def test_the_short_way_is_gone(monkeypatch: pytest.MonkeyPatch, changes: dict[str, object]) -> None:
    encoder = SubmitEncoder(settings(1, **changes))
    first = encoder.bodies(BASE, NOW_US)
    monkeypatch.setattr(submit, "written", None)
    assert encoder.bodies(BASE, NOW_US) == first


@pytest.mark.parametrize("changes", WRITINGS[1:])
def test_settings_that_write_it_otherwise_do_so_every_time(changes: dict[str, object]) -> None:
    encoder, plain = SubmitEncoder(settings(1, **changes)), SubmitEncoder(settings(1))
    text = msgspec.structs.replace(BASE, text="@$ and more")
    assert encoder.bodies(text, NOW_US) == encoder.bodies(text, NOW_US) != plain.bodies(text, NOW_US)
