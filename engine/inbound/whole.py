"""Rule: a message that came whole, as what is kept of it."""

from __future__ import annotations

import contextlib
import hashlib

from engine.errors import Refusal
from engine.inbound.records import InboundPart
from engine.intake.phone_numbers import e164

# How long one that comes again is the same, with an id of the provider's and without, seconds.
_AGAIN_WITH_ID_S, _AGAIN_S = 86_400, 300


def whole_message(
    provider: str, sender: str, recipient: str, text: str, given_id: str, now_us: int
) -> tuple[InboundPart, bytes, int]:
    """A message that came whole at `now_us`: (the part, what it is known again by, for how long, seconds).

    `given_id`: the provider's id of it, or "".
    """
    with contextlib.suppress(Refusal):
        sender = e164(sender if sender.startswith(("+", "00")) else f"+{sender}")
    digits = "".join(c for c in recipient if c in "0123456789")
    identity = (provider, given_id) if given_id else (provider, sender, recipient, text)
    part = InboundPart(
        provider=provider,
        sender=sender,
        recipient=digits or recipient,
        utf16=text.encode("utf-16-be", "replace"),
        at_us=now_us,
    )
    digest = hashlib.blake2b(repr(identity).encode("utf-8", "replace"), digest_size=16).digest()
    return part, digest, _AGAIN_WITH_ID_S if given_id else _AGAIN_S
