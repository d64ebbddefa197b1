"""Rule: the fields id, stat and err in the text of a receipt, whatever octets it is written in.

The text is "SMSC vendor specific" and only its example is given (SMPP 3.4, appendix B):

    id:IIIIIIIIII sub:SSS dlvrd:DDD submit date:YYMMDDhhmm done date:YYMMDDhhmm stat:DDDDDDD err:E Text:...

Fields are read in any order and case, between blanks or commas, with or without quotes. "text" holds the
beginning of the message, and its author may have written "stat:DELIVRD" there. So what follows "text"
counts only for fields that do not stand before it, and the first of a name counts.

Neither data_coding nor esm_class tells how the text is written: providers copy both from the
message that the receipt is about. The octets tell it. The keys and words are ASCII, which every
coding of one octet writes alike; UTF-16 has a NUL beside each of them. So a text is tried as these,
in this order, and the first that has both id and stat counts, else the first that has one of them:

    UTF-16, either way round   where its first characters have these NULs, or a byte order mark
    one octet a character      Latin-1, so that every octet has its character
    UTF-16, either way round   where the text of the message, in another script, stands first
    packed GSM-7

and each of them behind the user data header that esm_class speaks of, and as if there were none.

A default alphabet that is GSM-7 writes "_" as 11, "$" as 02 and brackets with an escape. In a text
of one octet a character these octets are nothing else, so they are read so. "@", 00, is not: a NUL is
far more often the end of a string.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from engine.providers.smpp.alphabet import ESCAPED_CHARACTERS, septets
from engine.providers.smpp.body import AROUND_IDS, ShortMessage
from engine.providers.smpp.codes import Tag

# Characters of a text that are looked at; a receipt's text has about 120.
TEXT_MAX = 1024
# Octets of packed GSM-7 that are looked at: a short message has at most 140 on the air.
_PACKED_OCTETS_MAX = 254
_HAS_HEADER = 0b0100_0000
# Members of an enumeration are slow to look up.
_PAYLOAD = int(Tag.message_payload)

_KEYS = "id|sub|dlvrd|submit date|done date|stat|status|err|text"
# The next key is no value: "err: text:" has no err. Blanks are bounded, so that a text of blanks
# only takes no longer.
_FIELD = re.compile(
    rf"\b(id|stat|err)(?:us)?\s{{0,3}}:\s{{0,3}}(?!(?:{_KEYS})\s{{0,3}}:)"
    rf"(\S+?)(?=\s|$|[,;](?:{_KEYS})\s{{0,3}}:)",
    re.IGNORECASE,
)
# The form of appendix B to the letter, which nearly all receipts have: read in one go, it takes
# a fifth of the time. Nothing it matches is read otherwise by the general ones.
_USUAL = re.compile(
    r"id:([^\s:,;\"']+) sub:\d+ dlvrd:\d+ submit date:\d+ done date:\d+ "
    r"stat:([A-Za-z]+) err:(\w+)(?=[\s\0]|$)"
)
_TEXT_BEGINS = re.compile(r"\btext\s{0,3}:", re.IGNORECASE)
_GSM_7_ONLY = re.compile("[\x02\x11\x1b]")
_ESCAPES = re.compile("\x1b(.)", re.DOTALL)


def fields_of(m: ShortMessage, *, gsm7: bool) -> dict[str, str]:
    """id, stat and err, as far as a receipt's text has them; `gsm7` says whether the provider's default
    alphabet is GSM-7. Never raises."""
    best: dict[str, str] = {}
    if not m.esm_class & _HAS_HEADER:
        # Nearly all go this short way; the long one would read the same.
        usual = _USUAL.match(m.short_message[:TEXT_MAX].decode("latin-1"))
        if usual is not None and usual[1].isalnum():
            return {"id": usual[1], "stat": usual[2], "err": usual[3]}
    for raw in _octets(m):
        for text in _texts(raw, gsm7):
            fields = _fields(text)
            if "id" in fields and "stat" in fields:
                return fields
            if not ("id" in best or "stat" in best):
                best = fields
    return best


def has_form(m: ShortMessage) -> bool:
    """Whether the text has the form of a receipt: id and stat, not only behind "text"."""
    for raw in _octets(m):
        wide = _wide(raw)
        text = _utf16(raw, wide) if wide else _plain(raw)
        begins = _TEXT_BEGINS.search(text)
        if {"id", "stat"} <= _found(text, 0, begins.start() if begins else len(text)).keys():
            return True
    return False


def _octets(m: ShortMessage) -> Iterator[bytes]:
    for raw in (m.short_message, m.parameters.get(_PAYLOAD, b"")):
        if raw and m.esm_class & _HAS_HEADER:
            yield raw[1 + raw[0] :]
        if raw:
            yield raw


def _texts(raw: bytes, gsm7: bool) -> Iterator[str]:
    wide = _wide(raw)
    if wide:
        yield _utf16(raw, wide)
    plain = _plain(raw)
    yield _from_gsm7(plain) if gsm7 else plain
    if not wide:
        yield _utf16(raw, "utf-16-be")
        yield _utf16(raw, "utf-16-le")
    yield _from_gsm7(_plain(septets(raw[:_PACKED_OCTETS_MAX])))


def _wide(raw: bytes) -> str:
    """The codec of a text whose first octets are plainly UTF-16; "" for any other."""
    if raw[:2] in (b"\xfe\xff", b"\xff\xfe"):
        return "utf-16-be" if raw[0] == 0xFE else "utf-16-le"
    high, low = raw[0:16:2], raw[1:16:2]
    if 0 not in low and 2 * high.count(0) > len(high) > 1:
        return "utf-16-be"
    if 0 not in high and 2 * low.count(0) > len(low) > 1:
        return "utf-16-le"
    return ""


def _utf16(raw: bytes, codec: str) -> str:
    return raw[: 2 * TEXT_MAX].decode(codec, "replace").replace("\0", " ").removeprefix("\ufeff")


def _plain(raw: bytes) -> str:
    return raw[:TEXT_MAX].decode("latin-1").replace("\0", " ")


def _from_gsm7(text: str) -> str:
    if _GSM_7_ONLY.search(text) is None:
        return text
    text = text.replace("\x02", "$").replace("\x11", "_")
    return _ESCAPES.sub(lambda found: ESCAPED_CHARACTERS.get(ord(found[1]), " "), text)


def _fields(text: str) -> dict[str, str]:
    begins = _TEXT_BEGINS.search(text)
    fields = _found(text, 0, begins.start() if begins else len(text))
    if begins and not ("id" in fields and "stat" in fields):
        behind = {match[1].lower(): _value(match[2]) for match in _FIELD.finditer(text, begins.end())}
        fields = behind | fields
    return {key: value for key, value in fields.items() if value}


def _found(text: str, begin: int, end: int) -> dict[str, str]:
    fields: dict[str, str] = {}
    for match in _FIELD.finditer(text, begin, end):
        fields.setdefault(match[1].lower(), _value(match[2]))
    return fields


def _value(word: str) -> str:
    return word.rstrip(",;").strip(AROUND_IDS)
