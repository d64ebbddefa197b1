"""Destinations and sender ids: what is accepted, and the one form it is kept in.

Destinations follow ITU-T E.164: "+", an assigned country calling code, at most 15 digits in all.
Whether a number exists is for the provider to say, because numbering plans change every week.
"""

from __future__ import annotations

from itertools import product

from phonenumbers import COUNTRY_CODE_TO_REGION_CODE

from engine.errors import Refusal
from engine.intake.segments import BASIC

# E.164 sets no least length. Only Tokelau's mobile numbers (+690, 4 digits) are shorter.
DIGITS_MIN, DIGITS_MAX = 8, 15
SENDER_CHARACTERS_MAX = 11
SENDER_DIGITS_MIN, SENDER_DIGITS_MAX = 3, 15

# All ways in which the digits after "+" may begin. No calling code is the beginning of another one, so
# three digits always decide.
_ASSIGNED = frozenset(
    "".join(three)
    for three in product("0123456789", repeat=3)
    if any(int("".join(three[:n])) in COUNTRY_CODE_TO_REGION_CODE and three[0] != "0" for n in (1, 2, 3))
)
_SEPARATORS = str.maketrans("", "", " -.()")
_SENDER_CHARACTERS = frozenset(BASIC) - {"\n", "\r"}


def e164(text: str) -> str:
    """The destination as "+" and 8 to 15 digits.

    Spaces, dashes, dots and parentheses are removed, and a leading 00 is read as "+". A number with
    neither is refused, because its country would be a guess. A trunk prefix written "(0)" is refused too,
    because it is not dialled after a country code. Raises Refusal `invalid_number`.
    """
    digits = text[1:]
    if text[:1] == "+" and digits.isdecimal() and digits.isascii():
        number = text
    else:
        number = text.translate(_SEPARATORS)
        if number.startswith("00"):
            number = "+" + number[2:]
        digits = number[1:]
        if number[:1] != "+" or not (digits.isdecimal() and digits.isascii()) or "(0)" in text:
            raise _invalid_number('be "+", the country calling code and the number, digits only')
    if not DIGITS_MIN <= len(digits) <= DIGITS_MAX:
        raise _invalid_number(f"have {DIGITS_MIN} to {DIGITS_MAX} digits, country calling code included")
    if digits[:3] not in _ASSIGNED:
        raise _invalid_number("begin with an assigned country calling code")
    return number


def sender(text: str) -> str:
    """The sender id: a name, a short code, or a number.

    A name has at most 11 characters of the GSM basic alphabet (3GPP TS 23.040, 9.1.2.5,
    alphanumeric address), at least one of them a letter, no line breaks, no space at
    either end. A code or a number in national form has 3 to 15 digits; one that begins
    with "+" must be a number as `e164` takes it. "" leaves the sender to the provider.
    Raises Refusal `invalid_sender`.
    """
    if not text:
        return text
    if text.isdecimal() and text.isascii():
        if SENDER_DIGITS_MIN <= len(text) <= SENDER_DIGITS_MAX:
            return text
        raise _invalid_sender()
    if text[0] == "+":
        try:
            return e164(text)
        except Refusal:
            raise _invalid_sender() from None
    named = len(text) <= SENDER_CHARACTERS_MAX and _SENDER_CHARACTERS.issuperset(text)
    if named and text == text.strip() and any(map(str.isalpha, text)):
        return text
    raise _invalid_sender()


def _invalid_number(must: str) -> Refusal:
    # The number itself is not repeated: refusals are logged, numbers are not.
    return Refusal("invalid_number", 422, f"to must {must}.", "to")


def _invalid_sender() -> Refusal:
    return Refusal(
        "invalid_sender",
        422,
        f"from must be 1 to {SENDER_CHARACTERS_MAX} characters of the GSM alphabet with at least one letter, "
        f"{SENDER_DIGITS_MIN} to {SENDER_DIGITS_MAX} digits, or an international number.",
        "from",
    )
