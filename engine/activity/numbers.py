"""Rule: what stands for a recipient's number in ClickHouse, the number itself or a keyed hash of it.

A *hashed number* is "#", four digits that say its country as the views of reports read it
(`engine.activity.countries.digits_for`), 16 characters of HMAC-SHA256 of the number (96 bits), and 4 of that
of its last eight digits (24 bits). The first hash is what a number is looked up and erased by. The second
says whether a receipt is about it, because providers write numbers with and without the country's code.
Without the key neither can be turned back, nor tried out number by number; with it both can.

What was stored before hashing was switched on, or off, stays as it is. So numbers are looked for in all forms
that they may have, as long as the key is known.
"""

from __future__ import annotations

import base64
import hmac

from engine.activity.countries import digits_for

_MARK = "#"
# So many digits of a number say whose it is without its country's code.
_NATIONAL_MIN = 7
# How many digits from the end are compared, and how few are no evidence at all.
_DIGITS, _DIGITS_MIN = 8, 5
_NUMBER_BYTES, _TAIL_BYTES = 12, 3
# Characters of the second hash, at the end.
_TAIL = 4
# So many hashed numbers are remembered, because the events of a message come soon after each other.
_REMEMBERED = 50_000


def numbers_agree(digits: str, to: str) -> bool | None:
    """Whether a receipt's number may be `to`, an E.164 number; None: it has too few digits to judge.

    The last eight digits are compared, because providers write numbers with and without the
    country's code and with prefixes of their own.
    """
    theirs = digits.lstrip("0")
    if len(theirs) < _DIGITS_MIN:
        return None
    count = min(_DIGITS, len(theirs))
    return theirs[-count:] == to[-count:]


def are_digits_of(digits: str, number: str) -> bool:
    """Whether a receipt's digits are this number, in E.164 with the plus sign: all of it, with zeros or a
    prefix before it, or without its country's code.

    It is stricter than `numbers_agree`, because what is erased by it does not come back.
    """
    theirs, ours = digits.lstrip("0"), number.removeprefix("+")
    return len(theirs) >= _NATIONAL_MIN and (theirs.endswith(ours) or ours.endswith(theirs))


class Numbers:
    """Hashes numbers, finds them and compares them. For one thread at a time."""

    def __init__(self, key: bytes = b"", *, hashed: bool = False) -> None:
        """`key`: b"" when no number was ever hashed. `hashed`: whether what is stored from now on is."""
        assert key or not hashed
        self._key = key
        self._known: dict[bytes, bytes] = {}
        self.hashed = hashed

    def stored(self, number: bytes) -> bytes:
        """What is stored for a number in E.164; all else, a hashed number too, stays as it is."""
        if not self.hashed or number[:1] != b"+" or len(number) <= _DIGITS_MIN or not number[1:].isdigit():
            return number
        known = self._known.get(number)
        if known is None:
            if len(self._known) >= _REMEMBERED:
                self._known.clear()
            known = self._known[number] = self._hash(number.decode()).encode()
        return known

    def forms(self, number: str) -> list[str]:
        """All that may be stored for a number in E.164."""
        return [number, self._hash(number)] if self._key and number[:1] == "+" else [number]

    def agree(self, digits: str, stored: str) -> bool | None:
        """Whether a receipt's number, its digits, may be the one that is stored: see `numbers_agree`.

        A hashed number agrees with no number of less than eight digits, because there is no hash of fewer.
        """
        found = numbers_agree(digits, "" if _is_hashed(stored) else stored)
        if found is None or not _is_hashed(stored):
            return found
        return bool(self._key) and hmac.compare_digest(self._tail(digits.lstrip("0")), stored[-_TAIL:])

    def number_in(self, digits: str, stored: str) -> str:
        """The number that is stored, when a receipt has all digits of it; else what is stored."""
        if self._key and _is_hashed(stored) and self._hash(f"+{digits}") == stored:
            return f"+{digits}"
        return stored

    def _hash(self, number: str) -> str:
        digits = number[1:]
        return f"{_MARK}{digits_for(number)}{self._digest(digits, _NUMBER_BYTES)}{self._tail(digits)}"

    def _tail(self, digits: str) -> str:
        return self._digest(f"tail:{digits[-_DIGITS:]}", _TAIL_BYTES)

    def _digest(self, text: str, octets: int) -> str:
        found = hmac.digest(self._key, text.encode(), "sha256")[:octets]
        return base64.urlsafe_b64encode(found).decode()


def _is_hashed(stored: str) -> bool:
    return stored[:1] == _MARK


# Where numbers are stored as they are, and always were.
PLAIN = Numbers()
