"""Service: the recorded events of messages that many callers ask for at the same time.

A query costs ClickHouse many times what a message more in it costs, and a pass through the tail of a
stream is the same for one message and for ten. So callers that come while a round is under way share the
next one. It waits a little for those whom the last one answered, because they may have come again.

A round asks the streams first and the store second: a row leaves the stream only when the store has it. The
store is not asked of a message whose acceptance still waits in the stream, because it has nothing of it yet.
When all messages of a round are older than what waits in their streams, and these were looked at a moment
ago, both are asked at the same time: what leaves a stream meanwhile is known from then
(`ActivityStream.recent_rows_of`). If that was not enough, the store is asked again.

    a caller gives up      the round goes on for the others
    a round is slow        another begins beside it, for those who have come since
    Redis does not answer  all callers of the round get Unavailable
    ClickHouse does not,   they get what the streams have, and are told so
    or refuses
    Redis went back to an  what it has again may lack later events that were archived; within a second it is
    older state            archived anew, and the store is asked again
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from engine.activity.ports import ActivityStore, ActivityStream
from engine.activity.records import ActivityEntry, MessageKey, MessageRows, RecentRows
from engine.clocks.waits import happens
from engine.errors import ConfigError, Unavailable
from engine.records import ActivityRow
from engine.shards import shard_of

# From its acceptance until it is on the stream a message may take so long, with what two clocks differ,
# milliseconds. When it takes longer, the store is asked of it in vain.
_ON_ITS_WAY_MS = 1000
# Rounds under way, and messages in each. The second begins when the first takes longer than this, seconds.
_ROUNDS = 2
_SLOW_S = 0.1
_MESSAGES_MAX = 500
# How long a round waits for the callers whom the last one answered: a part of the time that took, and at most
# so long, seconds.
_GATHER = 0.25
_GATHER_S_MAX = 0.005


class Lookups:
    """The port `MessageLookups`, in rounds."""

    def __init__(self, stream: ActivityStream, store: ActivityStore, shards: int, store_s: float) -> None:
        """`store_s`: a store that does not answer by then is left out, seconds."""
        self._stream = stream
        self._store = store
        self._shards = shards
        self._store_s = store_s
        # Who waits for each message of the next round.
        self._waiting: dict[MessageKey, list[asyncio.Future[MessageRows]]] = {}
        self._rounds: set[asyncio.Task[None]] = set()
        # The one that began last, as long as it is neither over nor slow.
        self._latest: asyncio.Task[None] | None = None
        # Of the last round that ended: how many messages it looked up or left waiting, and how long it took,
        # seconds.
        self._expected, self._took_s = 0, 0.0
        # Set when as many messages wait as that.
        self._enough = asyncio.Event()
        self._closed = False

    async def rows_of(self, key: MessageKey) -> MessageRows:
        """See `MessageLookups.rows_of`."""
        if self._closed:
            raise _ended()
        found: asyncio.Future[MessageRows] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(key, []).append(found)
        if len(self._waiting) >= self._expected:
            self._enough.set()
        self._begin()
        return await found

    async def close(self) -> None:
        """End the rounds under way and begin no other; all callers are told that nothing was found out."""
        self._closed = True
        rounds = list(self._rounds)
        for task in rounds:
            task.cancel()
        await asyncio.gather(*rounds, return_exceptions=True)
        _fail(self._waiting.values(), _ended())
        self._waiting.clear()

    def _begin(self) -> None:
        if self._waiting and not self._latest and len(self._rounds) < _ROUNDS and not self._closed:
            task = self._latest = asyncio.create_task(self._round(), name="look up messages")
            self._rounds.add(task)
            slow = asyncio.get_running_loop().call_later(_SLOW_S, self._is_slow, task)
            task.add_done_callback(lambda task: self._after(task, slow))

    def _is_slow(self, task: asyncio.Task[None]) -> None:
        if self._latest is task:
            self._latest = None
        self._begin()

    def _after(self, task: asyncio.Task[None], slow: asyncio.TimerHandle) -> None:
        slow.cancel()
        self._rounds.discard(task)
        self._is_slow(task)

    async def _gather(self) -> None:
        """Wait for as many callers as the last round answered and left, when they are several."""
        if self._expected > 1 and len(self._waiting) < self._expected:
            self._enough.clear()
            await happens(self._enough, min(_GATHER_S_MAX, _GATHER * self._took_s))

    async def _round(self) -> None:
        # The task begins after all callers of this turn of the loop have come.
        await self._gather()
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        keys = list(self._waiting)[:_MESSAGES_MAX]
        asked = {key: self._waiting.pop(key) for key in keys}
        if not asked:
            return
        try:
            found = await self._found(keys)
        except asyncio.CancelledError:
            _fail(asked.values(), _ended())
            raise
        except Exception as e:  # whatever it is, it is each caller's
            _fail(asked.values(), e)
            return
        self._expected, self._took_s = len(keys) + len(self._waiting), loop.time() - began_s
        for key, futures in asked.items():
            for future in futures:
                if not future.done():
                    future.set_result(found[key])

    async def _found(self, keys: list[MessageKey]) -> dict[MessageKey, MessageRows]:
        by_shard: defaultdict[int, list[MessageKey]] = defaultdict(list)
        for key in keys:
            by_shard[shard_of(key.organisation_id, self._shards)].append(key)
        # Read before the store is asked.
        before = {shard: self._stream.begin_of(shard) for shard in by_shard}
        # Two queries would cost nearly twice as much, so the store is asked of all at once, or of none.
        at_once = all(_is_older(key, before[shard]) for shard, part in by_shard.items() for key in part)
        recent, (stored, missing) = await asyncio.gather(
            self._recent(by_shard, before), self._stored(keys if at_once else [])
        )
        left = [key for key in keys if not recent[key].whole and not (at_once and recent[key].gapless)]
        if missing is None:
            more, missing = await self._stored(left)
            stored |= more
        return {key: _known(recent[key], stored.get(key, []), missing) for key in keys}

    async def _recent(
        self, by_shard: Mapping[int, list[MessageKey]], before: Mapping[int, Sequence[ActivityEntry]]
    ) -> dict[MessageKey, RecentRows]:
        parts = await asyncio.gather(
            *(
                self._stream.recent_rows_of(shard, part, before=before[shard])
                for shard, part in by_shard.items()
            )
        )
        return {key: found for part in parts for key, found in part.items()}

    async def _stored(
        self, keys: Sequence[MessageKey]
    ) -> tuple[dict[MessageKey, list[ActivityRow]], Unavailable | None]:
        """What the store has of these, and why it gave no answer, if it gave none."""
        if not keys:
            return {}, None
        try:
            return await self._store.rows_of(keys, self._store_s), None
        except Unavailable as e:
            return {}, e
        except ConfigError as e:
            # To callers a store that refuses is as one that is away.
            return {}, Unavailable(str(e))


class DividedLookups:
    """The port `MessageLookups`, in rounds of its own for each division of the store, so that no caller waits
    for a division that its message is not in, and none fails with it."""

    def __init__(self, lookups: Sequence[Lookups]) -> None:
        """`lookups`: those of each division, in order."""
        self._lookups = lookups

    async def rows_of(self, key: MessageKey) -> MessageRows:
        """See `MessageLookups.rows_of`."""
        return await self._lookups[shard_of(key.organisation_id, len(self._lookups))].rows_of(key)

    async def close(self) -> None:
        """As of `Lookups`."""
        await asyncio.gather(*(of.close() for of in self._lookups))


def _is_older(key: MessageKey, begin: Sequence[ActivityEntry]) -> bool:
    """Whether the message was accepted so long before the first entry of its stream that it is archived."""
    return bool(begin) and key.accepted_at_us // 1000 + _ON_ITS_WAY_MS < begin[0].id.ms


def _known(recent: RecentRows, stored: list[ActivityRow], missing: Unavailable | None) -> MessageRows:
    """What the stream and the store have of a message; `missing`: why the store gave no answer."""
    if recent.whole:
        return MessageRows(rows=recent.rows, complete=True, whole=True)
    return MessageRows(
        rows=recent.rows + stored, complete=recent.complete and missing is None, missing=missing
    )


def _ended() -> Unavailable:
    return Unavailable("The look-up was ended, because the process ends.")


def _fail(asked: Iterable[Iterable[asyncio.Future[MessageRows]]], failure: Exception) -> None:
    for futures in asked:
        for future in futures:
            if not future.done():
                future.set_exception(failure)
