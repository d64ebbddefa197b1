"""A queue in a real Redis as the tests see it: put messages in, look at what became of them."""

from __future__ import annotations

import asyncio
import re
import time
from collections import Counter
from collections.abc import Callable
from typing import Any, cast

import msgspec
import structlog
from structlog.typing import FilteringBoundLogger

from engine.bundle_format import records_of
from engine.records import ActivityRow, Message, Queue
from engine.redis_keys import (
    GROUP,
    activity_key,
    dead_key,
    due_key,
    held_key,
    holder_key,
    holders_key,
    inbox_key,
    queue_key,
    usage_head_key,
    usage_key,
    wait_key,
)
from engine.stores.redis.link import RedisLink, load_functions
from engine.stores.redis.lua_libraries import versioned
from engine.stores.redis.queue import QueueStreams

DATABASE = 12
SHARDS = 4
FAR_FUTURE_US = 4_000_000_000_000_000


def log() -> FilteringBoundLogger:
    return cast(FilteringBoundLogger, structlog.get_logger())


def now_us() -> int:
    return time.time_ns() // 1000


def message(name: str, **changes: Any) -> Message:
    """A message of organisation 7 costing 2 units, unless told otherwise."""
    fields: dict[str, Any] = {
        "id": name,
        "organisation_id": 7,
        "to": "+989121234567",
        "text": "Your code is 1234",
        "sender": "Acme",
        "encoding": "GSM-7",
        "segments": 2,
        "units": 2,
        "accepted_at_us": now_us(),
        "expires_at_us": FAR_FUTURE_US,
    }
    return Message(**fields | changes)


async def until(holds: Callable[[], object], what: str, timeout_s: float = 60.0) -> None:
    """Wait for a state that no event announces; fails with `what` at the deadline."""
    deadline = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < deadline, f"not in time: {what}"
        await asyncio.sleep(0.005)


class QueueKit:
    """One queue, `SHARDS` shards, in a database of its own that begins empty."""

    queue: Queue = "express"

    def __init__(self, redis_url: str) -> None:
        self.url = redis_url.rpartition("/")[0] + f"/{DATABASE}"
        self.link = RedisLink(self.url, timeout_s=60, name="kit")
        self._links: list[RedisLink] = []
        # Of each reader, by its name, the connection of what does not block.
        self.commands: dict[str, RedisLink] = {}

    async def start(self) -> None:
        await self.link.call("FLUSHDB")
        await load_functions(self.link)

    async def stop(self) -> None:
        for link in (*self._links, self.link):
            await link.close()

    async def reader(
        self, name: str, *, url: str = "", timeout_s: float = 5.0, join: bool = True
    ) -> QueueStreams:
        commands, reading, beside = (
            RedisLink(url or self.url, timeout_s=timeout_s, name=f"{name} {use}")
            for use in ("commands", "reading", "beside")
        )
        self._links += (commands, reading, beside)
        self.commands[name] = commands
        reader = QueueStreams(
            commands,
            reading,
            queue=self.queue,
            shards=SHARDS,
            worker_name=name,
            timeout_s=timeout_s,
            log=log(),
            beside=beside,
        )
        if join:
            await reader.join()
        return reader

    async def put(self, shard: int, *messages: Message) -> None:
        """Put messages on the queue as `admit` does."""
        packer = msgspec.msgpack.Encoder().encode
        held = sum(m.units for m in messages)
        await self.link.batch(
            [
                *(("XADD", queue_key(shard, self.queue), "*", "m", packer(m)) for m in messages),
                ("INCRBY", held_key(shard), held),
            ]
        )

    async def put_raw(self, shard: int, payload: bytes) -> None:
        await self.link.call("XADD", queue_key(shard, self.queue), "*", "m", payload)

    async def fence(self, name: str) -> None:
        """Fence a worker in every shard, as the supervisor does when its process has died."""
        for shard in range(SHARDS):
            keys = (
                holder_key(shard, name),
                holders_key(shard),
                usage_key(shard),
                usage_head_key(shard),
                inbox_key(shard, name),
            )
            assert await self.link.call("FCALL", versioned("fence"), len(keys), *keys, name) == 1

    async def waiting(self) -> int:
        """Messages in the queue's streams, in hand or not."""
        more = await self._each("HGET", wait_key, "bundled")
        return sum(await self._each("XLEN", queue_key)) + sum(int(of or 0) for of in more)

    async def pending(self) -> int:
        """Entries given to a worker and not settled."""
        return sum([reply[0] for reply in await self._each("XPENDING", queue_key, GROUP)])

    async def put_off_messages(self) -> list[Message]:
        """The messages that are put off and none of which was recalled, of each list in order."""
        decode = msgspec.msgpack.Decoder(Message).decode
        found = []
        for flat in await self._each("HGETALL", wait_key):
            # Redis gives the fields of a hash in no order.
            chunks = {}
            for name, records in zip(flat[::2], flat[1::2], strict=True):
                if re.fullmatch(rb"\d+@\d+:\d+", name):
                    chunks[tuple(map(int, re.split(rb"[@:]", name)))] = records
            for place in sorted(chunks):
                found += [decode(payload) for _, payload in records_of(chunks[place])]
        return found

    async def due(self) -> list[tuple[int, Message]]:
        """Time and message of everything in the due sets."""
        decode = msgspec.msgpack.Decoder(Message).decode
        found = []
        for flat in await self._each("ZRANGE", due_key, "0", "-1", "WITHSCORES"):
            found += [(int(score), decode(m)) for m, score in zip(flat[::2], flat[1::2], strict=True)]
        return found

    async def dead(self) -> list[bytes]:
        """Payloads in the dead-letter streams."""
        return [
            fields[1] for stream in await self._each("XRANGE", dead_key, "-", "+") for _, fields in stream
        ]

    async def held(self) -> int:
        replies = await self.link.batch([("GET", held_key(shard)) for shard in range(SHARDS)])
        return sum(int(reply or 0) for reply in replies)

    async def rows(self) -> list[ActivityRow]:
        """All activity rows in the order in which they were recorded, by shard."""
        decode = msgspec.msgpack.Decoder(list[ActivityRow]).decode
        streams = await self.link.batch([("XRANGE", activity_key(s), "-", "+") for s in range(SHARDS)])
        return [row for stream in streams for _, fields in stream for row in decode(fields[1])]

    async def usage(self) -> dict[int, tuple[int, int]]:
        """Units captured and released per organisation, from the usage streams."""
        captured: Counter[int] = Counter()
        released: Counter[int] = Counter()
        for stream in await self.link.batch([("XRANGE", usage_key(s), "-", "+") for s in range(SHARDS)]):
            for _, fields in stream:
                if fields[1] == b"settle":
                    flat = msgspec.msgpack.decode(fields[7])
                    for at in range(0, len(flat), 3):
                        captured[flat[at]] += flat[at + 1]
                        released[flat[at]] += flat[at + 2]
        return {org: (captured[org], released[org]) for org in captured}

    async def _each(
        self, command: str, key: Callable[[int, Queue], bytes], *arguments: str | bytes
    ) -> list[Any]:
        return await self.link.batch(
            [(command, key(shard, self.queue), *arguments) for shard in range(SHARDS)]
        )
