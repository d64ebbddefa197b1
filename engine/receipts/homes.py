"""Rule: the home of an attempt, which is the shard whose matcher decides about all receipts for it.

Matchers share the shards. What a receipt adds to an attempt depends on what others have added, so all
receipts
for one attempt meet at one matcher, in the order in which they came. The home follows from the first id that
the provider gave for the attempt; it has nothing to do with the shard of the organisation.

A receipt is put on the stream of its likely home. That is its home, unless it names another segment of a
message whose segments have ids of their own, or our id of the message alone, or an id in another base that
the configuration does not tell. Then the matcher that finds its attempt hands it on. Versions that had one
matcher put receipts on any stream: those are handed on in the same way."""

from __future__ import annotations

from zlib import crc32

from engine.activity.records import AttemptRecord
from engine.receipts.ids import IdForms, ids_of, likeliest, normal
from engine.receipts.records import Receipt
from engine.records import ActivityRow


def home_of(attempt: AttemptRecord | ActivityRow, shards: int) -> int:
    """The home of an attempt, by its record or by a row about it."""
    ids = ids_of(attempt.provider_message_id, attempt.message_id)
    return _spread(attempt.provider, ids[0] or next(filter(None, ids), ""), shards)


def likely_home(receipt: Receipt, how: IdForms, shards: int) -> int:
    """The home of the attempt that the receipt is likely about. `how`: `receipt_ids` of its provider."""
    form = likeliest(receipt.provider_message_id, how) or normal(receipt.message_id)
    return _spread(receipt.provider, form, shards)


def _spread(provider: str, form: str, shards: int) -> int:
    return crc32(f"{provider}:{form}".encode("utf-8", "replace")) % shards
