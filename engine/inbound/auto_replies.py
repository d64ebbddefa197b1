"""Rule: what is answered to STOP, START and HELP, in the name of which organisation.

A reply is an ordinary message of the organisation. Nothing is answered

    to one of our own numbers   a number with a route: two of them would go on answering each other
    to who is no number         a name or a short code cannot be sent to
    to a STOP of somebody who   the confirmation was sent with the first
    has opted out before
    later than an hour          whoever wrote expects nothing any more
    too often                   `REPLIES_MAX` in an hour, of one organisation to one number: the other side
                                may be a machine that answers too
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

import msgspec

from engine.errors import Refusal
from engine.inbound.records import InboundMessage
from engine.intake.phone_numbers import e164

ReplyAction = Literal["stop", "start", "help"]

# How many replies of one organisation one number gets in `WINDOW_S`.
REPLIES_MAX = 4
WINDOW_S = 3600
# Until when a message is answered, after it came.
LATE_US = 3600 * 1_000_000
# A code of so many digits is short (`engine.intake.sender_rules`).
_SHORT_MAX = 8


class AutoReply(msgspec.Struct, frozen=True, kw_only=True):
    """What an organisation answers to one of the words."""

    action: ReplyAction
    # Digits of the number that was written to; "": every number that has no reply of its own.
    number: str = ""
    # Of the word that was written, ISO 639-1; "": every language that has no reply of its own.
    language: str = ""
    # "": nothing is answered.
    text: str


class DueReply(msgspec.Struct, frozen=True, array_like=True, kw_only=True, gc=False):
    """A reply on its way to an ingest process. Fields may only be added at the end, with a default."""

    # Of the inbound message.
    message_id: str
    organisation_id: int
    to: str
    sender: str
    text: str
    # When the inbound message came.
    at_us: int


class WordMessage(NamedTuple):
    """A message that was a word."""

    message: InboundMessage
    # The sender in E.164.
    number: str
    # The languages that have the word.
    languages: tuple[str, ...]
    # The organisations that it is meant for, in order: the first that has a reply answers for all.
    meant: Sequence[int]


def reply_to(written: WordMessage, replies: Iterable[tuple[int, AutoReply]]) -> DueReply | None:
    """The reply; None: nothing is answered. `replies`: of each organisation that may answer."""
    message = written.message
    by_organisation: dict[int, dict[tuple[str, str], str]] = {}
    for organisation_id, reply in replies:
        if reply.action == message.action:
            of = by_organisation.setdefault(organisation_id, {})
            of[reply.number, reply.language] = reply.text
    for organisation_id in written.meant:
        text = _text(by_organisation.get(organisation_id, {}), message.recipient, written.languages)
        if text:
            return DueReply(
                message_id=message.id,
                organisation_id=organisation_id,
                to=written.number,
                sender=sender_of(message.recipient),
                text=text,
                at_us=round(message.at.timestamp() * 1e6),
            )
    return None


def _text(texts: dict[tuple[str, str], str], number: str, languages: Sequence[str]) -> str:
    """The text for a number before that for every number, and of the word's language before that of every."""
    for place in ((n, language) for n in (number, "") for language in (*languages, "")):
        if place in texts:
            return texts[place]
    return ""


def sender_of(recipient: str) -> str:
    """The number that was written to, as the sender of a reply: a code as it is, an international number with
    "+"."""
    if len(recipient) > _SHORT_MAX and recipient.isdecimal():
        try:
            return e164(f"+{recipient}")
        except Refusal:
            # A number in national form, which the provider knows as it is.
            return recipient
    return recipient
