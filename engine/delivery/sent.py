"""Rule: the ordinary end of messages. One provider has accepted them, and nothing else is to be done.

The result is that of `engine.delivery.settlement.after_verdict` for the verdict `accepted`, for many messages
at a time and without an object for each. Their rows are packed at once, field by field in the order of
`ActivityRow` (`_rows.pyx`); a test compares them with those of `after_verdict`.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from engine.delivery._rows import sent_rows
from engine.records import RECEIPTS_BY_ANY_ID, Entry


class SentEntries(msgspec.Struct, frozen=True, gc=False):
    """Entries whose messages were accepted: they are done with, and their units are charged."""

    entries: Sequence[Entry]
    # The packed `ActivityRow` of each, its event `sent`.
    rows: Sequence[bytes]
    # When they were accepted by the provider.
    at_us: int


def sent_entries(
    entries: Sequence[Entry],
    ids: list[str],
    latency_us: list[int],
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
    rows = sent_rows(entries, ids, latency_us, provider, code, now_us, receipts_by)
    return SentEntries(entries, rows, now_us)


def added_up(batches: Sequence[SentEntries]) -> int:
    """How many entries there are in all of them."""
    return sum(map(len, (batch.entries for batch in batches)))
