"""The reads of a queue's streams that a worker has under way: one of what has a backlog, or of all shards;
and beside the reading of a backlog one that waits for what comes where nobody waits.

A shard is asked by one read at a time. So what is given of it arrives in order, although each read has a
connection of its own. An answer may come while nobody asks for it. If it is not taken within a moment, it
counts as lost, because the worker counts how long it has had the entries from when it takes them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

from engine.delivery.ports import Apart
from engine.records import Queue
from engine.redis_keys import queue_key
from engine.stores.redis import queue_wire as wire
from engine.stores.redis.backlog import Backlog
from engine.stores.redis.link import RedisLink
from engine.stores.redis.under_way import ReadUnderWay
from engine.stores.redis.visits import Visits, is_visited, steps_to
from engine.stores.redis.wire import ReplyError

# A read of shards where nobody waits, beside the reading of a backlog: how long it waits for a message,
# milliseconds, how soon after its answer there may be another, seconds, and how long a read of the others
# waits when they have no backlog any more, milliseconds.
_ASIDE_MS, _ASIDE_APART_S, _APART_MS = 200, 0.005, 10
# So much of the time between two reads is left where what waits is taken: those reads are small.
_APART_TAKING = 0.5


class ReadLinks(NamedTuple):
    """The connections of the reads."""

    # Reads that do not wait, beside other commands.
    commands: RedisLink
    # A read that waits for messages of any shard.
    reading: RedisLink
    # A read that waits for messages beside another read; None: there is none.
    beside: RedisLink | None


class Answer(NamedTuple):
    """What a read gave."""

    # Of each shard that gave any, its entries as they came.
    entries: Sequence[tuple[int, Any]]
    # Whether it asked what has a backlog, or all, and not only where nobody waits.
    of_all: bool
    # Whether it came too long ago, so that what it gave is to be looked for.
    lost: bool
    # How long it took, seconds; None: it waited for messages.
    took_s: float | None


class Reads:
    """The reads of one worker. Every call raises Unavailable: then the answer of one read is lost."""

    def __init__(
        self,
        links: ReadLinks,
        backlog: Backlog,
        shards: Sequence[int],
        queue: Queue,
        worker_name: str,
        *,
        timeout_s: float,
        room: Callable[[int], wire.Room],
        mended: Callable[[ReplyError], Awaitable[Exception]],
    ) -> None:
        """`timeout_s`: how long an answer may take beyond what it waits for messages, seconds. `room`: what
        the stream of a shard may hold. `mended`: what to raise for a refusal, whose cause it has tried to
        remove."""
        self._links = links
        self._backlog = backlog
        self.visits = Visits(backlog)
        self._shards = shards
        self._queue: Queue = queue
        self._name = worker_name
        self._timeout_s = timeout_s
        self._room = room
        self._mended = mended
        self._shard_of_key = {queue_key(shard, queue): shard for shard in shards}
        self._main, self._aside = ReadUnderWay(), ReadUnderWay()
        # No read beside the other is begun before that, seconds of the loop.
        self._aside_after_s = 0.0
        # Shards whose streams gave as many entries as they were asked for last.
        self._busy: list[int] = []
        # Whether the main read waits for messages; and when it was begun, seconds of the loop.
        self._waits = False
        self._began_s = 0.0

    def __bool__(self) -> bool:
        """Whether any is under way."""
        return bool(self._main or self._aside)

    @property
    def asked(self) -> frozenset[int]:
        """The shards that reads under way ask."""
        return self._main.shards | self._aside.shards

    @property
    def more(self) -> bool:
        """Whether more waits than was given, as far as is known."""
        return bool((self._main and not self._waits) or self._busy or self._backlog)

    async def first(
        self, entries: int, block_ms: int, ready_max: int, *, aside: bool, apart: Apart, takes: int
    ) -> Answer:
        """The first answer. A read of about so many entries is begun when there is none, which waits up to
        `block_ms` for the first, and one beside it with `aside`. `ready_max`: as of `Backlog.shares`. `takes`
        so many messages of what waits for a turn; 0: what lies ready is read.

        Canceled: the answers of all are lost.
        """
        if aside:
            self._read_aside(entries)
        if not self._main:
            self._main.begin((), partial(self._read_later, entries, block_ms, ready_max, apart, takes))
        try:
            return await self.answer()
        except asyncio.CancelledError:
            self._main.cancel()
            self._aside.cancel()
            raise

    def only_written(self) -> bool:
        """Let a read that is not written yet not be; whether any other is under way."""
        if not self._main.shards:
            self._main.cancel()
        return bool(self)

    async def answer(self) -> Answer:
        """The first answer of the reads that are under way, one at least; the others go on."""
        loop = asyncio.get_running_loop()
        asked_s = loop.time()
        await asyncio.wait([*self._aside.tasks, *self._main.tasks], return_when=asyncio.FIRST_COMPLETED)
        # What comes where nobody waits is sent first.
        of_all = not self._aside.answered
        if not of_all:
            self._aside_after_s = loop.time() + _ASIDE_APART_S
        streams = (self._main if of_all else self._aside).take()
        entries = [(self._shard_of_key[key], raw) for key, raw in streams or ()]
        took_s = None
        if of_all and not self._waits:
            # Until it was answered, and until this process has come to it, but not while nobody asked.
            took_s = loop.time() - self._began_s - max(0.0, asked_s - self._main.answered_s)
        return Answer(entries, of_all, lost=streams is None, took_s=took_s)

    def _read_aside(self, entries: int) -> None:
        """While a backlog is read, begin a read that waits for what comes where nobody waits.

        What comes is given at once, and not with the next part of the backlog. After its answer there is none
        for a moment, and the other read asks these shards too.

        What the other asks is known here once it is written; until then it leaves to this one what this asks.
        """
        link, now_s = self._links.beside, asyncio.get_running_loop().time()
        if link is None or not self.more or self._aside or now_s < self._aside_after_s:
            return
        asked = {*self._main.shards, *self._busy}
        shards = [shard for shard in self._backlog.calm(self._shards) if shard not in asked]
        # While the other is not written it is not known what it will ask: something has to be left for it.
        if 0 < len(shards) < len(self._shards):
            share = max(1, entries // (4 * len(self._shards)))
            self._aside.begin(shards, partial(self._read_calm, link, shards, share))

    async def _read_calm(self, link: RedisLink, shards: Sequence[int], share: int) -> list[Any]:
        """As [[key, entries] …]: up to `share` entries of each, as soon as there is one."""
        (reply,) = await link.batch(
            [wire.read(self._queue, self._name, shards, share, _ASIDE_MS)],
            timeout_s=self._timeout_s + _ASIDE_MS / 1000,
        )
        if isinstance(reply, ReplyError):
            raise await self._mended(reply)
        return list(reply or ())

    async def _read_later(
        self, entries: int, block_ms: int, ready_max: int, apart: Apart, takes: int
    ) -> list[Any]:
        """As `_read`. What has a backlog is read some time later: until then Redis is there for others, and a
        read beside this one gives what comes where nobody waits."""
        if self._busy or self._backlog:
            if apart.seconds:
                part = _APART_TAKING if takes and len(self._backlog.known) > 1 else 1.0
                await asyncio.sleep(part * apart.seconds)
            if apart.read_comes():
                await asyncio.sleep(0)
        return await self._read(entries, block_ms, ready_max, takes)

    async def _read(self, entries: int, block_ms: int, ready_max: int, takes: int) -> list[Any]:
        """About so many, as [[key, entries] …]: at once from streams that have more, else blocking on all.

        Streams that have a backlog behind them are filled up first, unless a settlement has filled them since
        the last read. When nothing was there to be read all the same, the next read fills these too, or
        blocks, and whoever makes room fills them.

        A read that does not wait goes by the connection of the settlements, in one write with some of them.
        Shards that a read beside it asks are left to that.
        """
        loop, took = asyncio.get_running_loop(), False
        while True:
            backlog, empty = self._backlog.take()
            apart = self._aside.shards
            shards = [shard for shard in self._shards if shard not in apart]
            self._main.shards = frozenset(shards)
            busy = [shard for shard in shards if shard in backlog or shard in self._busy]
            fills: list[tuple[int, int | None]] = [(shard, None) for shard in empty]
            took_before, took = took, takes > 0 and any(map(self._is_taken, {*busy} & {*backlog}))
            if took:
                asked, taken = self.visits.shares(shards, busy, backlog, takes, entries, ready_max)
                fills = [(shard, upto) for shard, most in taken.items() for upto in steps_to(most)]
                empty, waited = list(taken), [s for s in busy if s in backlog and s not in taken]
            else:
                self.visits.forget()
                asked = self._backlog.shares(shards, busy, backlog, entries, ready_max)
                waited = self._backlog.waited()
            # What is read apart may be the only thing that is left, and then this one shall ask for all soon.
            block = None if busy else min(block_ms, _APART_MS) if apart else block_ms
            self._busy, self._waits = waited, block is not None
            link = self._links.reading if self._waits else self._links.commands
            self._began_s = loop.time()
            try:
                replies = await link.batch(
                    [wire.refill(self._queue, shard, self._room(shard), upto) for shard, upto in fills]
                    + [wire.read(self._queue, self._name, some, share, block) for some, share in asked],
                    timeout_s=self._timeout_s + (block or 0) / 1000,
                )
                streams = await self._streams_of(asked, replies[len(fills) :])
            except (Exception, asyncio.CancelledError):
                # Nobody else may say that messages wait there.
                self._backlog.keep(backlog)
                raise
            self._backlog.keep({shard: backlog[shard] for shard in backlog if shard not in empty})
            # What was taken and not given went to another worker; once more, before this one waits.
            if streams or (took and not took_before):
                # Of several for one shard, the last.
                self._backlog.note([shard for shard, _ in fills], replies[: len(fills)])
            if streams or self._waits:
                return streams

    def _is_taken(self, shard: int) -> bool:
        return is_visited(self._backlog, shard)

    async def _streams_of(
        self, asked: Sequence[tuple[Sequence[int], int]], replies: Sequence[Any]
    ) -> list[Any]:
        """What the reads of `asked` gave, as [[key, entries] …]. Notes which streams have more."""
        streams: list[Any] = []
        for (_, share), reply in zip(asked, replies, strict=True):
            if isinstance(reply, ReplyError):
                raise await self._mended(reply)
            for key, raw in reply or ():
                streams.append((key, raw))
                if len(raw) >= share:
                    self._busy.append(self._shard_of_key[key])
        return streams
