"""The receipts' streams in Redis, as the matcher sees them (`engine.receipts.ports.ReceiptStream`).

Keys of each shard:

receipts:{s}             stream of the receipts whose attempt likely has its home in the shard; each entry has
                         one field `b`, a batch of receipts (MessagePack array)
receipts:{s}:later       sorted set of receipts, by the time of their next look-up, microseconds
receipts:{s}:applied     hash: by home, who may record on the activity stream, and what was recorded last
receipts:{s}:unreadable  stream of entries that nobody could read

Beside them are the keys of the leases, see `shard_shares`: `receipts:lock`, `receipts:matchers`, and
`receipts:{s}:lock` of each shard.

Rows go to the shard of their message. But for the leases no step touches two shards.

Under failure: every step may be sent again when its answer was lost. receipts.lua says of each
what the second call does.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import msgspec

from engine import message_format
from engine import redis_keys as keys
from engine.activity.records import ActivityEntry
from engine.errors import Broken, Fenced, Unavailable
from engine.leases.ports import HeldShards
from engine.receipts.ports import Finished, FinishedLate, LateEntry, Recording
from engine.receipts.records import LateReceipt, Receipt
from engine.records import ActivityRow
from engine.stores.redis.link import Argument, Command, RedisLink
from engine.stores.redis.lua_libraries import versioned
from engine.stores.redis.pulse import Pulse, pulsed
from engine.stores.redis.shard_shares import ShardShares
from engine.stores.redis.wire import ReplyError
from engine.stream_id import StreamId

_encode = msgspec.msgpack.Encoder().encode
# Of each shard, so many entries and receipts are shown.
_SHOWN_MAX = 200


class RedisReceiptStream:
    """The port `ReceiptStream`. Every call raises Unavailable, and Broken when Redis refuses a command."""

    def __init__(
        self, link: RedisLink, read_link: RedisLink, shards: int, pulse: Pulse | None = None
    ) -> None:
        """`link` is for commands; `read_link` blocks while it waits for entries.

        `pulse` goes with each question for the leases.
        """
        self._link = link
        self._read_link = read_link
        self._shards = range(shards)
        self._pulse = pulse
        self._shares = ShardShares(keys.MATCHER_LOCK, keys.MATCHERS, keys.receipts_lock_key, shards)

    async def lease(self, owner: str, ttl_ms: int) -> HeldShards:
        """Live for `ttl_ms` milliseconds more; keep the shards that `owner` has, and win those of its share
        that nobody has, for as long."""
        [names] = _accepted(await pulsed(self._link, self._pulse, [self._shares.live(owner, ttl_ms)]))
        [ours] = await self._all([self._shares.own(owner, ttl_ms, names)])
        return self._shares.held(owner, names, ours)

    async def give_back(self, owner: str, shards: Collection[int]) -> None:
        """Let others have these shards at once, those that are `owner`'s."""
        await self._all([self._shares.give_back(owner, shards)])

    async def release(self, owner: str) -> None:
        """Give back all that `owner` has; it lives no longer."""
        await self._all([self._shares.give_back(owner, self._shards), self._shares.leave(owner)])

    async def begin(self, token: str, homes: Collection[int]) -> dict[int, StreamId]:
        """From now on only `token` may record, of attempts with these homes. By shard, the last id on its
        activity stream.

        Everything that others have recorded of them stands at or before that id.
        """
        begin = versioned("receipts_begin")
        own: tuple[Argument, ...] = (token, *sorted(homes))
        lasts = await self._all(
            [
                ("FCALL", begin, 2, keys.activity_key(s), keys.receipts_applied_key(s), *own)
                for s in self._shards
            ]
        )
        return {s: StreamId.parse(last) for s, last in zip(self._shards, lasts, strict=True)}

    async def archived_before(self) -> dict[int, StreamId | None]:
        """By shard, the oldest activity entry on the stream; those before it are archived.

        None: the stream is empty.
        """
        firsts = await self._all(
            [("FCALL_RO", versioned("receipts_first"), 1, keys.activity_key(s)) for s in self._shards]
        )
        return {
            s: StreamId.parse(first) if first else None for s, first in zip(self._shards, firsts, strict=True)
        }

    async def read(self, shards: Collection[int], count: int, block_ms: int) -> list[ActivityEntry]:
        """Up to `count` of the oldest entries of each of the shards, waiting up to `block_ms` for the first.

        They stay on the stream until `finish`, so a second call gives them again.
        """
        # From the start: entries that are finished are gone.
        shard_of_key, zeros = {keys.receipts_key(s): s for s in shards}, [b"0"] * len(shards)
        waits: tuple[Argument, ...] = ("BLOCK", block_ms) if block_ms else ()
        reply = await self._read_link.call(
            "XREAD", "COUNT", count, *waits, "STREAMS", *shard_of_key, *zeros,
            timeout_s=block_ms / 1000 + 5,
        )  # fmt: skip
        return [
            ActivityEntry(shard=shard_of_key[key], id=StreamId.parse(entry_id), blob=fields[1])
            for key, entries in reply or ()
            for entry_id, fields in entries
        ]

    async def due(self, shards: Collection[int], now_us: int, limit: int) -> list[LateEntry]:
        """Receipts to be looked up again at `now_us`: an equal part of `limit` of each of the shards."""
        share = max(1, limit // len(shards))
        found = await self._all(
            [("ZRANGEBYSCORE", keys.receipts_later_key(s), "-inf", now_us, "LIMIT", 0, share) for s in shards]
        )
        return [LateEntry(s, member) for s, members in zip(shards, found, strict=True) for member in members]

    async def record(
        self, tokens: Mapping[int, str], number: int, recordings: Mapping[int, Recording]
    ) -> dict[int, StreamId]:
        """Put rows on the activity streams and messages on the due sets, in one step for each shard.

        `tokens`: by home. `number` counts up: a number that was recorded already is passed over and answered
        as the first time. By shard, the id of the new entry. Raises Fenced when another matcher has begun for
        one of the homes; the rows of other shards are recorded then.
        """
        commands: list[Command] = []
        for shard, recording in recordings.items():
            commands.append(
                (
                    "FCALL", versioned("receipts_record"), 4,
                    keys.activity_key(shard), keys.receipts_applied_key(shard),
                    keys.due_key(shard, "express"), keys.due_key(shard, "normal"),
                    number, _array(recording.rows), len(recording.homes),
                    *(part for home in sorted(recording.homes) for part in (home, tokens[home])),
                    *(
                        part
                        for queue, due_at_us, message in recording.again
                        for part in (
                            "e" if queue == "express" else "n",
                            due_at_us,
                            message_format.packed(message),
                        )
                    ),
                )
            )  # fmt: skip
        ids = await self._all(commands)
        if not all(ids):
            raise Fenced("Another matcher has begun.")
        return {shard: StreamId.parse(entry_id) for shard, entry_id in zip(recordings, ids, strict=True)}

    async def hand_on(self, receipts: Mapping[int, Sequence[Receipt]]) -> None:
        """Put receipts on the streams of their homes. Again after Unavailable: they are there twice, and the
        second of each adds nothing."""
        await self._all(
            [
                ("FCALL", versioned("receipts_hand_on"), 1, keys.receipts_key(home), _array(some))
                for home, some in receipts.items()
            ]
        )

    async def finish(self, entries: Sequence[Finished], late: Sequence[FinishedLate]) -> None:
        """Remove entries and late receipts, and keep those of their receipts that are for later.

        An entry that was removed before is passed over with its receipts.
        """
        arguments: dict[int, list[Argument]] = {}
        for entry, later, unreadable in entries:
            some = arguments.setdefault(entry.shard, [])
            some += (str(entry.id), -1 if unreadable else len(later))
            some += (part for due_and_member in later for part in due_and_member)
        again: dict[int, list[Argument]] = {}
        for (shard, member), next_time in late:
            again.setdefault(shard, []).extend((member, *(next_time or ("", ""))))
        commands: list[Command] = [
            (
                "FCALL", versioned("receipts_finish"), 3,
                keys.receipts_key(s), keys.receipts_later_key(s), keys.receipts_unreadable_key(s), *some,
            )
            for s, some in arguments.items()
        ]  # fmt: skip
        commands += [
            ("FCALL", versioned("receipts_finish_late"), 1, keys.receipts_later_key(s), *some)
            for s, some in again.items()
        ]
        await self._all(commands)

    async def _all(self, commands: Sequence[Command]) -> list[Any]:
        return _accepted(await self._link.batch(commands))


async def unmatched_receipts(link: RedisLink, shards: int) -> list[Receipt]:
    """The newest receipts that no message was found for yet, at most `_SHOWN_MAX` entries a shard.

    For a person who looks for one of them: nothing is changed. Raises Unavailable.
    """
    commands: list[Command] = []
    for s in range(shards):
        commands += [
            ("XREVRANGE", keys.receipts_key(s), "+", "-", "COUNT", _SHOWN_MAX),
            ("ZREVRANGE", keys.receipts_later_key(s), 0, _SHOWN_MAX - 1),
        ]
    replies = await link.batch(commands)
    if failed := next((reply for reply in replies if isinstance(reply, ReplyError)), None):
        raise Unavailable(f"Redis does not show the receipts: {failed}.") from failed
    found: list[Receipt] = []
    for entries, late in zip(replies[::2], replies[1::2], strict=True):
        # What cannot be read is the matcher's to report.
        with contextlib.suppress(msgspec.DecodeError):
            for _, fields in entries:
                found += msgspec.msgpack.decode(fields[1], type=list[Receipt])
            found += [msgspec.msgpack.decode(member, type=LateReceipt).receipt for member in late]
    return found


def _array(records: Sequence[ActivityRow | Receipt]) -> bytes:
    """The records as an array32 of MessagePack, whose length readers know by its header."""
    return b"\xdd" + len(records).to_bytes(4, "big") + b"".join(map(_encode, records))


def _accepted(replies: list[Any]) -> list[Any]:
    """The replies of steps of the matcher. Raises Broken when one is an error."""
    for reply in replies:
        if isinstance(reply, ReplyError):
            raise Broken(f"Redis refused a step of the matcher: {reply}")
    return replies
