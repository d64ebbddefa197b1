"""One consistent cut of the books, the streams and the activity, judged by `engine.credit.laws`.

The books come first: a snapshot of PostgreSQL with the applied positions. Right after it each
shard of Redis is read at one instant, from its position on. The ledger keeps applied usage on the
stream for some seconds only; when an entry after a position is gone nevertheless, both are
read again. After that there is no hurry: accounts are read from the snapshot shard by shard, and
the activity of that shard up to the first entry that was still on the stream at its instant.

The audit runs in a process that serves requests. So it leaves the sums to the databases, reads rows
in small chunks, and pauses between them for longer than a chunk takes. One command to Redis takes a
few milliseconds at most. Where many messages wait, they are counted beside all this (`audit_queues`).

Under failure. A small question finds out within seconds that a store is away. The laws that need
it are then `not_checked`, and all others are checked. When a store freezes in the middle, the audit
ends at its deadline, and what was judged by then stays. Canceled, because its caller has gone, or
killed: see `audit_books`; the next one has its turn. Two audits at once: one goes on, the others wait;
all that came while one waited get its result.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import msgspec

from engine.credit.law_texts import Law
from engine.credit.laws import Audit, Laws, Units, units_of_usage
from engine.credit.uncharged import Uncharged, uncharged_of
from engine.errors import ConfigError, Unavailable
from engine.stores.audit_findings import (
    EVENTS_GONE,
    GONE_DO,
    ShardFindings,
    ShardLacks,
    joined,
    not_comparable,
    sentence_of,
)
from engine.stores.audit_queues import judge_queues
from engine.stores.clickhouse.lost_time import LostTime
from engine.stores.ports import ActivityUnits
from engine.stores.postgres.audit_books import AuditBooks, ShardBooks, name_of, under_way
from engine.stores.redis.audit_cut import Instant, end_of, instant_of, is_settled, since_of
from engine.stores.redis.link import RedisLink
from engine.stores.redis.wire import ReplyError

# A store that does not answer a small question within this time is away, seconds.
_AWAY_S = 5.0
_TRIES = 5
_PAUSE_S = 0.2
_BREATH_S = 0.002
# The share of the time left that may be spent waiting for another audit, or on one sum of activity.
_SHARE = 0.5
_BOOKS: tuple[Law, ...] = ("conservation", "quotas", "journal", "held", "activity", "checkpoints", "unbooked")
_REDIS: tuple[Law, ...] = ("held", "queues", "activity")
_SEE_POSTGRES = "See to it that PostgreSQL answers (`smsengine check`), then run the audit again."


class AuditReader:
    """Runs the audits of one process. Each has a connection of its own to PostgreSQL."""

    def __init__(self, postgres_url: str, link: RedisLink, activity: ActivityUnits, shards: int) -> None:
        """`link` must serve nothing else, because an answer on it may take seconds."""
        self._postgres_url = postgres_url
        self._link = link
        self._activity = activity
        self._shards = shards
        self._token = uuid.uuid4().hex
        self._turn = asyncio.Lock()
        # A sentence without its end about the audit that has the turn.
        self._under_way = ""
        # When the last one began, whether it was full, and what it found.
        self._last: tuple[float, bool, Audit] | None = None

    async def audit(self, *, full: bool = False, timeout_s: float = 120.0) -> Audit:
        """Judge all laws, and once a day write checkpoints of the shards that are clean.

        `full`: sum everything, without the checkpoints. The audit ends after `timeout_s` seconds; laws
        not judged by then are `not_checked`. Raises Unavailable when neither PostgreSQL nor Redis
        could be read, or another audit has not ended within `timeout_s`.
        """
        now_s = asyncio.get_running_loop().time
        asked_s = now_s()
        async with self._own_turn(timeout_s):
            if self._last is not None and self._last[0] >= asked_s and self._last[1] == full:
                return self._last[2]
            began_s = now_s()
            found, _ = await self._run(full, asked_s + timeout_s)
            self._last = began_s, full, found
            return found

    async def lacking(self, timeout_s: float = 120.0) -> tuple[Audit, dict[int, ShardLacks]]:
        """An audit, and by shard what its books lack where PostgreSQL lost usage that waits to be rebuilt.

        A shard is left out when that cannot be told; the laws `held` and `activity` then say why. Raises
        Unavailable as `audit`.
        """
        asked_s = asyncio.get_running_loop().time()
        async with self._own_turn(timeout_s):
            return await self._run(False, asked_s + timeout_s)

    @asynccontextmanager
    async def _own_turn(self, timeout_s: float) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(timeout_s):
                await self._turn.acquire()
        except TimeoutError as e:
            raise Unavailable(f"A{self._under_way[1:]}.", 5.0) from e
        try:
            yield
        finally:
            self._turn.release()

    async def _run(self, full: bool, ends_s: float) -> tuple[Audit, dict[int, ShardLacks]]:
        now_s = asyncio.get_running_loop().time
        began_s = now_s()
        ends = datetime.now(UTC) + timedelta(seconds=ends_s - began_s)
        self._under_way = under_way(datetime.now(UTC), name_of(ends))
        run = _Run(self._link, self._activity, self._shards, full, ends_s, self._token)
        found = await run.audit(self._postgres_url)
        return msgspec.structs.replace(found, seconds=round(now_s() - began_s, 3)), run.lacking


class _Run:
    """One audit, from beginning to end."""

    def __init__(
        self,
        link: RedisLink,
        activity: ActivityUnits,
        shards: int,
        full: bool,
        ends_s: float,
        token: str,
    ) -> None:
        """`ends_s`: when it must end, by the loop's clock. `token`: of this process, see `recount`."""
        self._link = link
        self._activity = activity
        self._full = full
        self._ends_s = ends_s
        self._token = token
        self._laws = Laws()
        self._books: AuditBooks | None = None
        self._shards: dict[int, ShardBooks] = {shard: ShardBooks() for shard in range(shards)}
        self._instants: dict[int, Instant] = {}
        # None: not asked yet.
        self._activity_here: bool | None = None
        # From which time of the streams on all events are kept; None: not asked yet.
        self._complete_from_ms: int | None = None
        # Whether PostgreSQL or Redis has answered.
        self._seen = False
        self._journal_rows = self._activity_rows = self._closed = self._uncharged = 0
        self._uncharged_messages = 0
        self.lacking: dict[int, ShardLacks] = {}

    async def audit(self, postgres_url: str) -> Audit:
        """The result. Raises Unavailable when neither PostgreSQL nor Redis could be read."""
        try:
            await self._open(postgres_url)
            await self._look()
            async with asyncio.TaskGroup() as both:
                both.create_task(self._judge())
                cuts = [instant.cut for instant in self._instants.values()]
                both.create_task(judge_queues(self._laws, self._link, cuts, self._token, self._ends_s))
        finally:
            self._drop_books()
        found = self._laws.result(
            full=self._full, journal_rows=self._journal_rows,
            activity_rows=self._activity_rows, closed_shards=self._closed, uncharged_units=self._uncharged,
            uncharged_messages=self._uncharged_messages,
        )  # fmt: skip
        if not self._seen:
            raise Unavailable(" ".join(self._laws.whys()), 5.0)
        return found

    def _left_s(self) -> float:
        return max(0.01, self._ends_s - asyncio.get_running_loop().time())

    def _without_books(self, why: str, do: str) -> None:
        self._drop_books()
        self._laws.not_checked(_BOOKS, why, do)

    async def _open(self, postgres_url: str) -> None:
        try:
            left_s = self._left_s()
            self._books = await AuditBooks.connect(postgres_url, min(_AWAY_S, left_s), left_s)
            if other := await self._books.take_turn(self._left_s() * _SHARE):
                self._without_books(f"{other}.", "Run the audit again when the other one has ended.")
        except Unavailable as e:
            self._without_books(e.detail, _SEE_POSTGRES)

    def _drop_books(self) -> None:
        if self._books is not None:
            self._books.close()
            self._books = None

    async def _look(self) -> None:
        """Take a snapshot of the books and then each shard's instant, until they fit together."""
        for attempt in range(_TRIES):
            if attempt:
                await asyncio.sleep(_PAUSE_S)
            await self._snapshot()
            try:
                for shard, books in self._shards.items():
                    mark = books.mark if self._books is not None else None
                    self._instants[shard] = await instant_of(
                        self._link, shard, mark, min(_AWAY_S, self._left_s())
                    )
            except (Unavailable, ReplyError, ConfigError) as e:
                self._instants = {}
                why = f"Redis cannot be asked: {sentence_of(e)}"
                do = "See to it that Redis answers (`smsengine check`), then run the audit again."
                self._laws.not_checked(_REDIS, why, do)
                return
            self._seen = True
            if all(instant.whole for instant in self._instants.values()):
                return

    async def _snapshot(self) -> None:
        if self._books is None:
            return
        try:
            async with asyncio.timeout(min(_AWAY_S, self._left_s())):
                self._shards = self._shards | await self._books.begin()
                self._seen = True
        except (Unavailable, TimeoutError) as e:
            why = e.detail if isinstance(e, Unavailable) else f"PostgreSQL gives no answer in {_AWAY_S:g} s."
            self._without_books(why, _SEE_POSTGRES)

    async def _judge(self) -> None:
        """Judge all shards, one after another; those not reached before the deadline are not checked."""
        if self._books is None:
            for instant in self._instants.values():
                self._laws.instant(instant.cut, with_books=False)
            return
        left = list(self._shards)
        try:
            async with asyncio.timeout_at(self._ends_s):
                await self._books.prepare(full=self._full)
                while left:
                    await self._judge_shard(self._books, left[0], self._shards[left[0]])
                    del left[0]
                self._uncharged_messages = await self._books.uncharged_messages()
                await self._books.commit()
        except TimeoutError:
            do = "Run it again with more time: `smsengine audit --timeout SECONDS`."
            self._give_up(left, "the time was over before.", do)
        except Unavailable as e:
            self._give_up(left, e.detail, _SEE_POSTGRES)

    def _give_up(self, left: Sequence[int], why: str, do: str) -> None:
        """End early: the shards in `left` could not be judged, the first of them in part."""
        self._drop_books()
        for place, shard in enumerate(left):
            verified = place == 0 or self._shards[shard].checkpoint is None
            self._laws.not_checked(
                [law for law in _BOOKS if not verified or law != "checkpoints"], why, do, shard
            )
            if shard in self._instants:
                self._laws.instant(self._instants[shard].cut, with_books=False)

    async def _judge_shard(self, books: AuditBooks, shard: int, of: ShardBooks) -> None:
        instant = self._instants.get(shard)
        last = of.checkpoint
        if last is not None:
            self._laws.checkpoint(shard, await books.sound(shard, last))
        archived = await self._archived(shard, of, instant)
        # After a loss since the last checkpoint, events and books cannot be compared. A new checkpoint
        # takes up their difference.
        known_losses = 0 if last is None or self._full else last.losses
        comparable = of.losses == known_losses
        if archived is not None and not comparable:
            why, do = not_comparable(of.to_rebuild, self._full)
            self._laws.not_checked(("activity",), why, do, shard)
        unbooked = await books.unbooked(shard)
        ahead = joined(unbooked, units_of_usage(instant.cut.usage) if instant is not None else {})
        events = None if archived is None or instant is None else joined(archived, instant.waiting or {})
        findings = ShardFindings(archived, events, ahead, comparable=comparable, full=self._full)
        strangers = set(events or ())
        organisations, units = await books.totals(shard)
        judged = events if comparable else None
        self._laws.shard(shard, organisations, units, with_events=judged is not None)
        async for chunk in books.accounts(shard, strangers.union(ahead)):
            self._laws.accounts([standing.account for standing in chunk], judged, ahead)
            self._journal_rows += sum(standing.rows for standing in chunk)
            for standing in chunk:
                findings.add(standing)
                strangers.discard(standing.account.organisation_id)
            # Let requests run for longer than the chunk took.
            await asyncio.sleep(_BREATH_S)
        self._uncharged += findings.uncharged_units
        self._laws.unbooked(shard, unbooked)
        if comparable:
            self._laws.strangers(shard, strangers - unbooked.keys())
        if instant is not None:
            self._laws.instant(instant.cut, with_books=instant.whole and not of.unclosed)
        if events is not None and instant is not None:
            await self._conclude(books, shard, of, instant, findings, strangers)

    async def _conclude(
        self,
        books: AuditBooks,
        shard: int,
        of: ShardBooks,
        instant: Instant,
        findings: ShardFindings,
        strangers: set[int],
    ) -> None:
        """Close the past of a shard that was judged, or note what its books lack."""
        if of.to_rebuild:
            # A checkpoint would take up what can still be rebuilt.
            first = instant.first if instant.waiting else None
            losses = tuple(loss for loss in of.losses_open if loss.of_books)
            lacking = [*findings.lacking, *findings.strangers(strangers)]
            self.lacking[shard] = ShardLacks(losses, lacking, findings.comparable, first and first.ms)
        elif books.due(of) and is_settled(of, instant) and self._laws.holds_in(shard):
            stream = end_of(of, instant, since_of(of, self._full))
            uncharged = await self._uncharged_by(shard, of, findings) if of.losses_open else None
            await books.close_shard(shard, of, stream, findings.sums, uncharged)
            self._closed += 1

    async def _uncharged_by(self, shard: int, of: ShardBooks, findings: ShardFindings) -> Uncharged:
        """What losses of Redis have left uncharged in a shard whose difference is taken up now."""
        since_ms = min(loss.from_ms for loss in of.losses_open)
        until_ms = max(loss.until_ms for loss in of.losses_open)
        try:
            lost = await LostTime(self._activity).lost(shard, since_ms, until_ms, self._left_s() * _SHARE)
        except (Unavailable, ConfigError):
            # The units are known without.
            lost = None
        return uncharged_of(findings.newly_uncharged, lost)

    async def _archived(self, shard: int, of: ShardBooks, instant: Instant | None) -> dict[int, Units] | None:
        """{organisation: units} of a shard's events archived after its checkpoint.

        None when it cannot be known; then the laws are marked with the reason.
        """
        if instant is None:
            return None
        if of.unclosed:
            why = f"accounts were locked when the books of the shard were closed: {of.unclosed} wait for it."
            do = "See who has locked them (`smsengine status`), end that transaction, then run it again."
            self._laws.not_checked(("held", "activity"), why, do, shard)
            return None
        if not instant.whole:
            why = "Redis does not go on where the books are, or they are far behind."
            do = "See to it that a ledger leads (`smsengine status`), then run the audit again."
            self._laws.not_checked(("held", "activity"), why, do, shard)
            return None
        if instant.waiting is None:
            why = "more activity waits for the archiver than can be counted at one instant."
            do = "See to it that ClickHouse and an archiver work (`smsengine status`), then run it again."
            self._laws.not_checked(("activity",), why, do, shard)
            return None
        if self._activity_here is False:
            return None
        since = since_of(of, self._full)
        end = end_of(of, instant, since)
        try:
            # Ask also when nothing is new, so that the result does not depend on it.
            if self._activity_here is None:
                await self._activity.ping(min(_AWAY_S, self._left_s()))
                self._activity_here = True
            if end <= since:
                return {}
            if self._complete_from_ms is None:
                lost = LostTime(self._activity)
                self._complete_from_ms = await lost.complete_from_ms(min(_AWAY_S, self._left_s()))
            if since.ms < self._complete_from_ms:
                self._laws.not_checked(("activity",), EVENTS_GONE, GONE_DO, shard)
                return None
            units, rows = await self._activity.units_between(shard, since, end, self._left_s() * _SHARE)
        except (Unavailable, ConfigError) as e:
            self._activity_here = False
            do = "See to it that ClickHouse answers (`smsengine check`), then run the audit again."
            self._laws.not_checked(("activity",), sentence_of(e), do)
            return None
        self._activity_rows += rows
        return units
