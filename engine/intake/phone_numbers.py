"""Destinations and sender ids: what is accepted, and the one form it is kept in.

Destinations follow ITU-T E.164: "+", an assigned country calling code, at most 15 digits in all, and as
many of them as numbers of that country have (the possible lengths of the library `phonenumbers`).
Whether a number exists is for the provider to say, because numbering plans change every week.

Numbers are copied from web pages, chats and spreadsheets, with blanks, marks of writing direction and
digits of other scripts in them. What can mean one number only is read; for the rest the refusal
names the character, because some of them cannot be seen.
"""

from __future__ import annotations

import re
import unicodedata
from itertools import product

import msgspec
from phonenumbers import COUNTRY_CODE_TO_REGION_CODE, PhoneMetadata

from engine.errors import Refusal
from engine.intake.segments import BASIC

# E.164 sets no least length. Only Tokelau's mobile numbers (+690, 4 digits) are shorter.
DIGITS_MIN, DIGITS_MAX = 8, 15
SENDER_CHARACTERS_MAX = 11
SENDER_DIGITS_MIN, SENDER_DIGITS_MAX = 3, 15

# All ways in which the digits after "+" may begin: {three digits: calling code}. No calling code is the
# beginning of another one, so three digits always decide.
_ASSIGNED = {
    "".join(three): int("".join(three[:n]))
    for three in product("0123456789", repeat=3)
    for n in (1, 2, 3)
    if three[0] != "0" and int("".join(three[:n])) in COUNTRY_CODE_TO_REGION_CODE
}
# A longer text is no number, whatever stands between its digits.
_WRITTEN_MAX = 100
_SENDER_CHARACTERS = frozenset(BASIC) - {"\n", "\r"}
# What a spreadsheet makes of a number that it takes for an amount: 4.47E+11.
_SCIENTIFIC = re.compile(r"[0-9]+[.,]?[0-9]*[eE]\+?[0-9]+")
_NOT_REGION = "001"


class _Plan(msgspec.Struct, frozen=True):
    """What the numbers of one calling code look like."""

    code: int
    # How many digits they may have, the calling code included.
    lengths: frozenset[int]
    # Index of the digit that is 0 only when the trunk prefix was left in; 0 when there is none.
    trunk_at: int


class _Plans(dict[str, _Plan | None]):
    """The plan by the first three digits, None when no code is assigned; each is made when it is
    needed first, because the library takes a millisecond to read a country."""

    def __missing__(self, three: str) -> _Plan | None:
        plan = _plan(_ASSIGNED[three]) if three in _ASSIGNED else None
        # At most a thousand are kept: nobody else's text has three digits.
        return self.setdefault(three, plan)


class _Reading(dict[int, str | None]):
    """For `str.translate`: how a character of a written number is read; None: it is left out.

    Parentheses stay, because what they enclose may be a trunk prefix."""

    def __missing__(self, code: int) -> str | None:
        character = chr(code)
        category = unicodedata.category(character)
        if category == "Nd":
            return str(unicodedata.decimal(character))
        # Blanks, dashes, and what cannot be seen: marks of writing direction, joiners, soft hyphens.
        return None if category in ("Zs", "Pd", "Cf") else character


_READ = _Reading(
    {code: chr(code) for code in range(128)}
    | {ord(c): None for c in " -.\t\u2212\uff0e"}
    | {ord("\uff0b"): "+", ord("\ufe62"): "+", ord("\uff08"): "(", ord("\uff09"): ")"}
)
_PARENTHESES = str.maketrans("", "", "()")
PLANS = _Plans()


def e164(text: str) -> str:
    """The destination as "+", a country calling code, and as many digits as that country's numbers have.

    Blanks, dashes, dots, parentheses, invisible marks and a leading apostrophe are removed, digits of all
    scripts are read, and a leading 00 is read as "+". A number with neither is refused,
    because its country would be a guess. So is a trunk prefix, written "(0)" or not, because it is
    not dialled after a country code. Raises Refusal `invalid_number`.
    """
    digits = text[1:]
    if text[:1] == "+" and digits.isdecimal() and digits.isascii():
        number = text
    else:
        number = _read(text)
        digits = number[1:]
    plan = PLANS[digits[:3]] if len(digits) <= DIGITS_MAX else None
    if plan is not None and len(digits) in plan.lengths and digits[plan.trunk_at] != "0":
        return number
    raise _no_destination(digits, plan)


def e164_in(field: str, text: str) -> str:
    """As `e164`, of a number that stands in another field than `to`."""
    try:
        return e164(text)
    except Refusal as refusal:
        detail = refusal.detail.replace("`to` must", f"`{field}` must", 1)
        raise Refusal(refusal.code, refusal.status, detail, field) from refusal


def _no_destination(digits: str, plan: _Plan | None) -> Refusal:
    """Why these digits after "+" are no destination."""
    if not DIGITS_MIN <= len(digits) <= DIGITS_MAX:
        return _invalid_number(f"have {DIGITS_MIN} to {DIGITS_MAX} digits, country calling code included")
    if plan is None:
        return _invalid_number("begin with an assigned country calling code")
    if digits[plan.trunk_at] == "0":
        return _with_trunk_prefix()
    behind = sorted(length - len(str(plan.code)) for length in plan.lengths)
    allowed = " or ".join(filter(None, (", ".join(map(str, behind[:-1])), str(behind[-1]))))
    return _invalid_number(f"have {allowed} digits after the country calling code {plan.code}")


def _read(text: str) -> str:
    """The number that was written in `text`, as "+" and ASCII digits. Raises Refusal `invalid_number`."""
    written = text.strip().removeprefix("'") if len(text) <= _WRITTEN_MAX else ""
    if written.endswith((".0", ",0")):
        raise _an_amount()
    plain = written.translate(_READ)
    if "(0)" in plain:
        raise _with_trunk_prefix()
    number = plain.translate(_PARENTHESES)
    if number.startswith("00"):
        number = "+" + number[2:]
    digits = number[1:]
    if number[:1] == "+" and digits.isdecimal() and digits.isascii():
        return number
    if _SCIENTIFIC.fullmatch(written.removeprefix("+")):
        raise _an_amount()
    must = 'be "+", the country calling code and the number, digits only'
    foreign = next((c for c in number.removeprefix("+") if c not in "0123456789"), "")
    raise _invalid_number(f"{must}; it contains {_named(foreign)}" if foreign else must)


def _plan(code: int) -> _Plan:
    # The first of the countries that share a code stands for all: the library keeps their lengths there.
    region = COUNTRY_CODE_TO_REGION_CODE[code][0]
    country = (
        PhoneMetadata.metadata_for_nongeo_region(code)
        if region == _NOT_REGION
        else PhoneMetadata.metadata_for_region(region)
    )
    assert country is not None
    assert country.general_desc is not None
    own = len(str(code))
    lengths = (own + length for length in country.general_desc.possible_length)
    return _Plan(
        code=code,
        lengths=frozenset(n for n in lengths if DIGITS_MIN <= n <= DIGITS_MAX),
        # Where the trunk prefix is another digit (8 in Russia, 1 in America) the length tells.
        trunk_at=own if country.national_prefix == "0" else 0,
    )


def sender(text: str) -> str:
    """The sender id: a name, a short code, or a number.

    A name has at most 11 characters of the GSM basic alphabet (3GPP TS 23.040, 9.1.2.5,
    alphanumeric address), at least one of them a letter, no line breaks, no space at
    either end. A code or a number in national form has 3 to 15 digits. One that begins
    with "+" or 00 is international: it is written as `e164` takes it, and kept with "+"; only how
    many digits its country has is not asked, because senders have numbers of their own. "" leaves the
    sender to the provider. Raises Refusal `invalid_sender`.
    """
    if not text or text[0] == "+":
        return _sender_number(text) if text else text
    if text.isdecimal() and text.isascii() and not text.startswith("00"):
        if SENDER_DIGITS_MIN <= len(text) <= SENDER_DIGITS_MAX:
            return text
        raise _invalid_sender()
    named = len(text) <= SENDER_CHARACTERS_MAX and _SENDER_CHARACTERS.issuperset(text)
    if named and text == text.strip() and any(map(str.isalpha, text)):
        return text
    return _sender_number(text)


def _sender_number(text: str) -> str:
    """The sender that is no name and not digits alone. Raises Refusal `invalid_sender`."""
    written = text.strip() if len(text) <= _WRITTEN_MAX else ""
    if written[:1].isdecimal() and written.isdecimal() and not written.isascii():
        return sender(written.translate(_READ))
    digits = written[1:]
    try:
        clean = written[:1] == "+" and digits.isdecimal() and digits.isascii()
        number = written if clean else _read(written)
    except Refusal:
        number = "+"
    if DIGITS_MIN <= len(number) - 1 <= DIGITS_MAX and PLANS[number[1:4]] is not None:
        return number
    foreign = next((c for c in written if c not in _SENDER_CHARACTERS), "")
    raise _invalid_sender(f"; it contains {_named(foreign)}" if foreign else "")


def _named(character: str) -> str:
    """A character that may not be seen: a, or U+200B ZERO WIDTH SPACE."""
    if character.isascii() and character.isprintable() and character != " ":
        return character
    return f"U+{ord(character):04X} {unicodedata.name(character, '')}".rstrip()


def _invalid_number(must: str) -> Refusal:
    # The number itself is not repeated: refusals are logged, numbers are not.
    return Refusal("invalid_number", 422, f"`to` must {must}.", "to")


def _an_amount() -> Refusal:
    must = "have all its digits; a spreadsheet has made an amount of it, so format the column as text"
    return _invalid_number(must)


def _with_trunk_prefix() -> Refusal:
    return _invalid_number("be without the 0 that is dialled within the country only, also in parentheses")


def _invalid_sender(more: str = "") -> Refusal:
    return Refusal(
        "invalid_sender",
        422,
        f"`from` must be 1 to {SENDER_CHARACTERS_MAX} characters of the GSM alphabet with at least one"
        f" letter, {SENDER_DIGITS_MIN} to {SENDER_DIGITS_MAX} digits, or an international number{more}.",
        "from",
    )
