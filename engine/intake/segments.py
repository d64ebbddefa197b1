"""Rule: how a text becomes segments: encoding, count, and the parts themselves.

Source: 3GPP TS 23.038 (default alphabet and its extension table) and TS 23.040
9.2.3.24.1 (concatenation with an 8-bit reference). A segment carries 140 octets: 160
septets or 70 UTF-16 units. In a text of several segments each gives 6 octets to the
concatenation header, which leaves 153 septets or 67 units. No cut separates an escape from the
character that it announces, nor the two halves of a surrogate pair.

National shift tables are not used. A text outside the default alphabet and its extension is sent as
UCS-2 (in truth UTF-16, as handsets show it). The escape character itself is no character of the
alphabet here, because as text it would announce a character that is not meant.
"""

from __future__ import annotations

import re
from itertools import pairwise

import msgspec

from engine.errors import Refusal
from engine.records import Encoding

# 3GPP TS 23.038, 6.2.1, in the order of its codes; 0x1B, the escape, is left out.
BASIC = (
    "@£$¥èéùìòÇ\nØø\rÅåΔ_ΦΓΛΩΠΨΣΘΞÆæßÉ"
    " !\"#¤%&'()*+,-./0123456789:;<=>?"
    "¡ABCDEFGHIJKLMNOPQRSTUVWXYZÄÖÑÜ§"
    "¿abcdefghijklmnopqrstuvwxyzäöñüà"
)
# 6.2.1.1: an escape and a second septet each.
EXTENSION = "\f^{}\\[~]|€"

SEPTETS_SINGLE, SEPTETS_EACH = 160, 153
UNITS_SINGLE, UNITS_EACH = 70, 67

_ESCAPE = "\x1b"
_ASCII_BASIC = "".join(c for c in BASIC if c.isascii()).encode("ascii")
_ASCII_EXTENSION = EXTENSION.replace("€", "").encode("ascii")
_FOREIGN = re.compile(f"[^{re.escape(BASIC + EXTENSION)}]")


class Measured(msgspec.Struct, frozen=True):
    """The size of a text."""

    encoding: Encoding
    segments: int
    # Septets (GSM-7) or UTF-16 units (UCS-2), without concatenation headers.
    characters: int


# Most texts fit one segment: their measure is made once.
_GSM_SINGLE = tuple(Measured("GSM-7", 1, n) for n in range(SEPTETS_SINGLE + 1))
_UCS_SINGLE = tuple(Measured("UCS-2", 1, n) for n in range(UNITS_SINGLE + 1))


def measure(text: str) -> Measured:
    """Encoding, segments and length of a text; an empty text counts as one segment.

    The caller refuses texts that are empty or too long. Raises Refusal `invalid_text` for half a
    surrogate pair, which JSON can carry and no encoding can.
    """
    extended = _count_extended(text)
    if extended < 0:
        raw = _utf16(text)
        units = len(raw) // 2
        if units <= UNITS_SINGLE:
            return _UCS_SINGLE[units]
        return Measured("UCS-2", len(_cuts_utf16(raw)) - 1, units)
    septets = len(text) + extended
    if septets <= SEPTETS_SINGLE:
        return _GSM_SINGLE[septets]
    if not extended:
        return Measured("GSM-7", -(-septets // SEPTETS_EACH), septets)
    return Measured("GSM-7", len(_cuts_septets(_escaped(text))) - 1, septets)


def is_gsm7(text: str) -> bool:
    """Whether all of the text is in the default alphabet and its extension."""
    return _count_extended(text) >= 0


def first_foreign(text: str) -> int | None:
    """Where the first character is that makes the text UCS-2; None: it is GSM-7."""
    found = _FOREIGN.search(text)
    return None if found is None else found.start()


def split(text: str) -> list[str]:
    """The text of each segment, in order; as many as `measure` counts. Raises as it does."""
    extended = _count_extended(text)
    if extended < 0:
        return split_ucs2(text)
    if len(text) + extended <= SEPTETS_SINGLE:
        return [text]
    septets = _escaped(text)
    cuts = _cuts_septets(septets)
    return [septets[a:b].replace(_ESCAPE, "") for a, b in pairwise(cuts)]


def split_ucs2(text: str) -> list[str]:
    """The text of each segment when it goes as UCS-2, whatever its own encoding is. Raises as `measure`."""
    raw = _utf16(text)
    if len(raw) // 2 <= UNITS_SINGLE:
        return [text]
    return [raw[2 * a : 2 * b].decode("utf-16-le") for a, b in pairwise(_cuts_utf16(raw))]


def _count_extended(text: str) -> int:
    """How many characters of the text are in the extension table; -1 when the text is not GSM-7."""
    if text.isascii():
        # What is left when the characters of a table are deleted is not in it: two passes in C.
        rest = text.encode("ascii").translate(None, _ASCII_BASIC)
        if not rest:
            return 0
        return -1 if rest.translate(None, _ASCII_EXTENSION) else len(rest)
    if _FOREIGN.search(text) is not None:
        return -1
    return sum(map(text.count, EXTENSION))


def _escaped(text: str) -> str:
    """One character for each septet."""
    # Many times as fast as one regular expression: a megabyte of braces is no second of the process.
    for extended in EXTENSION:
        text = text.replace(extended, _ESCAPE + extended)
    return text


def _cuts_septets(septets: str) -> list[int]:
    cuts = [0]
    while cuts[-1] + SEPTETS_EACH < len(septets):
        cut = cuts[-1] + SEPTETS_EACH
        cuts.append(cut - 1 if septets[cut - 1] == _ESCAPE else cut)
    cuts.append(len(septets))
    return cuts


def _utf16(text: str) -> bytes:
    try:
        return text.encode("utf-16-le")
    except UnicodeEncodeError:
        raise Refusal(
            "invalid_text",
            422,
            "text contains half of a surrogate pair; send every character whole.",
            "text",
        ) from None


def _cuts_utf16(raw: bytes) -> list[int]:
    """Where segments begin and the text ends, in units of two octets."""
    units = len(raw) // 2
    cuts = [0]
    while cuts[-1] + UNITS_EACH < units:
        cut = cuts[-1] + UNITS_EACH
        # High surrogates are 0xD800 to 0xDBFF: the second octet tells.
        cuts.append(cut - 1 if raw[2 * cut - 1] & 0xFC == 0xD8 else cut)
    cuts.append(units)
    return cuts
