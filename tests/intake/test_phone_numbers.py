"""Destinations come out in one form or are refused; sender ids are what carriers take."""

from __future__ import annotations

import phonenumbers
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import Refusal
from engine.intake.phone_numbers import e164, sender


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("+989121234567", "+989121234567"),
        ("00989121234567", "+989121234567"),
        ("+98 912 123 4567", "+989121234567"),
        ("+98-912-123.4567", "+989121234567"),
        ("+1 (202) 555-0123", "+12025550123"),
        (" 0044 7700 900123 ", "+447700900123"),
        ("+29051234", "+29051234"),
        ("+881612345678901", "+881612345678901"),
    ],
)
def test_a_destination_is_kept_in_one_form(text: str, number: str) -> None:
    assert e164(text) == number
    assert e164(number) == number


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "country calling code and the number"),
        ("+", "country calling code and the number"),
        ("9121234567", "country calling code and the number"),
        ("09121234567", "country calling code and the number"),
        ("+98912123456a", "digits only"),
        ("++989121234567", "digits only"),
        ("+98\n9121234567", "digits only"),
        ("+۹۸۹۱۲۱۲۳۴۵۶۷", "digits only"),
        ("+98912123456²", "digits only"),
        ("+44 (0)20 7946 0000", "digits only"),
        ("tel:+989121234567", "digits only"),
        ("+9891212", "8 to 15 digits"),
        ("+989121234567890123", "8 to 15 digits"),
        ("+0989121234567", "assigned country calling code"),
        ("000989121234567", "assigned country calling code"),
        ("+2101234567890", "assigned country calling code"),
        ("+9991234567890", "assigned country calling code"),
    ],
)
def test_what_is_no_destination_is_refused_in_one_sentence(text: str, says: str) -> None:
    with pytest.raises(Refusal, match=says) as caught:
        e164(text)
    refusal = caught.value
    assert (refusal.code, refusal.status, refusal.field) == ("invalid_number", 422, "to")
    assert refusal.detail.startswith("to must ")
    assert refusal.detail.endswith(".")


@given(st.text(max_size=20), st.sampled_from(["", "+", "00", "+98912"]))
def test_any_text_is_a_destination_or_refused(rest: str, begin: str) -> None:
    try:
        number = e164(begin + rest)
    except Refusal as e:
        detail, number = e.detail, "+12025550123"
    else:
        detail = ""
    # Refusals are logged; numbers are not.
    assert len(rest) < 6 or rest not in detail
    assert number[0] == "+"
    assert number[1:].isascii()
    assert number[1:].isdecimal()
    assert 8 <= len(number) - 1 <= 15


# Tristan da Cunha has no mobile numbers; Tokelau's have 7 digits, one fewer than are accepted.
REGIONS = sorted(set(phonenumbers.SUPPORTED_REGIONS) - {"TA", "TK"})


@pytest.mark.parametrize("region", REGIONS)
def test_every_countrys_example_mobile_number_is_accepted(region: str) -> None:
    example = phonenumbers.example_number_for_type(region, phonenumbers.PhoneNumberType.MOBILE)
    assert example is not None
    kept = phonenumbers.format_number(example, phonenumbers.PhoneNumberFormat.E164)
    assert e164(kept) == kept
    assert e164(phonenumbers.format_number(example, phonenumbers.PhoneNumberFormat.INTERNATIONAL)) == kept


@pytest.mark.parametrize(
    "text",
    ["", "ACME", "Acme Shop", "Müller&Co", "A1", "Cafe-24/7", "12345", "123", "10008663", "50004000123456"],
)
def test_a_sender_id_is_kept_as_it_is(text: str) -> None:
    assert sender(text) == text


def test_a_sender_number_is_kept_as_a_destination_is() -> None:
    assert sender("+98 21 1234 5678") == "+982112345678"


@pytest.mark.parametrize(
    "text",
    [
        *("12", "1" * 16, "ACMESHOPPING", " ACME", "ACME ", "AC\nME", "شرکت", "A😀", "{ACME}"),
        *("-", "12-34", "+12", "۱۲۳۴۵", "\x1bA", "+999123456789"),
    ],
)
def test_what_no_carrier_shows_is_refused_as_sender(text: str) -> None:
    with pytest.raises(Refusal) as caught:
        sender(text)
    refusal = caught.value
    assert (refusal.code, refusal.status, refusal.field) == ("invalid_sender", 422, "from")
    assert refusal.detail.startswith("from must ")
