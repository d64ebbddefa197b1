"""Encoding and segments against the tables of the standard and an independent library."""

from __future__ import annotations

import pytest
import smsutil
from hypothesis import example, given
from hypothesis import strategies as st

from engine.errors import Refusal
from engine.intake.segments import BASIC, EXTENSION, measure, split

# 3GPP TS 23.038, 6.2.1 and 6.2.1.1, by code; written down again, by code point.
BASIC_CODE_POINTS = [
    *(0x40, 0xA3, 0x24, 0xA5, 0xE8, 0xE9, 0xF9, 0xEC, 0xF2, 0xC7, 0x0A, 0xD8, 0xF8, 0x0D, 0xC5, 0xE5),
    *(0x394, 0x5F, 0x3A6, 0x393, 0x39B, 0x3A9, 0x3A0, 0x3A8, 0x3A3, 0x398, 0x39E, 0xC6, 0xE6, 0xDF, 0xC9),
    *(*range(0x20, 0x24), 0xA4, *range(0x25, 0x40)),
    *(0xA1, *range(0x41, 0x5B), 0xC4, 0xD6, 0xD1, 0xDC, 0xA7),
    *(0xBF, *range(0x61, 0x7B), 0xE4, 0xF6, 0xF1, 0xFC, 0xE0),
]
EXTENSION_CODES = {0x0A: "\f", 0x14: "^", 0x28: "{", 0x29: "}", 0x2F: "\\", 0x3C: "[", 0x3D: "~", 0x3E: "]",
                   0x40: "|", 0x65: "€"}  # fmt: skip
PERSIAN = "کد تأیید شما ۴۸۲۹۱۳ است؛ آن را به کسی ندهید. "


def shape(text: str) -> tuple[str, int, int]:
    measured = measure(text)
    return measured.encoding, measured.segments, measured.characters


def test_the_alphabet_is_that_of_the_standard() -> None:
    assert [ord(c) for c in BASIC] == BASIC_CODE_POINTS
    assert len(BASIC) == 127
    assert sorted(EXTENSION) == sorted(EXTENSION_CODES.values())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ("GSM-7", 1, 0)),
        ("a", ("GSM-7", 1, 1)),
        ("a" * 160, ("GSM-7", 1, 160)),
        ("a" * 161, ("GSM-7", 2, 161)),
        ("a" * 306, ("GSM-7", 2, 306)),
        ("a" * 307, ("GSM-7", 3, 307)),
        ("a" * 1530, ("GSM-7", 10, 1530)),
        ("€", ("GSM-7", 1, 2)),
        ("€" * 80, ("GSM-7", 1, 160)),
        ("€" * 80 + "a", ("GSM-7", 2, 161)),
        # 76 of them fill 152 of the 153 septets: the 77th is not cut in two.
        ("€" * 152, ("GSM-7", 2, 304)),
        ("€" * 153, ("GSM-7", 3, 306)),
        ("a" * 152 + "[" + "a" * 152, ("GSM-7", 3, 306)),
        ("a" * 151 + "[" + "a" * 153, ("GSM-7", 2, 306)),
        ("`", ("UCS-2", 1, 1)),
        ("\x1b", ("UCS-2", 1, 1)),
        ("\t", ("UCS-2", 1, 1)),
        ("ç", ("UCS-2", 1, 1)),
        ("Ç", ("GSM-7", 1, 1)),
        ("é" * 160, ("GSM-7", 1, 160)),
        ("ΔΦΓ", ("GSM-7", 1, 3)),
        ("α", ("UCS-2", 1, 1)),
        ("س" * 70, ("UCS-2", 1, 70)),
        ("س" * 71, ("UCS-2", 2, 71)),
        ("س" * 134, ("UCS-2", 2, 134)),
        ("س" * 135, ("UCS-2", 3, 135)),
        ("😀" * 35, ("UCS-2", 1, 70)),
        ("😀" * 36, ("UCS-2", 2, 72)),
        # 33 of them fill 66 of the 67 units: the 34th is not cut in two.
        ("😀" * 66, ("UCS-2", 2, 132)),
        ("😀" * 67, ("UCS-2", 3, 134)),
        ("س" * 66 + "😀" + "س" * 66, ("UCS-2", 3, 134)),
        ("س" * 65 + "😀" + "س" * 67, ("UCS-2", 2, 134)),
        ("a" * 100 + "س", ("UCS-2", 2, 101)),
    ],
)
def test_edges(text: str, expected: tuple[str, int, int]) -> None:
    assert shape(text) == expected


GSM = st.text(alphabet=BASIC + EXTENSION, max_size=400)
DENSE = st.text(alphabet="ab€[", min_size=140, max_size=700)
ANY = st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=250)
PAIRS = st.text(alphabet="س😀", min_size=60, max_size=300)
TEXTS = st.one_of(GSM, DENSE, ANY, PAIRS)


@given(TEXTS.filter(lambda text: text and "\x1b" not in text))
@example("a" * 152 + "€" + "a" * 152)
@example("س" * 66 + "😀" + "س" * 66)
def test_an_independent_library_agrees(text: str) -> None:
    theirs = smsutil.split(text)
    encoding = "GSM-7" if theirs.encoding == "gsm0338" else "UCS-2"
    characters = theirs.total_bytes if encoding == "GSM-7" else theirs.total_bytes // 2
    assert shape(text) == (encoding, len(theirs.parts), characters)
    assert split(text) == [part.content for part in theirs.parts]


@given(TEXTS)
def test_the_parts_are_the_text_and_each_fits(text: str) -> None:
    measured, parts = measure(text), split(text)
    assert "".join(parts) == text
    assert len(parts) == measured.segments
    lengths = [
        sum(2 if c in EXTENSION else 1 for c in part)
        if measured.encoding == "GSM-7"
        else len(part.encode("utf-16-le")) // 2
        for part in parts
    ]
    single, each = (160, 153) if measured.encoding == "GSM-7" else (70, 67)
    assert sum(lengths) == measured.characters
    assert max(lengths) <= (each if len(parts) > 1 else single)
    # No part could have taken the next one's first character as well.
    for length in lengths[:-1]:
        assert length >= each - 1


@given(st.lists(TEXTS, max_size=3))
def test_more_text_never_costs_less(texts: list[str]) -> None:
    whole = "".join(texts)
    if whole:
        assert measure(whole).segments >= measure(whole[:-1]).segments


@pytest.mark.parametrize("text", ["\ud83d", "hello \ude00", "\ude00\ud83d", "س" * 80 + "\ud800"])
@pytest.mark.parametrize("call", [measure, split])
def test_half_a_surrogate_pair_is_refused(text: str, call: object) -> None:
    assert callable(call)
    with pytest.raises(Refusal, match="surrogate") as caught:
        call(text)
    assert (caught.value.code, caught.value.status, caught.value.field) == ("invalid_text", 422, "text")


def test_texts_as_people_send_them() -> None:
    assert shape("Your code is 482913. It is valid for 5 minutes.") == ("GSM-7", 1, 47)
    assert (
        shape("Su código es 482913. ¿No fue usted? Llámenos.")[0] == "UCS-2"
    )  # ó and á are not in the table
    assert shape("Ihr Kauf über 20,00 € bei Müller & Söhne: [Rechnung]")[:2] == ("GSM-7", 1)
    assert shape(PERSIAN) == ("UCS-2", 1, len(PERSIAN))
    assert shape(PERSIAN * 3) == ("UCS-2", 3, 3 * len(PERSIAN))
    assert shape("Family: 👨‍👩‍👧‍👦 ❤️")[0] == "UCS-2"
