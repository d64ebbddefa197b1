"""Receipts that the simulated provider sends for what it took, and how they are written.

Over HTTP a receipt is `POST {"id", "message_id", "to", "status", "error"}`; over SMPP a
deliver_sm: its text in the form of appendix B of SMPP 3.4, optional parameters
(receipted_message_id, message_state, network_error_code: 5.3.2), or both.

The provider's id of a send is a number. How it is written, by `id_form`:

    form            in the answer               in the receipt
    same            16 hexadecimal digits       the same
    upper           16 hexadecimal digits       the same in capitals
    leading_zeros   hexadecimal, no zeros       20 hexadecimal digits
    decimal         16 hexadecimal digits       decimal
    hex             decimal                     hexadecimal, no zeros
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import lru_cache
from typing import Any, Literal, Protocol

import msgspec

from engine.providers.smpp.body import ShortMessage, encode_short_message
from engine.providers.smpp.codes import MessageState, Tag
from supervisor.simulator.behaviour import IdForm
from supervisor.simulator.draws import State

# The error code of an undelivered message. GSM networks use it for a recipient out of reach.
ERROR = "069"

Outcome = Literal["sent", "again", "failed"]


class Sent(msgspec.Struct, frozen=True, gc=False):
    """What a receipt keeps of the send, or of the segment, that it is about."""

    message_id: str
    source: str
    destination: str
    # That of the SMPP session; None for HTTP.
    system_id: str | None = None
    # TON and NPI of source, then of destination.
    types: tuple[int, int, int, int] = (0, 0, 0, 0)


class Receipt(msgspec.Struct, gc=False):
    """One receipt on its way."""

    sent: Sent
    # The provider's id of the send, as the receipt writes it.
    id: str
    state: State
    # When the send came and when this was made, seconds since 1970.
    sent_s: float
    made_s: float
    # Attempts so far that ended without its being taken.
    refusals: int = 0
    # Which life of the outbox it belongs to; see Outbox.reset.
    era: int = 0
    # Of a message that a recipient wrote, in place of a receipt: what is sent, and where over HTTP.
    body: bytes = b""
    url: str = ""


class Post(Protocol):
    """Where the provider leaves its receipts."""

    def post(self, due_s: float, receipt: Receipt) -> None:
        """Send the receipt at `due_s` by time.monotonic(), never from inside this call."""

    def post_now(self, receipt: Receipt, then: Callable[[], None] | None) -> None:
        """Send the receipt now; `then` is called when its first attempt has ended."""

    def reset(self) -> None:
        """Forget all receipts that are not out, and set the counts to 0."""

    def stats(self) -> dict[str, Any]:
        """Counts of receipts since the last reset, by name."""


class Way(Protocol):
    """How receipts travel. Every receipt taken is ended once, by a call of `Ended`, unless it is cleared."""

    def take(self, receipt: Receipt, then: Callable[[], None] | None = None) -> None:
        """Make one attempt to bring the receipt to the engine; `then` is called when it has ended."""

    def clear(self) -> None:
        """Forget the receipts that wait."""


# What a way calls when its attempt with a receipt has ended.
Ended = Callable[[Receipt, Outcome], None]


def answer_id(number: int, form: IdForm) -> str:
    """The provider's id as the answer to the send writes it: see the table above."""
    if form == "hex":
        return str(number)
    return f"{number:x}" if form == "leading_zeros" else f"{number:016x}"


def receipt_id(number: int, form: IdForm) -> str:
    """The provider's id as the receipts of the send write it: see the table above."""
    match form:
        case "same":
            return f"{number:016x}"
        case "upper":
            return f"{number:016X}"
        case "leading_zeros":
            return f"{number:020x}"
        case "decimal":
            return str(number)
        case "hex":
            return f"{number:x}"


class _Json(msgspec.Struct, frozen=True, gc=False):
    id: str
    message_id: str
    to: str
    status: State
    error: str


_encode = msgspec.json.Encoder().encode


def as_json(receipt: Receipt) -> bytes:
    """The body of the `POST` that brings the receipt."""
    sent = receipt.sent
    error = ERROR if receipt.state == "undelivered" else ""
    return _encode(_Json(receipt.id, sent.message_id, sent.destination, receipt.state, error))


# Word of the text (appendix B), message_state (5.2.28), network_error_code (5.3.2.31: GSM,
# then the error) and esm_class (5.2.12: receipt, or intermediate notification).
_FORMS: dict[State, tuple[str, int, bytes, int]] = {
    "delivered": ("DELIVRD", int(MessageState.DELIVERED), b"\x03\0\0", 0x04),
    "undelivered": ("UNDELIV", int(MessageState.UNDELIVERABLE), b"\x03\0%c" % int(ERROR), 0x04),
    "pending": ("ENROUTE", int(MessageState.ENROUTE), b"\x03\0\0", 0x20),
}  # fmt: skip
_ID = int(Tag.receipted_message_id)
_STATE = int(Tag.message_state)
_ERROR = int(Tag.network_error_code)


def as_deliver_sm(receipt: Receipt, form: Literal["text", "tlv", "both"]) -> bytes:
    """The body of the deliver_sm. Raises ValueError when an address of the submit_sm is too long for it."""
    sent = receipt.sent
    word, number, network_error, esm_class = _FORMS[receipt.state]
    parameters = {_ID: receipt.id.encode() + b"\0", _STATE: bytes((number,)), _ERROR: network_error}
    source_ton, source_npi, destination_ton, destination_npi = sent.types
    return encode_short_message(
        ShortMessage(
            # From the recipient to the sender.
            source_ton=destination_ton,
            source_npi=destination_npi,
            source=sent.destination,
            destination_ton=source_ton,
            destination_npi=source_npi,
            destination=sent.source,
            esm_class=esm_class,
            short_message=b"" if form == "tlv" else _text(receipt, word),
            parameters={} if form == "text" else parameters,
        )
    )


def _text(receipt: Receipt, word: str) -> bytes:
    error = ERROR if receipt.state == "undelivered" else "000"
    return (
        f"id:{receipt.id} sub:001 dlvrd:{receipt.state == 'delivered':03d} "
        f"submit date:{_minute(receipt.sent_s)} done date:{_minute(receipt.made_s)} "
        f"stat:{word} err:{error} text:"
    ).encode()


def _minute(at_s: float) -> str:
    return _written(int(at_s // 60))


@lru_cache(maxsize=64)
def _written(minute: int) -> str:
    return time.strftime("%y%m%d%H%M", time.gmtime(minute * 60))
