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
        ("+881612345678", "+881612345678"),
        ("\u202a+98 912 123 4567\u202c", "+989121234567"),
        ("\u200e+98\u00a0912\u2011123\u20114567", "+989121234567"),
        ("\ufeff+98\u2009912\u2212123\u00ad4567\u200b", "+989121234567"),
        ("+\u06f9\u06f8\u06f9\u06f1\u06f2\u06f1\u06f2\u06f3\u06f4\u06f5\u06f6\u06f7", "+989121234567"),
        ("\u0660\u0660989121234567", "+989121234567"),
        ("\uff0b\uff19\uff18\uff08\uff19\uff11\uff12\uff091234567", "+989121234567"),
        ("\t+98 912 123 4567\r\n", "+989121234567"),
        ("'+4915112345678", "+4915112345678"),
        ("+39 06 698 12345", "+390669812345"),
        ("+39 (06) 69812345", "+390669812345"),
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
        ("+98\n9121234567", "digits only; it contains U\\+000A"),
        ("+98912123456\u00b2", "digits only; it contains U\\+00B2 SUPERSCRIPT TWO"),
        ("+98912123456\u0300", "digits only; it contains U\\+0300 COMBINING GRAVE ACCENT"),
        ("989121234567+", "digits only; it contains [+]"),
        ("+44 7700 900123 x5", "digits only; it contains x"),
        ("+98" + "\u200b" * 100 + "9121234567", "digits only"),
        *(
            (text, "without the 0 that is dialled within the country only")
            for text in (
                "+44 (0)20 7946 0000",
                "+98 ( 0 ) 912 123 4567",
                "+98\u00a0(\u200e0\u200e)\u00a0912 123 4567",
                "+98 (0912) 1234567",
                "+98 0912 123 4567",
                "+4901511234567",
                "+98 (\u06f0) 912 123 4567",
            )
        ),
        *(
            (text, "have all its digits; a spreadsheet has made an amount of it")
            for text in ("4.47E+11", "+4,47E+11", "4.47e11", "+447700900123.0", "9,89121E+11")
        ),
        ("+1415555012345", "have 10 digits after the country calling code 1"),
        ("+141555501", "have 10 digits after the country calling code 1"),
        ("+8816123456789012", "8 to 15 digits"),
        ("+88161234567", "have 9 or 10 digits after the country calling code 881"),
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
    assert refusal.detail.startswith("`to` must ")
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


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("+98 21 1234 5678", "+982112345678"),
        ("00447700900123", "+447700900123"),
        ("0044 7700 900123", "+447700900123"),
        ("\u202a+98 21 1234 5678\u202c", "+982112345678"),
        # Senders have numbers of their own, as long as no recipient's.
        ("+9830001234", "+9830001234"),
        ("\u06f1\u06f2\u06f3\u06f4\u06f5", "12345"),
        ("09121234567", "09121234567"),
    ],
)
def test_a_sender_number_is_kept_in_one_form(text: str, kept: str) -> None:
    assert sender(text) == kept
    assert sender(kept) == kept


def test_the_refusal_of_a_sender_names_the_character_that_is_wrong() -> None:
    for text, named in (("ACME\u200b", "U+200B ZERO WIDTH SPACE"), ("{ACME}", "{"), ("AC\nME", "U+000A")):
        with pytest.raises(Refusal) as caught:
            sender(text)
        assert caught.value.detail.endswith(f"; it contains {named}.")


@pytest.mark.parametrize(
    "text",
    [
        *("12", "1" * 16, "ACMESHOPPING", " ACME", "ACME ", "AC\nME", "شرکت", "A😀", "{ACME}"),
        *("-", "12-34", "+12", "0012", "0044", "\x1bA", "+999123456789", "+98 (0) 2112345678", "+ACME"),
    ],
)
def test_what_no_carrier_shows_is_refused_as_sender(text: str) -> None:
    with pytest.raises(Refusal) as caught:
        sender(text)
    refusal = caught.value
    assert (refusal.code, refusal.status, refusal.field) == ("invalid_sender", 422, "from")
    assert refusal.detail.startswith("`from` must ")
