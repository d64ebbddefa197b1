"""Ids of receipts are recognised however the carrier writes them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.activity.numbers import numbers_agree
from engine.receipts.ids import IdForms, digits_of, ids_of, likeliest, normal, others

NUMBERS = st.integers(0, 2**128 - 1)
HOW: list[IdForms] = ["auto", "same", "hex-to-decimal", "decimal-to-hex"]


def forms(text: str, how: IdForms) -> list[str]:
    """All that is looked up, in that order."""
    return [form for form in (likeliest(text, how), *others(text, how)) if form]


def written(number: int, base: int) -> st.SearchStrategy[str]:
    """A number as carriers write it: in capitals or not, with leading zeros or not."""
    digits = f"{number:x}" if base == 16 else str(number)
    return st.tuples(st.integers(0, 6), st.booleans()).map(
        lambda style: "0" * style[0] + (digits.upper() if style[1] else digits)
    )


@given(st.data(), NUMBERS)
def test_an_id_given_in_one_base_is_found_by_its_receipt_in_another(data: st.DataObject, number: int) -> None:
    for base_given, base_told, how in (
        (16, 10, "hex-to-decimal"),
        (10, 16, "decimal-to-hex"),
        (16, 16, "same"),
        (10, 10, "same"),
    ):
        given_id = data.draw(written(number, base_given))
        told = data.draw(written(number, base_told))
        assert normal(given_id) in forms(told, "auto")
        assert forms(told, how) == [normal(given_id)]  # type: ignore[arg-type]


@given(st.text(max_size=60))
def test_every_id_has_a_normal_form_that_no_style_changes(text: str) -> None:
    form = normal(text)
    assert normal(form) == form
    assert "," not in form
    if text:
        assert normal("000" + text) == form
        assert form, "only no id has no form"
    if text.isascii():
        assert normal(text.upper()) == form


@given(st.text(max_size=60))
def test_the_form_as_it_is_written_comes_first_and_none_comes_twice(text: str) -> None:
    found = forms(text, "auto")
    assert found[:1] == ([normal(text)] if text else [])
    assert len(set(found)) == len(found) <= 3
    for how in HOW:
        assert set(forms(text, how)) <= {*found, normal(text)}
        assert len(forms(text, how)) == (0 if not text else len(found) if how == "auto" else 1)


def test_zeros_alone_are_an_id_and_nothing_is_none() -> None:
    assert normal("000") == "0"
    assert normal("") == ""
    assert forms("", "auto") == []


def test_what_is_no_number_is_compared_as_it_is() -> None:
    uuid = "0C9F3A2E-71B5-4D0A-9E55-0F2B6C1D7E88"
    assert forms(uuid, "auto") == [uuid.lower().lstrip("0")]
    assert forms("12ab", "decimal-to-hex") == ["4779"]
    assert forms("12ab", "hex-to-decimal") == ["12ab"]
    assert forms("9" * 60, "auto") == ["9" * 60]


def test_the_ids_of_segments_are_parted_and_a_comma_inside_one_is_not_a_parting() -> None:
    assert ids_of("00AB,0c%2C1", "m") == ["ab", "c%2c1"]
    assert normal("0C,1") == "c%2c1"
    assert ids_of("", "019AAAAA-0000") == ["19aaaaa-0000"]


@pytest.mark.parametrize(
    ("digits", "agrees"),
    [
        ("989121234567", True),
        ("00989121234567", True),
        ("09121234567", True),
        ("9121234567", True),
        ("89121234567", True),
        ("234567", True),
        ("989121234568", False),
        ("981121234567", True),  # eight digits are the same: enough beside an id that is
        ("4567", None),
        ("", None),
        ("0000", None),
    ],
)
def test_numbers_are_compared_by_their_last_digits(digits: str, agrees: bool | None) -> None:
    assert numbers_agree(digits, "+989121234567") is agrees


@pytest.mark.parametrize(
    ("written", "digits"),
    [
        ("+98 (912) 123-45.67", "989121234567"),
        ("tel:+989121234567", "989121234567"),
        ("989121234567/TYPE=PLMN", "989121234567"),
        ("989121234567@carrier.example", "989121234567"),
        ("98912*****67", ""),
        ("9891212XXXXX", ""),
        ("98912123####", ""),
        ("5f4dcc3b5aa765d61d83", ""),
        ("Bank123456", ""),
        ("", ""),
        ("+", ""),
    ],
)
def test_a_number_that_is_hidden_in_part_is_none(written: str, digits: str) -> None:
    assert digits_of(written) == digits
