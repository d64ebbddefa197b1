"""The ledger's side of the shards in Redis: usage streams, inboxes, generations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from engine import shards as keys
from engine.books import BalanceEvent, ShardLife, UsageEntry
from engine.errors import Broken, Unavailable
from engine.stores.admission import fence_command
from engine.stores.redis import Command, RedisLink, ReplyError, load_functions

# An inbox is read at once by a holder that lives; this bounds one whose holder does not.
_INBOX_MAX = 10_000
_INBOX_TTL_S = 86400

_encode = msgspec.msgpack.Encoder().encode


class RedisUsage:
    """UsageStream on two links: one for commands, one that waits for entries."""

    def __init__(self, link: RedisLink, read_link: RedisLink, shards: int) -> None:
        self._link = link
        self._read_link = read_link
        self._shards = range(shards)

    async def read(self, positions: dict[int, str], count: int, block_ms: int) -> list[UsageEntry]:
        streams = {keys.usage_key(s): s for s in positions}
        reply = await self._read_link.call(
            "XREAD", "COUNT", count, "BLOCK", block_ms, "STREAMS", *streams, *positions.values(),
            timeout_s=block_ms / 1000 + 5,
        )  # fmt: skip
        return [
            _entry(streams[key], entry_id, fields)
            for key, entries in reply or ()
            for entry_id, fields in entries
        ]

    async def send(self, answers: Sequence[tuple[int, str, bytes]]) -> None:
        commands: list[Command] = []
        for shard, holder, payload in answers:
            inbox = keys.inbox_key(shard, holder)
            commands.append(("XADD", inbox, "MAXLEN", "~", _INBOX_MAX, "*", "d", payload))
        for inbox in {keys.inbox_key(shard, holder) for shard, holder, _ in answers}:
            commands.append(("EXPIRE", inbox, _INBOX_TTL_S))
        await self._all(commands)

    async def announce(self, events: Sequence[BalanceEvent]) -> None:
        by_shard: dict[int, list[bytes | int]] = {}
        for event in events:
            by_shard.setdefault(event.shard, []).extend((event.row_id, _encode(event.activity())))
        await self._all(
            [
                ("FCALL", "announce", 2, keys.activity_key(s), keys.announced_key(s), *numbered)
                for s, numbered in by_shard.items()
            ]
        )

    async def trim(self, positions: dict[int, str]) -> None:
        await self._all(
            [("XTRIM", keys.usage_key(s), "MINID", _after(position)) for s, position in positions.items()]
        )

    async def overdue(self, age_ms: int) -> list[tuple[int, str]]:
        replies = await self._all(
            [("FCALL", "overdue", 1, keys.holders_key(s), age_ms) for s in self._shards]
        )
        return [(s, name.decode()) for s, names in zip(self._shards, replies, strict=True) for name in names]

    async def fence(self, holders: Sequence[tuple[int, str]]) -> None:
        await self._all([fence_command(shard, name) for shard, name in holders])

    async def prepare(self) -> None:
        await load_functions(self._link)

    async def lives(self) -> list[ShardLife]:
        names = await self._all([("GET", keys.generation_key(s)) for s in self._shards])
        lasts = await self._link.batch([("XINFO", "STREAM", keys.usage_key(s)) for s in self._shards])
        return [
            ShardLife(s, name and name.decode(), _last_id(last))
            for s, name, last in zip(self._shards, names, lasts, strict=True)
        ]

    async def close(self, life: ShardLife, generation: str) -> dict[int, int]:
        shard = life.shard
        sums = (
            await self._all(
                [
                    (
                        "FCALL", "close", 10,
                        keys.generation_key(shard), keys.holders_key(shard), keys.usage_key(shard),
                        keys.held_key(shard), keys.queue_key(shard, "express"),
                        keys.queue_key(shard, "normal"), keys.due_key(shard, "express"),
                        keys.due_key(shard, "normal"), keys.dead_key(shard, "express"),
                        keys.dead_key(shard, "normal"),
                        life.generation or "", generation, keys.holder_key(shard, ""),
                    )
                ]
            )
        )[0]  # fmt: skip
        if sums is None:
            raise Unavailable(f"Shard {shard} of Redis has changed meanwhile.")
        return dict(sums)

    async def begin(self, generations: dict[int, str]) -> None:
        began = await self._all(
            [("FCALL", "begin", 1, keys.generation_key(s), name) for s, name in generations.items()]
        )
        if not all(began):
            raise Unavailable("A shard of Redis has changed meanwhile.")

    async def _all(self, commands: Sequence[Command]) -> list[Any]:
        replies = await self._link.batch(commands)
        for reply in replies:
            if isinstance(reply, ReplyError):
                if reply.code == "ERR" and "Function not found" in str(reply):
                    # It came back empty, and this link was the first to see it.
                    raise Unavailable("Redis has lost its data; begin anew.")
                raise Broken(f"Redis refused a step of the ledger: {reply}")
        return replies


def _entry(shard: int, entry_id: bytes, fields: list[bytes]) -> UsageEntry:
    # k, kind, h, holder, e, epoch, d, data: the order in which functions.lua writes them.
    return UsageEntry(
        shard=shard,
        position=entry_id.decode(),
        kind=fields[1].decode(),  # type: ignore[arg-type]
        holder=fields[3].decode(),
        epoch=int(fields[5]),
        data=fields[7],
    )


def _last_id(stream: Any) -> str:
    """`last-generated-id` out of XINFO STREAM's flat reply; a missing stream is an error reply."""
    if isinstance(stream, ReplyError):
        return "0-0"
    last: bytes = stream[stream.index(b"last-generated-id") + 1]
    return last.decode()


def _after(position: str) -> str:
    ms, _, sequence = position.partition("-")
    return f"{ms}-{int(sequence) + 1}"
