"""Rows of activity as ingest and the workers put them on the streams, for benchmarks."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence

import msgspec

from engine.records import RECEIPTS_BY_ANY_ID, ActivityRow

SHARDS = 16
# Rows of an entry, of those that accept and of those that were sent.
BATCHES = ((100,), (50,))
SINGLES = ((1, 2, 3), (1, 2, 3, 4, 5))
_ORGANISATIONS = 100
# Of a row of which nothing more is known.
_FIELDS_KNOWN = 23
_encode = msgspec.msgpack.Encoder().encode
_numbers = itertools.count()


def _packed(row: ActivityRow) -> bytes:
    """The row as ingest and workers write it: it ends before what is not known of it."""
    fields = msgspec.structs.astuple(row)
    return _encode(fields if row.receipts_by else fields[:_FIELDS_KNOWN])


def _rows(count: int, organisation: int, at_us: int, receipts_by: int) -> tuple[list[bytes], list[bytes]]:
    """The rows of messages that are accepted at a time, and those of when they are sent."""
    accepted, sent = [], []
    for number in itertools.islice(_numbers, count):
        message_id = f"{at_us // 1000 >> 16:08x}-{at_us // 1000 & 0xFFFF:04x}-7abc-8def-{number:012x}"
        row = ActivityRow(
            at_us=at_us,
            organisation_id=organisation,
            message_id=message_id,
            accepted_at_us=at_us,
            event="accepted",
            queue="normal",
            to=f"+98912{number * 7919 % 10_000_000:07}",
            sender="ACME",
            encoding="GSM-7",
            segments=1,
            units=2,
            expires_at_us=at_us + 86_400_000_000,
        )
        accepted.append(_packed(row))
        of_sent = {
            "at_us": at_us + 90_000, "event": "sent", "attempt": 1, "provider": "one", "code": "0",
            "provider_message_id": f"{random.getrandbits(64):016x}", "latency_us": 20_000 + number % 977,
            "expires_at_us": 0, "receipts_by": receipts_by,
        }  # fmt: skip
        sent.append(_packed(msgspec.structs.replace(row, **of_sent)))
    return accepted, sent


# An entry: its shard and its field `b`.
Entry = tuple[int, bytes]


def entries_of(
    messages: int,
    sizes: tuple[Sequence[int], Sequence[int]],
    at_us: int,
    receipts_by: int = RECEIPTS_BY_ANY_ID,
) -> list[Entry]:
    """Entries of so many messages, with as many rows as one of the sizes of each kind says."""
    found: list[Entry] = []
    while messages > 0:
        count = min(messages, random.choice(sizes[0]))
        messages -= count
        organisation = random.randrange(_ORGANISATIONS)
        accepted, sent = _rows(count, 1 + organisation, at_us, receipts_by)
        found.append((organisation % SHARDS, _blob(accepted)))
        while sent:
            size = random.choice(sizes[1])
            found.append((organisation % SHARDS, _blob(sent[:size])))
            del sent[:size]
    return found


def _blob(rows: Sequence[bytes]) -> bytes:
    return b"\xdd" + len(rows).to_bytes(4, "big") + b"".join(rows)
