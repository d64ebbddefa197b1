"""The text of a message as the octets of its segments on a provider's wire.

The parts are those of `engine.intake.segments`, by which the message was priced, so that no more
are sent than were paid for. The provider's setting only changes how each part is written:

    GSM-7, "unpacked"  data_coding 0, an octet for each septet; up to 160
    GSM-7, "packed"    data_coding 0, eight septets in seven octets; up to 140
    GSM-7, "latin1"    data_coding 3, an octet for each character; the provider makes septets
    UCS-2              data_coding 8, UTF-16 with the high octet first; up to 140

Latin-1 lacks the Greek capitals and the euro sign of GSM-7. A message with one of these
goes as UCS-2, which every provider understands, when that takes no more segments: when it
has one, of at most 70 characters. A longer one goes unpacked, as data_coding 0. A provider
that reads this as something else than GSM-7 then shows a few characters wrongly; as UCS-2
it would need up to three times the segments that were paid for. All parts of a message have
the same coding: handsets join no others.
"""

from __future__ import annotations

from typing import Literal

from engine.errors import Refusal
from engine.intake.segments import UNITS_SINGLE, split
from engine.providers.smpp.alphabet import packed, unpacked
from engine.records import Message

DEFAULT_ALPHABET, LATIN_1, UCS_2 = 0, 3, 8

Gsm7 = Literal["unpacked", "packed", "latin1"]


def parts(message: Message) -> list[str]:
    """The text of each segment. Raises ValueError for a text that no encoding can write."""
    if message.segments == 1:
        return [message.text]
    try:
        return split(message.text)
    except Refusal as e:
        raise ValueError(e.detail) from None


def coded(message: Message, texts: list[str], gsm7: Gsm7, header_octets: int) -> tuple[int, list[bytes]]:
    """data_coding and the octets of each of `texts`, to stand behind a header of that length.

    Packed septets begin at the first multiple of seven bits behind the header: 3GPP TS
    23.040, 9.2.3.24. Raises ValueError for a text that its encoding does not have.
    """
    if message.encoding == "UCS-2":
        return UCS_2, [_utf16(text) for text in texts]
    if gsm7 == "latin1":
        try:
            return LATIN_1, [text.encode("latin-1") for text in texts]
        except UnicodeEncodeError:
            if message.segments == 1 and len(message.text) <= UNITS_SINGLE:
                return UCS_2, [_utf16(text) for text in texts]
    if gsm7 == "packed":
        fill_bits = -8 * header_octets % 7
        return DEFAULT_ALPHABET, [packed(unpacked(text), fill_bits) for text in texts]
    return DEFAULT_ALPHABET, [unpacked(text) for text in texts]


def _utf16(text: str) -> bytes:
    try:
        return text.encode("utf-16-be")
    except UnicodeEncodeError:
        raise ValueError("text contains half of a surrogate pair.") from None
