"""Rule: the ordinary end of messages. One provider has accepted them, and nothing else is to be done.

It comes to what `engine.delivery.settlement.after_verdict` makes of the verdict `accepted`, for many messages
at a time and without an object for each. The rows are packed here, field by field in the order of
`ActivityRow`; a test compares them with those of `after_verdict`.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from engine.records import RECEIPTS_BY_ANY_ID, Entry

_encode = msgspec.msgpack.Encoder().encode


class SentEntries(msgspec.Struct, frozen=True, gc=False):
    """Entries whose messages were accepted: they are done with, and their units are charged."""

    entries: Sequence[Entry]
    # The packed `ActivityRow` of each, its event `sent`.
    rows: Sequence[bytes]
    # When they were accepted by the provider.
    at_us: int


def sent_entries(
    entries: Sequence[Entry],
    ids: Sequence[str],
    latency_us: Sequence[int],
    *,
    provider: str,
    code: str,
    now_us: int,
    receipts_by: int = RECEIPTS_BY_ANY_ID,
) -> SentEntries:
    """The settlement of entries that `provider` accepted with `code`, as a whole.

    `ids`, `latency_us`: the provider's id of each message, and how long its answer took, microseconds.
    `receipts_by`: how its receipts name them. Where nobody knows, a row ends before that and the text.
    """
    rows, end = [], ("", receipts_by) if receipts_by else ()
    for entry, provider_message_id, took_us in zip(entries, ids, latency_us, strict=True):
        message = entry.message
        accepted_at_us = message.accepted_at_us
        rows.append(
            _encode(
                (
                    now_us if now_us > accepted_at_us else accepted_at_us,
                    message.organisation_id, message.id, accepted_at_us, "sent", entry.queue, message.to,
                    message.sender, message.encoding, message.segments, message.units, message.attempts + 1,
                    provider, provider_message_id, code, took_us, message.reference, 0, 0, False, 0, "",
                    message.callback_url, *end,
                )
            )
        )  # fmt: skip
    return SentEntries(entries, rows, now_us)


def added_up(batches: Sequence[SentEntries]) -> int:
    """How many entries there are in all of them."""
    return sum(map(len, (batch.entries for batch in batches)))
