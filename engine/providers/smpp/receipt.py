"""What a provider's deliver_sm (or data_sm) says about a message: its receipt.

esm_class says whether it is a receipt at all (SMPP 3.4, 5.2.12, bits 5 to 2):

    0001  delivery receipt
    1000  intermediate notification: "undelivered" is not final there, the provider goes on
    0000  a message from a subscriber; yet a receipt when it has one of the parameters
          receipted_message_id and message_state, which nothing else has (5.3.2.12, 5.3.2.35)
    else  an acknowledgement made by the recipient's device or by hand: no receipt

A text in the form of a receipt is not enough: anybody can send such a text to a number that the
provider passes on to us, and could so change the history of somebody's message. It is noted, and
the setting `receipts_by_text` takes it for a receipt all the same.

The parameters receipted_message_id, message_state and network_error_code are of the
specification. They count where they are given, except a message_state UNKNOWN when the text says
more; `receipt_id_from = "text"` prefers the id of the text. See `receipt_text` for the text.

What a state means is said by the provider's own table `states`, by its words and its numbers of
message_state, and else by these, which providers spell in many ways (_STATES):

    DELIVRD, 2                                           delivered
    UNDELIV 5, REJECTD 8, EXPIRED 3, DELETED 4,
    SKIPPED 9, FAILED                                    undelivered
    SCHEDULED 0, ENROUTE 1, ACCEPTD 6, BUFFRED, ACKED    pending
    UNKNOWN 7                                            pending
    any other, none                                      pending, and noted as not understood

UNKNOWN ("the message is in an invalid state") does not say whether the recipient has the message.
As `undelivered` it could be sent again, and arrive twice; as `delivered` the engine would claim
what nobody knows. So it is `pending`, which ends nothing and keeps the raw word; a later receipt
may still end the message. The same holds for a word or number that nobody knows.
"""

from __future__ import annotations

from typing import NamedTuple

from engine.problem_records import ProblemKind
from engine.providers.settings import SmppSettings
from engine.providers.smpp.body import AROUND_IDS, ShortMessage
from engine.providers.smpp.codes import MessageState, Tag
from engine.providers.smpp.receipt_text import fields_of, has_form
from engine.providers.states import State, States, StatesTable
from engine.receipts.ids import digits_of
from engine.receipts.records import Receipt

# Longest values that are kept, in characters.
ID_MAX = 255
STAT_MAX = 16
ERR_MAX = 16
TO_MAX = 64

_TYPE_MASK = 0b0011_1100
_RECEIPT, _INTERMEDIATE, _PLAIN = 0b0000_0100, 0b0010_0000, 0
# Members of an enumeration are slow to look up.
_RECEIPTED_ID, _MESSAGE_STATE = int(Tag.receipted_message_id), int(Tag.message_state)
_ERROR_CODE = int(Tag.network_error_code)

_STATES: dict[str, State] = {
    **dict.fromkeys(
        ("DELIVRD", "DELIVERED", "DELIVERD", "DELIVRED", "DLIVRD", "DLVRD"),
        "delivered",
    ),
    **dict.fromkeys(
        ("UNDELIV", "UNDELIVRD", "UNDELIVERD", "UNDELIVRED", "UNDELIVERED", "UNDELIVERABLE", "UNDELIVERABL",
         "UNDELIVERAB", "UNDLIVRD", "UNDLVRD", "UNDELVD", "UNDELIVE",
         "REJECTD", "REJECTED", "REJECT", "REJCTD", "REJECTE", "EXPIRED", "EXPIRD", "EXPIRE",
         "DELETED", "DELETD", "DELETE", "SKIPPED", "FAILED", "FAIL", "FAILURE"),
        "undelivered",
    ),
    **dict.fromkeys(
        ("ENROUTE", "EN_ROUTE", "ACCEPTD", "ACCEPTED", "ACCEPT", "SCHEDULED", "BUFFRED", "BUFFERED", "ACKED",
         "UNKNOWN"),
        "pending",
    ),
}  # fmt: skip
# The word of each number of message_state; 0 and 9 are of SMPP 5.0, 4.7.15.
_WORDS: dict[int, str] = {
    0: "SCHEDULED",
    MessageState.ENROUTE: "ENROUTE",
    MessageState.DELIVERED: "DELIVRD",
    MessageState.EXPIRED: "EXPIRED",
    MessageState.DELETED: "DELETED",
    MessageState.UNDELIVERABLE: "UNDELIV",
    MessageState.ACCEPTED: "ACCEPTD",
    MessageState.UNKNOWN: "UNKNOWN",
    MessageState.REJECTED: "REJECTD",
    9: "SKIPPED",
}


class Reading(NamedTuple):
    """What a delivery is.

    receipt  problem           it is
    given    None              a receipt
    given    receipt_state     a receipt whose state nobody knows, taken as pending
    None     receipt_unread    a receipt without an id by which its message could be found
    None     receipt_unmarked  a text in the form of a receipt, which nothing marks as one
    None     None              a message from a subscriber
    """

    receipt: Receipt | None
    problem: ProblemKind | None


_MESSAGE = Reading(None, None)
_UNREAD = Reading(None, ProblemKind.receipt_unread)
_UNMARKED = Reading(None, ProblemKind.receipt_unmarked)


class ReceiptReader:
    """Reads the receipts of one provider."""

    def __init__(self, settings: SmppSettings) -> None:
        self._provider = settings.name
        self._gsm7 = settings.default_alphabet == "gsm7"
        self._states = None if settings.states == StatesTable() else States(settings.states, upper=True)
        self._by_text = settings.receipts_by_text
        self._text_first = settings.receipt_id_from == "text"

    def read(self, m: ShortMessage, at_us: int) -> Reading:
        """What `m` is, which came at `at_us`, microseconds since 1970. Never raises."""
        if not _marked(m):
            if m.esm_class & _TYPE_MASK != _PLAIN or not has_form(m):
                return _MESSAGE
            if not self._by_text:
                return _UNMARKED
        fields = fields_of(m, gsm7=self._gsm7)
        ids = [_c_string(m.parameters.get(_RECEIPTED_ID, b"")), fields.get("id", "")]
        message_id = (ids[self._text_first] or ids[not self._text_first])[:ID_MAX]
        if not message_id:
            return _UNREAD
        stat, state = self._state(m, fields.get("stat", "").upper())
        problem = None if state else ProblemKind.receipt_state
        if state == "undelivered" and m.esm_class & _TYPE_MASK == _INTERMEDIATE:
            state = "pending"
        receipt = Receipt(
            provider=self._provider,
            provider_message_id=message_id,
            state=state or "pending",
            code=" ".join(word for word in (stat[:STAT_MAX], _err(m, fields.get("err", ""))) if word),
            at_us=at_us,
            to=digits_of(m.source)[:TO_MAX],
        )
        return Reading(receipt, problem)

    def _state(self, m: ShortMessage, in_text: str) -> tuple[str, State | None]:
        """The raw word, in upper case, and what it means; None: nobody knows."""
        number, word = _message_state(m, in_text)
        if self._states is not None:
            for raw, shown in ((number, word or in_text or number), (word, word), (in_text, in_text)):
                if raw and (state := self._states.of(raw)) is not None:
                    return shown, state
        if word in _STATES and not (word == "UNKNOWN" and in_text):
            return word, _STATES[word]
        stat = in_text or word or number
        return stat, _STATES.get(stat)


def _marked(m: ShortMessage) -> bool:
    """Whether the provider sent it as a receipt or an intermediate notification."""
    kind = m.esm_class & _TYPE_MASK
    if kind == _PLAIN:
        return _RECEIPTED_ID in m.parameters or _MESSAGE_STATE in m.parameters
    return kind in (_RECEIPT, _INTERMEDIATE)


def _message_state(m: ShortMessage, in_text: str) -> tuple[str, str]:
    """The number of message_state and its word; "" for what it does not have.

    It is one octet. Some providers write it as text, or as a longer number: this only counts when the
    text says nothing.
    """
    value = m.parameters.get(_MESSAGE_STATE, b"")
    if len(value) == 1:
        return str(value[0]), _WORDS.get(value[0], "")
    if not value or in_text:
        return "", ""
    text = _c_string(value)
    if text.isascii() and text.replace("_", "").isalpha():
        return "", text.upper()
    number = int(text) if text.isascii() and text.isdecimal() and len(text) < 4 else int.from_bytes(value[:4])
    return str(number), _WORDS.get(number, "")


def _err(m: ShortMessage, code_in_text: str) -> str:
    """The error code, three digits as in the text; the parameter is its network's type and code."""
    value = m.parameters.get(_ERROR_CODE, b"")
    if len(value) == 3:
        return f"{int.from_bytes(value[1:], 'big'):03d}"
    return code_in_text[:ERR_MAX]


def _c_string(value: bytes) -> str:
    """With or without the NUL, which some providers leave out, and without what they write around it."""
    return value.partition(b"\0")[0].decode("latin-1").strip(AROUND_IDS)
