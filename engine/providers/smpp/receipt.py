"""What a provider's deliver_sm (or data_sm) says about a message: its receipt.

esm_class says whether it is a receipt at all (SMPP 3.4, 5.2.12, bits 5 to 2):

    0001  delivery receipt
    1000  intermediate notification: "undelivered" is not final there, the provider goes on
    0000  a message from a subscriber; yet a receipt when it has the parameter
          receipted_message_id, which nothing else has (5.3.2.12)
    else  an acknowledgement made by the recipient's device or by hand: no receipt

A text in the form of a receipt is not enough: anybody can send such a text to a number that the
provider passes on to us, and could so change the history of somebody's message.

The parameters receipted_message_id, message_state and network_error_code are of the
specification; the text is "SMSC vendor specific" and only its example is given (appendix B):

    id:IIIIIIIIII sub:SSS dlvrd:DDD submit date:YYMMDDhhmm done date:YYMMDDhhmm stat:DDDDDDD err:E Text:...

So the parameters count where they are given, except a message_state UNKNOWN when the text says
more. Of the text only id, stat and err are read, in any order and case, with or without spaces.
"text" holds the beginning of the message, and its author may have written "stat:DELIVRD" there.
So what follows "text" counts only for fields that do not stand before it, and the last one counts.

    DELIVRD                            delivered
    UNDELIV, REJECTD, EXPIRED, DELETED undelivered
    ENROUTE, ACCEPTD                   pending
    UNKNOWN, any other, none           pending

UNKNOWN ("the message is in an invalid state") does not say whether the recipient has the message.
As `undelivered` it could be sent again, and arrive twice; as `delivered` the engine would claim
what nobody knows. So it is `pending`, which ends nothing and keeps the raw word; a later receipt
may still end the message.
"""

from __future__ import annotations

import re
from typing import Literal

from engine.providers.smpp.body import ShortMessage
from engine.providers.smpp.codes import MessageState, Tag
from engine.receipts.records import Receipt

_State = Literal["delivered", "undelivered", "pending"]

# Longest values that are kept, in characters. A receipt's text has about 120.
TEXT_MAX = 1024
ID_MAX = 255
STAT_MAX = 16
ERR_MAX = 16

_TYPE_MASK = 0b0011_1100
_RECEIPT, _INTERMEDIATE, _PLAIN = 0b0000_0100, 0b0010_0000, 0
_HAS_HEADER = 0b0100_0000
_UCS_2 = 8
# Members of an enumeration are slow to look up.
_RECEIPTED_ID, _MESSAGE_STATE = int(Tag.receipted_message_id), int(Tag.message_state)
_ERROR_CODE, _PAYLOAD = int(Tag.network_error_code), int(Tag.message_payload)

_STATES: dict[str, _State] = {
    "DELIVRD": "delivered",
    "UNDELIV": "undelivered",
    "REJECTD": "undelivered",
    "EXPIRED": "undelivered",
    "DELETED": "undelivered",
    # Some providers write the words out.
    "DELIVERED": "delivered",
    "UNDELIVERED": "undelivered",
    "UNDELIVERABLE": "undelivered",
    "REJECTED": "undelivered",
    "FAILED": "undelivered",
}
_WORDS: dict[int, str] = {
    MessageState.ENROUTE: "ENROUTE",
    MessageState.DELIVERED: "DELIVRD",
    MessageState.EXPIRED: "EXPIRED",
    MessageState.DELETED: "DELETED",
    MessageState.UNDELIVERABLE: "UNDELIV",
    MessageState.ACCEPTED: "ACCEPTD",
    MessageState.UNKNOWN: "UNKNOWN",
    MessageState.REJECTED: "REJECTD",
}

# The next key is no value: "err: text:" has no err. Blanks are bounded, so that a text of blanks
# only takes no longer.
_FIELD = re.compile(
    r"\b(id|stat|err)\s{0,3}:\s{0,3}"
    r"(?!(?:id|sub|dlvrd|submit date|done date|stat|err|text)\s{0,3}:)(\S+)",
    re.IGNORECASE,
)
# The form of appendix B to the letter, which nearly all receipts have: read in one go, it takes
# a fifth of the time. Nothing it matches is read otherwise by the general ones.
_USUAL = re.compile(
    r"id:([^\s:]+) sub:\d+ dlvrd:\d+ submit date:\d+ done date:\d+ stat:([A-Za-z]+) err:(\w+)(?=\s|$)"
)
_TEXT_BEGINS = re.compile(r"\btext\s{0,3}:", re.IGNORECASE)
_NO_DIGITS = re.compile(r"[^0-9]+")


def is_receipt(m: ShortMessage) -> bool:
    """Whether the provider sent it as a receipt or an intermediate notification."""
    kind = m.esm_class & _TYPE_MASK
    return kind in (_RECEIPT, _INTERMEDIATE) or (kind == _PLAIN and _RECEIPTED_ID in m.parameters)


def receipt(m: ShortMessage, provider: str, at_us: int) -> Receipt | None:
    """The receipt in `m`, which came at `at_us`, microseconds since 1970. Never raises.

    None when `m` is no receipt (`is_receipt`), or has no id by which its message could be found.
    """
    if not is_receipt(m):
        return None
    fields = _fields(_text(m))
    message_id = _c_string(m.parameters.get(_RECEIPTED_ID, b"")) or fields.get("id", "")
    if not message_id:
        return None
    stat = _stat(m, fields.get("stat", "").upper())
    state = _STATES.get(stat, "pending")
    if state == "undelivered" and m.esm_class & _TYPE_MASK == _INTERMEDIATE:
        state = "pending"
    return Receipt(
        provider=provider,
        provider_message_id=message_id[:ID_MAX],
        state=state,
        code=" ".join(word for word in (stat, _err(m, fields.get("err", ""))) if word),
        at_us=at_us,
        to=_NO_DIGITS.sub("", m.source),
    )


def _fields(text: str) -> dict[str, str]:
    """id, stat and err, as far as the text has them."""
    usual = _USUAL.match(text)
    if usual is not None:
        return {"id": usual[1], "stat": usual[2], "err": usual[3]}
    begins = _TEXT_BEGINS.search(text)
    fields: dict[str, str] = {}
    for match in _FIELD.finditer(text, 0, begins.start() if begins else len(text)):
        fields.setdefault(match[1].lower(), match[2])
    if begins and not ("id" in fields and "stat" in fields):
        behind = {match[1].lower(): match[2] for match in _FIELD.finditer(text, begins.end())}
        fields = behind | fields
    return fields


def _text(m: ShortMessage) -> str:
    raw = m.short_message or m.parameters.get(_PAYLOAD, b"")
    if m.esm_class & _HAS_HEADER and raw:
        raw = raw[1 + raw[0] :]
    if m.data_coding == _UCS_2:
        text = raw[: 2 * TEXT_MAX].decode("utf-16-be", "replace")
    else:
        # Latin-1 has a character for every octet; the keys and words are of ASCII, which
        # all codings of one octet write alike.
        text = raw[:TEXT_MAX].decode("latin-1")
    return text.replace("\0", " ")


def _stat(m: ShortMessage, word_in_text: str) -> str:
    value = m.parameters.get(_MESSAGE_STATE, b"")
    word = _WORDS.get(value[0], "") if len(value) == 1 else ""
    if not word or (word == "UNKNOWN" and word_in_text):
        return word_in_text[:STAT_MAX]
    return word


def _err(m: ShortMessage, code_in_text: str) -> str:
    """The error code, three digits as in the text; the parameter is its network's type and code."""
    value = m.parameters.get(_ERROR_CODE, b"")
    if len(value) == 3:
        return f"{int.from_bytes(value[1:], 'big'):03d}"
    return code_in_text[:ERR_MAX]


def _c_string(value: bytes) -> str:
    """With or without the NUL, which some providers leave out."""
    return value.partition(b"\0")[0].decode("latin-1").strip()
