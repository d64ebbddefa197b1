"""What is kept of a provider's octets names no person, tells no secret and is short."""

from __future__ import annotations

import base64
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.providers.masking import MASK, masked, spellings, without_secrets

MAX = 400
NUMBERS = st.from_regex(r"\+?[1-9][0-9]{7,14}", fullmatch=True)
# Words without digits and without what names a secret or an id.
AROUND = st.text(st.sampled_from("abcdefghilmnruvwyz \t,;<>{}"), max_size=30)
WRITTEN = {
    "ascii": lambda text: text.encode(),
    "utf-16-be": lambda text: text.encode("utf-16-be"),
    "utf-16-le": lambda text: text.encode("utf-16-le"),
    "hex": lambda text: text.encode().hex().encode(),
    "hex of utf-16": lambda text: text.encode("utf-16-be").hex().upper().encode(),
}


def shown_digits(text: str) -> str:
    """The digits that are left, also those behind escapes and in hex."""
    return re.sub(r"\\x[0-9a-f]{2}|\D", "", text)


@pytest.mark.parametrize("form", WRITTEN)
@given(number=NUMBERS, before=AROUND, after=AROUND, spaced=st.booleans())
def test_no_number_of_a_telephone_is_shown(
    form: str, number: str, before: str, after: str, spaced: bool
) -> None:
    if spaced:
        number = " ".join(re.findall("..?.?", number))
    shown = masked(before.encode() + b" " + WRITTEN[form](number) + b" " + after.encode(), MAX)
    digits = re.sub(r"\D", "", number)
    assert digits not in shown_digits(shown)
    assert len(shown_digits(shown)) < 7
    assert WRITTEN["hex"](digits[3:]).decode() not in shown


@pytest.mark.parametrize("form", WRITTEN)
@pytest.mark.parametrize("marker", ["text:", "Text:", "TEXT:"])
@given(text=st.text(st.characters(min_codepoint=0x41, max_codepoint=0x17F), min_size=4, max_size=40))
def test_no_text_of_a_message_is_shown(form: str, marker: str, text: str) -> None:
    shown = masked(WRITTEN[form](f"id:17 stat:DELIVRD {marker}{text}"), MAX)
    assert shown.endswith(MASK)
    assert len(shown) <= len(masked(WRITTEN[form](f"id:17 stat:DELIVRD {marker}"), MAX))


@given(sample=st.binary(max_size=2000) | st.text(max_size=2000))
def test_a_sample_is_printable_and_short_whatever_came(sample: bytes | str) -> None:
    shown = masked(sample, MAX)
    assert len(shown) <= MAX
    assert shown.isprintable()
    assert not re.search(r"[0-9]{7}", re.sub(r"\\[xuU][0-9a-f]+", "", shown)) or "id" in shown.lower()


@pytest.mark.parametrize(
    "sample",
    [
        "password=hunter2&to=x",
        '{"api_key": "hunter2"}',
        "Authorization: Basic hunter2",
        "authorization: Bearer hunter2",
        "X-Api-Key: hunter2",
        "<a token='hunter2'>",
        "pwd%3Dhunter2",
    ],
)
def test_no_secret_is_shown(sample: str) -> None:
    shown = masked(sample, MAX)
    assert "hunter2" not in shown
    assert MASK in shown


@given(secret=st.text(min_size=4, max_size=30))
def test_a_known_secret_is_hidden_however_it_is_written(secret: str) -> None:
    for spelling in spellings(secret):
        assert spelling not in without_secrets(f"/v1/{spelling}/send", spellings(secret)) or spelling in MASK


def test_what_an_operator_looks_for_is_kept() -> None:
    receipt = (
        b"id:0123456789 sub:001 dlvrd:001 submit date:2401011200 done date:2401011201 stat:DELIVRD err:000"
    )
    assert masked(receipt + b" text:hello", MAX) == receipt.decode() + f" text:{MASK}"
    answer = b'{"message_id": "0123456789", "code": 17, "detail": "no route"}'
    assert masked(answer, MAX) == answer.decode()
    assert masked(b"\x00\x01ABC", MAX) == "\\x00\\x01ABC"
    assert base64.b64encode(b"x") in masked(base64.b64encode(b"x"), MAX).encode()
