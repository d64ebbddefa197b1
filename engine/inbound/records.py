"""Records of inbound messages.

`InboundPart` is MessagePack as the records in `engine.records` are: its order is the wire format, and fields
may only be added at the end, with a default.
"""

from __future__ import annotations

from datetime import datetime
from typing import Literal, NamedTuple

import msgspec

from engine.stream_id import StreamId

# What a word asks for; "": the text is none of the words.
Action = Literal["", "stop", "start", "help"]


class InboundPart(msgspec.Struct, frozen=True, array_like=True, kw_only=True, gc=False):
    """What a provider sent of a message to one of our numbers: all of it, or one of several parts."""

    provider: str
    # Who wrote: E.164 with "+" where the provider's form of it is known to be that, else as it came.
    sender: str
    # The number or short code that it was sent to: its digits, or as it came when it has none.
    recipient: str
    # UTF-16, the high octet first: a pair of surrogates may be cut between two parts.
    utf16: bytes
    at_us: int
    # The same for all parts of a message of that sender; "" for a whole message.
    reference: str = ""
    # From 1 to `parts`.
    part: int = 1
    parts: int = 1


class KeptPart(NamedTuple):
    """A part as it lies in Redis."""

    stream_id: StreamId
    part: InboundPart


class Assembled(NamedTuple):
    """A message of whose parts no more is waited for."""

    # Of its parts, in order.
    stream_ids: tuple[StreamId, ...]
    first: InboundPart
    text: str
    # How many parts never came.
    missing: int


class InboundRoute(msgspec.Struct, frozen=True, kw_only=True):
    """Whose messages to a number are, when they begin with a keyword."""

    # Digits of the number or short code.
    number: str
    # In upper case; "": those that begin with no other keyword of the number.
    keyword: str = ""
    organisation_id: int


class InboundMessage(msgspec.Struct, frozen=True, kw_only=True):
    """A message that a recipient wrote."""

    # A UUID, made of its place in Redis: the same however often it is stored.
    id: str
    # 0: no route has its number.
    organisation_id: int
    # When its first part came.
    at: datetime
    provider: str
    sender: str = msgspec.field(name="from")
    recipient: str = msgspec.field(name="to")
    text: str
    # The keyword by which it was routed, or "".
    keyword: str
    action: Action
    # How many parts never came.
    missing_parts: int = 0


class ShownMessage(msgspec.Struct, frozen=True, kw_only=True):
    """An inbound message as its organisation sees it."""

    id: str
    at: datetime
    sender: str = msgspec.field(name="from")
    recipient: str = msgspec.field(name="to")
    text: str
    keyword: str
    action: Action
    missing_parts: int


def shown(message: InboundMessage) -> ShownMessage:
    """The message without what is the operator's."""
    return ShownMessage(
        id=message.id,
        at=message.at,
        sender=message.sender,
        recipient=message.recipient,
        text=message.text,
        keyword=message.keyword,
        action=message.action,
        missing_parts=message.missing_parts,
    )
