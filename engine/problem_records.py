"""Records of what providers sent and was not understood, between the providers and the stores."""

from __future__ import annotations

import enum

import msgspec


class ProblemKind(enum.StrEnum):
    """What was not understood."""

    # A delivery or a pushed receipt that looks like a receipt and cannot be read, or names no message.
    receipt_unread = "receipt_unread"
    # A receipt with a state that neither the standard nor the provider's `states` has.
    receipt_state = "receipt_state"
    # A text in the form of a receipt, not marked as one, from a provider that is not set to send such.
    receipt_unmarked = "receipt_unmarked"
    # A receipt for which no message was found.
    receipt_unmatched = "receipt_unmatched"
    # An answer to a send of which it is not clear whether the message was taken, or over SMPP an acceptance
    # without an id.
    answer_unread = "answer_unread"
    # A refusal that is not in the provider's own words: a proxy's page, for example.
    refusal_foreign = "refusal_foreign"
    # A PDU that breaks the protocol, or an HTTP answer that does.
    protocol_broken = "protocol_broken"


class Problem(msgspec.Struct, frozen=True):
    """One sample: microseconds since 1970, and printable text, masked and cut."""

    at_us: int
    sample: str


class Noted(msgspec.Struct, frozen=True):
    """What was noted of one kind of one provider since the last collection; the newest samples last."""

    provider: str
    kind: ProblemKind
    count: int
    samples: tuple[Problem, ...]
