"""The receipts' streams in Redis, as the matcher sees them (`engine.receipts.ports.ReceiptStream`).

Keys of each shard:

receipts:{s}             stream; each entry has one field `b`, a batch of receipts (MessagePack array)
receipts:{s}:later       sorted set of receipts, by the time of their next look-up, microseconds
receipts:{s}:applied     hash: who may record on the activity stream, and what was recorded last
receipts:{s}:unreadable  stream of entries that nobody could read

One key for all shards: `receipts:lock`, the owner of the lease.

Receipts are on any shard; rows go to the shard of their message. No step touches two
shards, so all of this runs on a Redis Cluster, with a link to each node.

Under failure: every step may be sent again when its answer was lost. receipts.lua says of each
what the second call does.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from engine import message_format
from engine import redis_keys as keys
from engine.activity.records import ActivityEntry
from engine.errors import Broken, Fenced, Unavailable
from engine.receipts.ports import Finished, FinishedLate, LateEntry, Recording
from engine.receipts.records import LateReceipt, Receipt
from engine.stores.redis.link import Argument, Command, RedisLink
from engine.stores.redis.lua_libraries import versioned
from engine.stores.redis.pulse import Pulse, pulsed
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

        `pulse` goes with each question for the lease.
        """
        self._link = link
        self._read_link = read_link
        self._shards = range(shards)
        self._pulse = pulse
        self._shard_of_key = {keys.receipts_key(s): s for s in self._shards}

    async def lease(self, owner: str, ttl_ms: int) -> bool:
        """Become or stay the one matcher for `ttl_ms` milliseconds; False while another is."""
        ask = ("FCALL", versioned("receipts_lease"), 1, keys.MATCHER_LOCK, owner, ttl_ms)
        return bool(_accepted(await pulsed(self._link, self._pulse, [ask]))[0])

    async def release(self, owner: str) -> None:
        """Give the lease up, if it is `owner`'s."""
        await self._all([("FCALL", versioned("receipts_release"), 1, keys.MATCHER_LOCK, owner)])

    async def begin(self, token: str) -> dict[int, StreamId]:
        """From now on only `token` may record. By shard, the last id on its activity stream.

        Everything that others have recorded stands at or before that id.
        """
        lasts = await self._all(
            [
                (
                    "FCALL",
                    versioned("receipts_begin"),
                    2,
                    keys.activity_key(s),
                    keys.receipts_applied_key(s),
                    token,
                )
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

    async def read(self, count: int, block_ms: int) -> list[ActivityEntry]:
        """Up to `count` of the oldest entries of each shard, waiting up to `block_ms` for the first.

        They stay on the stream until `finish`, so a second call gives them again.
        """
        # From the start: entries that are finished are gone.
        zeros = [b"0"] * len(self._shards)
        waits: tuple[Argument, ...] = ("BLOCK", block_ms) if block_ms else ()
        reply = await self._read_link.call(
            "XREAD", "COUNT", count, *waits, "STREAMS", *self._shard_of_key, *zeros,
            timeout_s=block_ms / 1000 + 5,
        )  # fmt: skip
        return [
            ActivityEntry(shard=self._shard_of_key[key], id=StreamId.parse(entry_id), blob=fields[1])
            for key, entries in reply or ()
            for entry_id, fields in entries
        ]

    async def due(self, now_us: int, limit: int) -> list[LateEntry]:
        """Receipts to be looked up again at `now_us`: an equal share of `limit` of each shard."""
        share = max(1, limit // len(self._shards))
        found = await self._all(
            [
                ("ZRANGEBYSCORE", keys.receipts_later_key(s), "-inf", now_us, "LIMIT", 0, share)
                for s in self._shards
            ]
        )
        return [
            LateEntry(s, member) for s, members in zip(self._shards, found, strict=True) for member in members
        ]

    async def record(
        self, token: str, number: int, recordings: Mapping[int, Recording]
    ) -> dict[int, StreamId]:
        """Put rows on the activity streams and messages on the due sets, in one step for each shard.

        `number` counts up: a number that was recorded already is passed over and answered as the
        first time. By shard, the id of the new entry. Raises Fenced when another matcher has begun.
        """
        commands: list[Command] = []
        for shard, recording in recordings.items():
            header = b"\xdd" + len(recording.rows).to_bytes(4, "big")
            commands.append(
                (
                    "FCALL", versioned("receipts_record"), 4,
                    keys.activity_key(shard), keys.receipts_applied_key(shard),
                    keys.due_key(shard, "express"), keys.due_key(shard, "normal"),
                    token, number, header + b"".join(map(_encode, recording.rows)),
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


def _accepted(replies: list[Any]) -> list[Any]:
    """The replies of steps of the matcher. Raises Broken when one is an error."""
    for reply in replies:
        if isinstance(reply, ReplyError):
            raise Broken(f"Redis refused a step of the matcher: {reply}")
    return replies
