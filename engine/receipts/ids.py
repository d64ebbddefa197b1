"""Rule: which messages a receipt may mean, by the id that the provider wrote in it.

A provider may write the id of a message in one way when it takes the message, and in another way
in the receipt: hexadecimal here and decimal there, in capitals in one place, or with leading zeros in
one place. So every id has a *normal form*: ASCII letters are small, and there are no leading zeros.
And for every provider it is configured, or tried out, from which base to which its ids change.

What `receipt_ids` of a provider says:

    same            receipts have the id as it was given
    hex-to-decimal  given in hexadecimal, in receipts in decimal
    decimal-to-hex  given in decimal, in receipts in hexadecimal
    auto            any of the three; and the recipient's number must agree, when the
                    receipt has it

An id without a meaning in its base (letters in a decimal one) is compared as it is.
"""

from __future__ import annotations

import re
from typing import Literal

IdForms = Literal["auto", "same", "hex-to-decimal", "decimal-to-hex"]

# 128 bits have so many digits; what is longer is taken for no number.
_HEX_DIGITS_MAX = 32
_DECIMAL_DIGITS_MAX = 39
_HEX = frozenset("0123456789abcdef")
_DECIMAL = frozenset("0123456789")
# A number with what may stand around it: "tel:" before it, "/TYPE=PLMN", "@host" or ";" behind it.
_NUMBER = re.compile(r"\s*(?:[A-Za-z]+:)?([0-9+\-.()/\s]*[0-9)])\s*(?:[/@;].*)?", re.DOTALL)
_NO_DIGITS = re.compile(r"[^0-9]+")
# No longer text is a number.
_NUMBER_CHARACTERS_MAX = 100


def normal(provider_message_id: str) -> str:
    """The normal form of one id; a comma inside it is written as in `Verdict`, %2C.

    The views that file attempts write the same in SQL: see 0003_receipts.sql.
    """
    if provider_message_id.isascii():
        lowered = provider_message_id.lower()
    else:
        # Only ASCII letters, as ClickHouse's lower().
        lowered = provider_message_id.encode("utf-8", "replace").lower().decode()
    if "," in lowered:
        lowered = lowered.replace(",", "%2c")
    return lowered.lstrip("0") or lowered[:1]


def likeliest(provider_message_id: str, how: IdForms) -> str:
    """Normal form of the id that the provider likely gave for the message, from the id in its receipt; ""
    for ""."""
    same = normal(provider_message_id)
    if how == "hex-to-decimal":
        return _hex_of(same) or same
    if how == "decimal-to-hex":
        return _decimal_of(same) or same
    return same


def others(provider_message_id: str, how: IdForms) -> list[str]:
    """Normal forms of the ids, in another base, that the provider perhaps gave instead."""
    if how != "auto":
        return []
    same = normal(provider_message_id)
    return [form for form in (_hex_of(same), _decimal_of(same)) if form and form != same]


def ids_of(provider_message_id: str, message_id: str) -> list[str]:
    """Normal forms under which an attempt is filed: one for each segment that has an id of its own.

    When the provider gave no id, it is the message's own id.
    """
    ids = provider_message_id or message_id
    # Commas separate the ids, so no id has one inside.
    return [normal(part) for part in ids.split(",")] if "," in ids else [normal(ids)]


def digits_of(written: str) -> str:
    """The digits of the number in a receipt; "" when the provider wrote none, or not all of it.

    Some providers hide the recipient: 98912*****67, 9891212XXXXX, a digest. What digits are left of
    that are no evidence of another recipient.
    """
    if written.isascii() and written.isdecimal():
        return written  # as nearly all are
    found = _NUMBER.fullmatch(written[:_NUMBER_CHARACTERS_MAX])
    return _NO_DIGITS.sub("", found[1]) if found else ""


def _hex_of(form: str) -> str:
    """A decimal number in hexadecimal, "" for none."""
    if not 0 < len(form) <= _DECIMAL_DIGITS_MAX or not _DECIMAL.issuperset(form):
        return ""
    return f"{int(form):x}"


def _decimal_of(form: str) -> str:
    """A hexadecimal number in decimal, "" for none."""
    if not 0 < len(form) <= _HEX_DIGITS_MAX or not _HEX.issuperset(form):
        return ""
    return str(int(form, 16))
