"""Rule: what a message would need and cost, and whether it would be accepted. Nothing is sent or held."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable

import msgspec

from engine.errors import EngineError, Refusal, Unavailable
from engine.intake import smart_encoding
from engine.intake.segments import first_foreign, measure
from engine.records import Addressed, Encoding, MessageDraft


class Forcing(msgspec.Struct, frozen=True, kw_only=True):
    """The first character that GSM-7 does not have: it makes the whole text UCS-2."""

    character: str
    # Its code point and name: "U+2019 RIGHT SINGLE QUOTATION MARK".
    name: str
    # How many characters are before it.
    at: int


class SmartEncoding(msgspec.Struct, frozen=True, kw_only=True):
    """What smart encoding would make of a text that is UCS-2 without it."""

    encoding: Encoding
    segments: int


class Estimate(msgspec.Struct, frozen=True, kw_only=True):
    """What a message would come to."""

    encoding: Encoding
    segments: int
    # Septets (GSM-7) or UTF-16 units (UCS-2), without the headers of segments.
    characters: int
    # Of a text that is UCS-2: why it is.
    forced_by: Forcing | None
    # How many characters smart encoding replaces, when it is asked for.
    replaced: int
    # Of one that is not asked for and would help.
    smart_encoding: SmartEncoding | None
    # Units a segment and for all of them; None when the destination is none.
    price: int | None
    units: int | None
    # Units that the organisation has.
    available: int
    # Why it would not be accepted; None: it would.
    refusal: EngineError | None


def estimated(
    draft: MessageDraft, address: Callable[[], Addressed | Refusal], check: Callable[[], None], available: int
) -> Estimate:
    """The estimate of one message. `address`: what becomes of it; `check`: raises Unavailable when a message
    for its queue is not taken in now. `available`: units. Raises Refusal for a text that is none."""
    text, replaced = smart_encoding.replaced(draft.text) if draft.smart_encoding else (draft.text, 0)
    measured = measure(text)
    addressed = address()
    refusal: EngineError | None = None
    message = None
    if isinstance(addressed, Refusal):
        refusal = addressed
    else:
        message = addressed.message
        if message.units > available:
            detail = f"The message needs more units ({message.units}) than the organisation has left; top up."
            refusal = Refusal("insufficient_credit", 402, detail)
        try:
            check()
        except Unavailable as e:
            refusal = e
    return Estimate(
        encoding=measured.encoding,
        segments=measured.segments,
        characters=measured.characters,
        forced_by=_forcing(text) if measured.encoding == "UCS-2" else None,
        replaced=replaced,
        smart_encoding=None if draft.smart_encoding else _smarter(draft.text),
        price=None if message is None else message.units // message.segments,
        units=None if message is None else message.units,
        available=available,
        refusal=refusal,
    )


def _forcing(text: str) -> Forcing | None:
    at = first_foreign(text)
    if at is None:
        return None
    character = text[at]
    name = unicodedata.name(character, "")
    return Forcing(character=character, name=f"U+{ord(character):04X} {name}".rstrip(), at=at)


def _smarter(text: str) -> SmartEncoding | None:
    plain, count = smart_encoding.replaced(text)
    if not count:
        return None
    measured = measure(plain)
    return SmartEncoding(encoding=measured.encoding, segments=measured.segments)
