"""Text as octets of the SMSC default alphabet: 3GPP TS 23.038, 6.2.1 and 6.2.1.1.

Unpacked, each septet has an octet of its own; packed (6.1.2.1.1), eight septets share seven.
`engine.intake.segments` says which characters there are; here they only get their codes.
"""

from __future__ import annotations

import codecs

from engine.intake.segments import BASIC, EXTENSION

_ESCAPE = 0x1B
_CARRIAGE_RETURN = b"\r"

# Second septet of each character of the extension table, in the order of EXTENSION.
_EXTENSION_CODES = (0x0A, 0x14, 0x28, 0x29, 0x2F, 0x3C, 0x3D, 0x3E, 0x40, 0x65)
# The characters behind an escape, by their second septet.
ESCAPED_CHARACTERS = dict(zip(_EXTENSION_CODES, EXTENSION, strict=True))
# Codes above 0x7F stand for what needs a second step: an extension character is its code
# and 0x80 until it is escaped; "@", whose code is 0, is 0xFF, because a table with anything
# but NUL at 0 is kept by Python as a dictionary and takes ten times as long.
_AT = 0xFF
_ESCAPED = [(bytes([0x80 | code]), bytes([_ESCAPE, code])) for code in _EXTENSION_CODES]
_FINAL = bytes(range(_AT)) + b"\0"


def _table() -> str:
    codes = ["\ufffe"] * 256  # no character
    for code, character in enumerate(BASIC[:_ESCAPE] + "\ufffe" + BASIC[_ESCAPE:]):
        codes[code] = character
    for code, character in zip(_EXTENSION_CODES, EXTENSION, strict=True):
        codes[0x80 | code] = character
    codes[0], codes[_AT] = "\0", "@"
    return "".join(codes)


_ENCODING = codecs.charmap_build(_table())

# Packing all groups of eight octets at once, in one integer whose lowest octet is the first:
# neighbours move together, first septets to 14 bits, these to 28, these to 56; the eighth
# octet of each group is then empty and is dropped. (mask of what stays, and how far the
# half above it moves), for up to the octets given.
_GROUPS = 20
_STEPS = [
    (int.from_bytes(mask * _GROUPS, "little"), half, half // 7 * 8 - half)
    for mask, half in (
        (b"\x7f\0" * 4, 7),
        (b"\xff\x3f\0\0" * 2, 14),
        (b"\xff\xff\xff\x0f\0\0\0\0", 28),
    )
]


def unpacked(text: str) -> bytes:
    """One octet for each septet. Raises ValueError for a character that GSM-7 does not have."""
    try:
        raw, _ = codecs.charmap_encode(text, "strict", _ENCODING)
    except UnicodeEncodeError:
        raw = b"\0"
    if 0 in raw:
        raise ValueError("text has a character outside GSM-7.")
    if raw.isascii():
        return raw
    raw = raw.translate(_FINAL)
    if not raw.isascii():
        for code, escaped in _ESCAPED:
            raw = raw.replace(code, escaped)
    return raw


def packed(septets: bytes, fill_bits: int = 0) -> bytes:
    """Eight septets in seven octets, after `fill_bits` (0 to 6) that are 0.

    Where seven bits are left over at the end they hold a carriage return (6.1.2.3.1). A provider
    only knows the count of octets in SMPP, and would read zeros as one more character, "@".
    """
    bits = 7 * len(septets) + fill_bits
    if bits % 8 == 1:
        septets += _CARRIAGE_RETURN
        bits += 7
    whole = 0
    for at in range(0, len(septets), 8 * _GROUPS):
        part = int.from_bytes(septets[at : at + 8 * _GROUPS], "little")
        for mask, half, gap in _STEPS:
            part = part & mask | (part >> gap) & (mask << half)
        octets = bytearray(part.to_bytes(8 * _GROUPS, "little"))
        del octets[7::8]
        whole |= int.from_bytes(octets, "little") << 7 * at
    return (whole << fill_bits).to_bytes((bits + 7) // 8, "little")


def septets(octets: bytes) -> bytes:
    """The septets in `octets` that were packed without fill bits, as many as there is room for."""
    bits = int.from_bytes(octets, "little")
    return bytes([bits >> 7 * n & 0x7F for n in range(8 * len(octets) // 7)])
