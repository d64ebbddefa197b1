"""Rule: a deliver_sm or data_sm that a subscriber wrote, as a part of an inbound message.

The text is read by its data_coding (SMPP 3.4, 5.2.19; 3GPP TS 23.038, 4):

    that of UCS-2 (8), or a group of 23.038 that says UCS-2   UTF-16, the high octet first
    that of Latin-1 (3), 1, and octets (2, 4)                 Latin-1
    6, 7                                                      Cyrillic and Hebrew, ISO 8859-5 and -8
    any other                                                 the provider's default alphabet

A part of a longer message says so in the user data header (3GPP TS 23.040, 9.2.3.24.1 and .8), where
esm_class speaks of one, or in the parameters sar_msg_ref_num, sar_total_segments and sar_segment_seqnum.

A number is international when its type says so, or when it has no type and is one in E.164 with "+" in front;
else it stays as it came, and nobody can be opted out by it.

Providers send again what was not answered, with the same octets. So a part is known again by them, for some
minutes: a second, later `STOP` is another message.
"""

from __future__ import annotations

import hashlib

from engine.errors import Refusal
from engine.inbound.records import InboundPart
from engine.intake.phone_numbers import e164
from engine.intake.segments import BASIC
from engine.providers.settings import SmppSettings
from engine.providers.smpp.alphabet import ESCAPED_CHARACTERS, septets
from engine.providers.smpp.body import ShortMessage
from engine.providers.smpp.codes import Tag

# How long a part that comes again is the same one, seconds.
AGAIN_S = 300
# esm_class: what kind of message it is, and whether there is a header (5.2.12).
_TYPE_MASK, _HAS_HEADER = 0b0011_1100, 0b0100_0000
_INTERNATIONAL, _UNKNOWN = 1, 0
_ESCAPE = 0x1B
# Characters by their septet.
_CHARACTERS = BASIC[:_ESCAPE] + " " + BASIC[_ESCAPE:]
_CODECS = {1: "latin-1", 2: "latin-1", 3: "latin-1", 4: "latin-1", 6: "iso8859-5", 7: "iso8859-8"}
# Members of an enumeration are slow to look up.
_PAYLOAD, _SAR_REFERENCE = int(Tag.message_payload), int(Tag.sar_msg_ref_num)
_SAR_TOTAL, _SAR_NUMBER = int(Tag.sar_total_segments), int(Tag.sar_segment_seqnum)
_ADDRESS_MAX = 64


class InboundReader:
    """Reads what subscribers wrote, of one provider."""

    def __init__(self, settings: SmppSettings) -> None:
        self._provider = settings.name
        self._alphabet = settings.default_alphabet
        self._packed = settings.gsm7 == "packed"
        self._ucs2 = settings.data_coding.ucs2
        self._latin1 = settings.data_coding.latin1

    def read(self, m: ShortMessage, at_us: int) -> tuple[InboundPart, bytes, int] | None:
        """The part, what it is known again by, and for how long, seconds; None: nobody wrote it.

        Never raises.
        """
        if m.esm_class & _TYPE_MASK:
            # An acknowledgement that a device or its user sent.
            return None
        octets = m.short_message or m.parameters.get(_PAYLOAD, b"")
        header = b""
        if m.esm_class & _HAS_HEADER and octets:
            header, octets = octets[1 : 1 + octets[0]], octets[1 + octets[0] :]
        reference, part, parts = _place(header) or _place_by_parameters(m) or ("", 1, 1)
        sender, recipient = _sender(m), _recipient(m.destination)
        digest = hashlib.blake2b(
            repr((self._provider, sender, recipient, m.esm_class, m.data_coding, m.short_message,
                  m.parameters.get(_PAYLOAD), reference, part, parts)).encode(), digest_size=16
        )  # fmt: skip
        return (
            InboundPart(
                provider=self._provider,
                sender=sender,
                recipient=recipient,
                utf16=self._utf16(octets, m.data_coding, len(header) + 1 if header else 0),
                at_us=at_us,
                reference=reference,
                part=part,
                parts=parts,
            ),
            digest.digest(),
            AGAIN_S,
        )

    def _utf16(self, octets: bytes, coding: int, header_octets: int) -> bytes:
        if coding == self._ucs2 or coding & 0x0C == 0x08:
            return octets[: len(octets) // 2 * 2]
        codec = "latin-1" if coding == self._latin1 else _CODECS.get(coding)
        if codec is not None:
            text = octets.decode(codec, "replace")
        elif self._alphabet == "gsm7":
            text = _gsm7(_unpacked(octets, header_octets) if self._packed else octets)
        else:
            text = octets.decode("latin-1" if self._alphabet == "latin1" else "ascii", "replace")
        return text.encode("utf-16-be")


def _unpacked(octets: bytes, header_octets: int) -> bytes:
    """The septets behind a header, which begin at the first multiple of seven bits behind it."""
    fill_bits = -8 * header_octets % 7
    whole = int.from_bytes(octets, "little") >> fill_bits
    return septets(whole.to_bytes(len(octets), "little"))


def _gsm7(octets: bytes) -> str:
    """The text of septets, an octet for each; octets that are none become "?"."""
    characters, escaped = [], False
    for octet in octets:
        if escaped:
            characters.append(ESCAPED_CHARACTERS.get(octet, " "))
            escaped = False
        elif octet == _ESCAPE:
            escaped = True
        else:
            characters.append(_CHARACTERS[octet] if octet < len(_CHARACTERS) else "?")
    return "".join(characters)


def _place(header: bytes) -> tuple[str, int, int] | None:
    """(reference, number, count) of a part by its user data header; None: it is no part."""
    at = 0
    while at + 2 <= len(header):
        kind, value = header[at], header[at + 2 : at + 2 + header[at + 1]]
        at += 2 + header[at + 1]
        if (kind, len(value)) == (0x00, 3):
            return _checked(f"{value[0]}", value[2], value[1])
        if (kind, len(value)) == (0x08, 4):
            return _checked(f"{int.from_bytes(value[:2])}w", value[3], value[2])
    return None


def _place_by_parameters(m: ShortMessage) -> tuple[str, int, int] | None:
    reference, total, number = (m.parameters.get(t, b"") for t in (_SAR_REFERENCE, _SAR_TOTAL, _SAR_NUMBER))
    if not reference or len(total) != 1 or len(number) != 1:
        return None
    return _checked(f"{int.from_bytes(reference[:2])}s", number[0], total[0])


def _checked(reference: str, part: int, parts: int) -> tuple[str, int, int] | None:
    return (reference, part, parts) if 1 <= part <= parts and parts > 1 else None


def _sender(m: ShortMessage) -> str:
    source = m.source.strip()[:_ADDRESS_MAX]
    if source.isascii() and source.isdecimal() and m.source_ton in (_INTERNATIONAL, _UNKNOWN):
        try:
            return e164(f"+{source}")
        except Refusal:
            return source
    return source


def _recipient(address: str) -> str:
    digits = "".join(c for c in address if c in "0123456789")
    return digits[:_ADDRESS_MAX] or address.strip()[:_ADDRESS_MAX]
