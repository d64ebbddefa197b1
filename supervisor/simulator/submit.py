"""Tells which message a submit_sm belongs to, and which of its segments it is. Rules only.

A client may put the id of its message into the parameter 0x1401 (of the range left to
operators: SMPP 3.4, 5.3.2); the message is then counted by that id. Without it, a message is
counted by its recipient and a reference: the reference that joins its segments, else
user_message_reference, else a checksum of the text. References that join segments have 8 or
16 bits, so two long messages to one number may have the same.
"""

from __future__ import annotations

from zlib import crc32

from engine.providers.smpp.body import ShortMessage
from engine.providers.smpp.codes import Tag

MESSAGE_ID_TAG = 0x1401

# User data header: esm_class bit 6 (5.2.12); elements as in 3GPP TS 23.040, 9.2.3.24.
_HEADER_INDICATOR = 0x40
_JOINED_8 = 0x00
_JOINED_16 = 0x08

_PAYLOAD = int(Tag.message_payload)
_REFERENCE = int(Tag.user_message_reference)
_SAR_REFERENCE = int(Tag.sar_msg_ref_num)
_SAR_SEGMENT = int(Tag.sar_segment_seqnum)


def identity(message: ShortMessage) -> tuple[str, int]:
    """The id that the message is counted by, and the number of the segment, from 1."""
    parameters = message.parameters
    reference, segment = "", 1
    if message.esm_class & _HEADER_INDICATOR:
        reference, segment = _joined(_text(message))
    elif _SAR_REFERENCE in parameters:
        reference = parameters[_SAR_REFERENCE].hex()
        segment = int.from_bytes(parameters.get(_SAR_SEGMENT, b"\1"), "big") or 1
    named = parameters.get(MESSAGE_ID_TAG)
    if named:
        return named.rstrip(b"\0").decode("latin-1"), segment
    if not reference:
        own = parameters.get(_REFERENCE)
        reference = own.hex() if own else f"{crc32(_text(message)):08x}"
    return f"{message.destination}:{reference}", segment


def _text(message: ShortMessage) -> bytes:
    return message.short_message or message.parameters.get(_PAYLOAD, b"")


def _joined(text: bytes) -> tuple[str, int]:
    """(reference, number of the segment) from the user data header; ("", 1) when it names none."""
    at, end = 1, 1 + (text[0] if text else 0)
    while at + 2 <= end:
        element, length = text[at : at + 2].ljust(2, b"\0")
        value = text[at + 2 : at + 2 + length]
        if (element, len(value)) in ((_JOINED_8, 3), (_JOINED_16, 4)):
            return value[:-2].hex(), value[-1] or 1
        at += 2 + length
    return "", 1
