"""Service: the activity streams to the store, in large blocks, each row once.

Archivers share the shards of the streams (`engine.leases.shard_leases`). Each takes all of its shards
together, so that there are few inserts. Its round:

  1 gather   read entries of its shards until a block is full or its first row has waited long enough
  2 propose  write the plan down, under each of its shards: which ids of which streams make the block
  3 insert   the block, under a token that is a digest of the plan
  4 finish   in one step: remove those entries from the streams, and the plan

Of a shard that is won the plan that is found is executed first, from exactly its ranges. It may have other
shards too, and whoever wins those does the same. What happens when an archiver is stopped in a step, and
others take over:

  step       killed                       frozen, wakes after the take-over
  1 gather   nothing was changed          `propose` is refused: a shard is not its own; or it is again,
                                          and the stream does not begin any more with what was read
  2 propose  the plan stands under all    the answer comes late: the leases are looked at again before
             its shards or under none;    the insert, and are over
             if it does, it is executed
  3 insert   the plan stands: the block   all send the same block with the same token, the store keeps
             is sent again, the token     one; the first to finish removes the plan, the others find
             keeps it single              it gone
  4 finish   it is done as a whole, or    as for 3: the plan is compared in the same step
             not at all

  `propose` answered twice   a client sent it again: a plan stands the second time, so the answer is
                             no, and the plan is found and executed
  `propose` never answered   the same, on the next round
  `insert` never answered    it is sent again with the same token
  `finish` never answered    the next round finds the plan, or finds it gone
  a shard goes to another    it is given back between two blocks, without a plan
  Redis away                 the round begins anew when Redis is back
  the store away             the same block is tried for as long as it takes; activity waits in Redis

Two bounds. The store remembers the last 1,000 tokens (see `stores/clickhouse/activity.py`). And a Redis
that comes back with an older state (a failover, a lost disk) brings back entries that are archived
already, without the plan that shows it: those rows are stored twice.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections import Counter
from collections.abc import Callable, Sequence
from operator import attrgetter

import msgspec
import structlog

from engine.activity.blocks import ReadSize, block_of, oldest, plan_of, token_of
from engine.activity.linger import Linger
from engine.activity.numbers import PLAIN, Numbers
from engine.activity.ports import ActivityStore, ActivityStream
from engine.activity.records import ActivityBlock, ActivityEntry, BlockPlan
from engine.clocks.backoff import Backoff
from engine.clocks.store_clock import wall_us
from engine.clocks.waits import until_tick_ms
from engine.errors import ConfigError, Unavailable
from engine.leases.lease import boot_time_s
from engine.leases.shard_leases import ShardLeases
from engine.stream_id import STREAM_START

log = structlog.get_logger()


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """The limits of archiving: how large blocks are, how late, and how long things take."""

    # Most rows of a block; a single entry may have more.
    rows_max: int = 100_000
    # About how many rows are read at once, by what the last entries had, and at most how many entries of a
    # shard, because the next ones may have a thousand rows each. While Redis answers, it serves nobody else.
    read_rows: int = 20_000
    read_entries: int = 250
    # How long a row may wait for its block to fill, seconds. An insert costs the store as much as some
    # thousand rows, so blocks should be large.
    linger_s: float = 0.8
    # But rows should be there within a second: so much of it is for waiting and for the insert. When inserts
    # take long a row waits less, but so long at least.
    lag_s: float = 0.95
    linger_min_s: float = 0.6
    # How often streams are looked at meanwhile, at most, seconds.
    poll_s: float = 0.1
    # A read of empty streams returns after about this long, seconds.
    idle_s: float = 1.0
    # With the third of it after which others ask, the shards of one that died are taken over in 10 seconds.
    lease_s: float = 7.5
    # First pause after a failure; doubles up to the second, seconds.
    backoff_s: float = 0.2
    backoff_max_s: float = 10.0
    # After the wish to drain, archiving what is left may take this long, seconds. A call to the store
    # that is under way then has its own deadline beyond that.
    drain_s: float = 10.0
    # How often the log mentions a store that is away, seconds.
    remind_s: float = 60.0


class ArchiverCounts(msgspec.Struct):
    """What this process has moved to the store: rows, the blocks they were in, and entries set aside
    because nobody can read them."""

    rows: int = 0
    blocks: int = 0
    unreadable: int = 0


class _Superseded(Exception):
    """A lease is over, or a plan stands that is not the one in hand."""


class Archiver:
    """One archiver process; see the module. `counts` says what it has archived."""

    def __init__(
        self,
        stream: ActivityStream,
        store: ActivityStore,
        owner: str,
        limits: Limits | None = None,
        now: Callable[[], float] = boot_time_s,
        numbers: Numbers = PLAIN,
        now_us: Callable[[], int] = wall_us,
    ) -> None:
        """`owner` is unique per process incarnation, never reused. `numbers`: how recipients' numbers are
        stored. `now_us`: the time of Redis' clock, microseconds since 1970."""
        self._stream = stream
        self._store = store
        self._owner = owner
        self._limits = limits or Limits()
        self._now = now
        self._numbers = numbers
        self._now_us = now_us
        self._draining = asyncio.Event()
        self._drain_until: float | None = None
        self._emptied = False
        self._leases = ShardLeases(
            stream, owner, self._limits.lease_s, of="archiver", mention=self._mention, clock_s=now
        )
        # The shards in which no plan stands but the one in hand; Redis is asked of others first.
        self._known: frozenset[int] = frozenset()
        # When the trouble that lasts was last mentioned; None while all is well.
        self._mentioned: float | None = None
        self._pace = ReadSize()
        self._linger = Linger(self._limits.lag_s, self._limits.linger_s, self._limits.linger_min_s)
        # From when on there may be entries that are not in the last block.
        self._cut_at = -math.inf
        self.counts = ArchiverCounts()

    @property
    def shards(self) -> frozenset[int]:
        """The shards that are this archiver's at this instant."""
        return self._leases.shards

    @property
    def is_stuck(self) -> bool:
        """Whether the store, or Redis, has failed since the last block."""
        return self._mentioned is not None

    async def run(self, draining: asyncio.Event) -> None:
        """Archive until `draining` is set, then what is left, and then give up the leases."""
        self._draining = draining
        async with self._leases.held():
            await self._work()

    async def _work(self) -> None:
        backoff = Backoff(self._limits.backoff_s, self._limits.backoff_max_s)
        while not self._ended():
            try:
                if not self.shards:
                    await self._leases.stand_by(self._limits.idle_s)
                    continue
                await self._recover()
                await self._leases.give_back()
                await self._round()
                backoff.reset()
            except _Superseded:
                self._known = frozenset()
                await self._pause(self._limits.poll_s)
            except (Unavailable, ConfigError) as e:
                self._known = frozenset()
                await self._mention(e)
                await self._pause(backoff.next())

    async def _recover(self) -> None:
        """Execute the plans that stand in shards that were won."""
        shards = self.shards
        for plan in await self._stream.plans(shards - self._known):
            log.info("archiver executes the plan it found", token=token_of(plan))
            await self._execute(plan, await self._stream.entries_of(plan))
        self._known = shards

    async def _round(self) -> None:
        entries = await self._gather()
        self._well()
        if not entries:
            self._emptied = self._draining.is_set()
            return
        cut_at, plan = self._now(), plan_of(entries)
        if not await self._stream.propose(self._owner, plan):
            raise _Superseded
        await self._execute(plan, entries)
        self._linger.note(self._now() - cut_at)

    async def _gather(self) -> list[ActivityEntry]:
        """Read the oldest entries, for one block; none when nothing came within `idle_s`."""
        limits, found = self._limits, list[ActivityEntry]()
        rows, seen_at, first_at = 0, self._now(), 0.0
        after = dict.fromkeys(sorted(self._known & self.shards), STREAM_START)
        while after and rows < limits.rows_max:
            count = self._pace.entries_wanted(min(limits.read_rows, limits.rows_max - rows))
            count = min(count, limits.read_entries)
            waits = not found and not self._draining.is_set()
            read_at = self._now()
            more = await self._stream.read(after, count, until_tick_ms(limits.idle_s) if waits else 0)
            # What a read finds was there when it was sent; but one that waits ends when something comes.
            seen_at = self._now() if waits else read_at
            if not found:
                # What is there at once may have come at any time since the last block was cut.
                first_at = self._now()
                if first_at - read_at < limits.poll_s:
                    first_at = self._cut_at
            found += more
            rows += self._pace.note(more)
            after.update({entry.shard: entry.id for entry in more})
            if more and max(Counter(map(attrgetter("shard"), more)).values()) == count:
                continue
            left_s = self._linger.seconds - (self._now() - first_at)
            if not found or left_s <= 0 or self._draining.is_set():
                break
            await self._pause(min(left_s, self._apart_s(rows, self._now() - first_at)))
        if rows < limits.rows_max:
            self._cut_at = seen_at
        return found if rows <= limits.rows_max else oldest(found, limits.rows_max)[0]

    def _apart_s(self, rows: int, seconds: float) -> float:
        """How long to wait for more rows, after so many came in so many seconds: until about half of what is
        read at once is there. Reads of a few rows cost Redis and this process more than the rows do."""
        return max(self._limits.poll_s, self._limits.read_rows / 2 * seconds / max(1, rows))

    async def _execute(self, plan: BlockPlan, entries: Sequence[ActivityEntry]) -> None:
        """Insert the block of a plan that stands, and finish the plan."""
        block, unreadable = await asyncio.to_thread(block_of, entries, self._numbers)
        await self._insert(block, plan)
        if not await self._stream.finish(plan, unreadable):
            return
        self.counts.rows += block.rows
        self.counts.blocks += 1
        self.counts.unreadable += len(unreadable)
        for entry in unreadable:
            log.error("activity entry cannot be read, set aside", shard=entry.shard, id=entry.id)

    async def _insert(self, block: ActivityBlock, plan: BlockPlan) -> None:
        """Try until the store has the block. Raises _Superseded when no shard of it is ours any more, and
        Unavailable when the time to drain ends first."""
        shards, token = {part.shard for part in plan.ranges}, token_of(plan)
        backoff = Backoff(self._limits.backoff_s, self._limits.backoff_max_s)
        while True:
            if not shards & self.shards:
                raise _Superseded
            try:
                await self._store.insert(block, token)
            except (Unavailable, ConfigError) as e:
                if self._ended():
                    raise
                await self._mention(e)
                await self._pause(backoff.next())
            else:
                return

    async def _mention(self, error: Unavailable | ConfigError) -> None:
        """Log a trouble when it begins, and every `remind_s` while it lasts."""
        if self._mentioned is not None and self._now() - self._mentioned < self._limits.remind_s:
            return
        self._mentioned = self._now()
        waiting: dict[str, int] = {}
        with contextlib.suppress(Unavailable, ConfigError):
            backlog = await self._stream.backlog()
            waiting["entries_waiting"] = sum(part.entries for part in backlog)
            oldest = [part.first.ms for part in backlog if part.first]
            # For how long the oldest waits, as `status` says it.
            waiting["oldest_ms"] = max(0, self._now_us() // 1000 - min(oldest)) if oldest else 0
        log.warning("archiver cannot go on; activity waits in Redis", reason=str(error), **waiting)

    def _well(self) -> None:
        """Log that a trouble is over: no plan stands, and Redis answers."""
        if self._mentioned is not None:
            log.info("archiver works again")
            self._mentioned = None

    async def _pause(self, seconds: float) -> None:
        """Sleep. The wish to drain ends the sleep; while draining, the end of the time for it does."""
        if self._drain_until is not None:
            await asyncio.sleep(max(0.0, min(seconds, self._drain_until - self._now())))
            return
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._draining.wait(), seconds)

    def _ended(self) -> bool:
        """Whether to stop: all is archived, the time to drain is over, or others have all shards."""
        if not self._draining.is_set():
            return False
        if self._drain_until is None:
            # A store that was away before is not waited for: what is left is archived by whoever comes next.
            self._drain_until = self._now() + (0.0 if self.is_stuck else self._limits.drain_s)
        return self._emptied or not self.shards or self._now() >= self._drain_until
