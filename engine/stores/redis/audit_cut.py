"""A shard of Redis at one instant, for an audit, and the places in its activity stream.

Under failure: it only reads, so every call may be repeated; the second one sees the shard at the
later instant.
"""

from __future__ import annotations

import time

import msgspec

from engine import redis_keys as keys
from engine.credit.laws import NO_UNITS, ShardCut, Units, units_by_event
from engine.credit.ledger_records import StreamMark
from engine.stores.postgres.audit_books import ShardBooks
from engine.stores.redis.link import RedisLink
from engine.stores.redis.lua_libraries import versioned
from engine.stores.redis.usage import usage_entry
from engine.stream_id import STREAM_START, StreamId

# A shard with more rows of activity or usage entries than this is not summed at one instant, because Redis
# would serve nobody else meanwhile. One with more messages is counted piece by piece (`recount`).
_MESSAGES_MAX = 2_000
_ROWS_MAX = 5_000
_ENTRIES_MAX = 2_000
# So long after Redis lost data, every new place in its streams is later than any place before the
# loss, also when the clocks of its machines differ, milliseconds.
_SETTLED_MS = 10_000

_sums = msgspec.msgpack.Decoder(list[tuple[int, str, int]])


class Instant(msgspec.Struct, frozen=True):
    """The reply of `cut` in functions/queue for one shard."""

    cut: ShardCut
    # Whether its usage goes on from the position of the books.
    whole: bool
    # Place of the first activity entry that is not archived; None when there never was an entry.
    first: StreamId | None
    # {organisation: units} of the activity on the stream; None when there is too much to count.
    waiting: dict[int, Units] | None


async def instant_of(link: RedisLink, shard: int, mark: StreamMark | None, timeout_s: float) -> Instant:
    """The shard now, with the usage entries after `mark`; `mark` None: the books cannot be read.

    Raises Unavailable, ReplyError.
    """
    state, held, usage, waiting, recount, first, sums = await link.call(
        "FCALL", versioned("cut"), 12,
        keys.queue_key(shard, "express"), keys.queue_key(shard, "normal"),
        keys.due_key(shard, "express"), keys.due_key(shard, "normal"),
        keys.dead_key(shard, "express"), keys.dead_key(shard, "normal"),
        keys.wait_key(shard, "express"), keys.wait_key(shard, "normal"),
        keys.activity_key(shard), keys.usage_key(shard), keys.usage_head_key(shard), keys.held_key(shard),
        str(mark.position) if mark else "", mark.link if mark else "", _ROWS_MAX, _ENTRIES_MAX, _MESSAGES_MAX,
        timeout_s=timeout_s,
    )  # fmt: skip
    entries = [usage_entry(shard, entry_id, fields) for entry_id, fields in usage]
    units: dict[int, Units] | None = None
    if sums or not first:
        units = {}
        for organisation_id, event, count in _sums.decode(sums) if sums else ():
            add_units(units, organisation_id, units_by_event(event, count))
    return Instant(
        ShardCut(shard, int(held), entries, waiting, None if recount < 0 else recount),
        state == 0, _stream_id(first) if first else None, units,
    )  # fmt: skip


def since_of(of: ShardBooks, full: bool) -> StreamId:
    """The place in the shard's activity stream from which its activity is summed.

    It is the last checkpoint's, or the start when there is none or the audit is `full`.
    """
    return STREAM_START if full or of.checkpoint is None else of.checkpoint.stream


def end_of(of: ShardBooks, instant: Instant, since: StreamId) -> StreamId:
    """The place before which all activity was archived at the instant; `since` at the least."""
    end = max(instant.first or STREAM_START, since)
    if _lost_since(of) and _idle(of, instant):
        # Redis does not know all the places that it gave before the loss.
        end = max(end, StreamId((of.lost_at_ms or 0) + _SETTLED_MS, 0))
    return end


def _lost_since(of: ShardBooks) -> bool:
    return of.losses != (0 if of.checkpoint is None else of.checkpoint.losses)


def _idle(of: ShardBooks, instant: Instant) -> bool:
    """Whether nothing waits to be archived, and new places are later than any before the last loss."""
    return not instant.waiting and time.time_ns() // 1_000_000 > (of.lost_at_ms or 0) + 2 * _SETTLED_MS


def is_settled(of: ShardBooks, instant: Instant) -> bool:
    """Whether every place from the instant on is later than any place before the last loss."""
    if not _lost_since(of) or _idle(of, instant):
        return True
    return instant.first is not None and instant.first.ms > (of.lost_at_ms or 0) + _SETTLED_MS


def add_units(sums: dict[int, Units], organisation_id: int, more: Units) -> None:
    """Add `more` to the units of an organisation in `sums`."""
    a, b, c = sums.get(organisation_id, NO_UNITS)
    sums[organisation_id] = Units(a + more.held, b + more.captured, c + more.released)


def _stream_id(text: bytes) -> StreamId:
    """The id in `text`; `ID+` means the next id after ID."""
    last = StreamId.parse(text.removesuffix(b"+"))
    return last.next if text.endswith(b"+") else last
