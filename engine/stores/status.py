"""How much waits in each queue and stream, for operators (`GET /v1/admin/status`, `smsengine status`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from engine import redis_keys as keys
from engine.activity.ports import ActivityStream
from engine.disk_space import DiskSpace
from engine.nodes.flow import Flow
from engine.nodes.records import SeenNode
from engine.organisations import Drain, Pause
from engine.records import QUEUES, Queue
from engine.stores.backlog_ends import Behind, Shard, Waits, Way, ends_in_ms
from engine.stores.memory_status import MemoryStatus, memory_status
from engine.stores.postgres.limits import LimitBook, PausedOrganisation
from engine.stores.postgres.locks import blocker
from engine.stores.postgres.losses import losses_in_all
from engine.stores.postgres.pool import Pool
from engine.stores.postgres.routing import Routing
from engine.stores.postgres.unbooked import unbooked_in_all
from engine.stores.postgres.webhook_status import WebhookStatus, webhook_status
from engine.stores.redis.limits import line_pace
from engine.stores.redis.link import Command, RedisLink
from engine.stores.redis.lua_libraries import versioned
from engine.stores.redis.wire import ReplyError
from engine.stream_id import StreamId

_READS = 4
# So many organisations with a backlog are looked at in each shard, for the age of their oldest message.
_ORGANISATIONS_MAX = 1000
# So many organisations that are paused are named.
_PAUSED_MAX = 100
# No transaction of the engine has locks on the books for so long, seconds.
_LOCKED_S = 1.0


class QueueStatus(msgspec.Struct):
    """Messages of one queue, all shards."""

    # Messages that no worker has been given yet.
    waiting: int = 0
    # Messages given to a worker and not settled.
    in_hand: int = 0
    # Messages that are scheduled or wait for another attempt.
    due: int = 0
    # Dead letters.
    dead: int = 0
    # Of those waiting, the messages of organisations that are paused.
    paused: int = 0
    # Age of the oldest message waiting or in hand, without those that are paused, milliseconds.
    oldest_ms: int = 0


class LedgerStatus(msgspec.Struct):
    """How far the ledger has come."""

    # By how much the books are behind the usage stream in the worst shard, milliseconds.
    lag_ms: int = 0
    # A transaction that has had locks on the books for more than a second, and so perhaps holds the
    # ledger up: its process in PostgreSQL, its name, its role, since when. "" when there is none.
    held_up_by: str = ""
    # Organisations that are suspended because usage of theirs is unbooked, and the units of that usage.
    unbooked_organisations: int = 0
    unbooked_units: int = 0
    # Shards of which PostgreSQL lost usage that waits to be rebuilt.
    shards_to_rebuild: int = 0
    # Sent and not charged because Redis lost data in the last seven days: units, and messages if known.
    uncharged_units: int = 0
    uncharged_messages: int = 0


class ActivityStatus(msgspec.Struct):
    """Activity that is not in ClickHouse yet."""

    # Entries of the streams, and the age of the oldest, milliseconds.
    waiting_entries: int = 0
    oldest_ms: int = 0


class ReceiptsStatus(msgspec.Struct):
    """Receipts from providers that are not matched to their messages."""

    # Batches that the matcher has not read yet, and the age of the oldest, milliseconds.
    waiting_entries: int = 0
    oldest_ms: int = 0
    # Receipts whose message was not found yet.
    set_aside: int = 0
    # Receipts given up in the last 24 hours; None when ClickHouse does not answer.
    unmatched: int | None = None


class LatencyTarget(msgspec.Struct, frozen=True):
    """What autoscaling aims at: the part `quantile` of the messages is sent within so many milliseconds."""

    quantile: float
    at_most_ms: float


class Status(msgspec.Struct):
    """The answer to `GET /v1/admin/status`."""

    node: str
    processes: object
    # Each of these is None when a store that it is read from does not answer.
    queues: dict[str, QueueStatus] | None = None
    ledger: LedgerStatus | None = None
    memory: MemoryStatus | None = None
    activity: ActivityStatus | None = None
    receipts: ReceiptsStatus | None = None
    webhooks: WebhookStatus | None = None
    # Providers of the configuration that are paused, by name.
    paused_providers: list[str] | None = None
    # Since when and why they are, by name.
    provider_pauses: dict[str, Pause] | None = None
    # Queues that are paused, by name.
    paused_queues: dict[Queue, Pause] | None = None
    # Queues that are drained, by name.
    drained_queues: dict[Queue, Drain] | None = None
    # Organisations that are paused, the first of them by id.
    paused_organisations: list[PausedOrganisation] | None = None
    # How often providers sent something in the last 60 minutes that was not understood.
    problems_last_hour: int | None = None
    # All nodes, by name, and how fast things move on all of them together.
    nodes: list[SeenNode] | None = None
    flow: Flow | None = None
    # Of the queues that are scaled by themselves, by name.
    targets: dict[Queue, LatencyTarget] = {}
    # How far the clock of the node is ahead of that of Redis (below 0: behind), milliseconds.
    clock_ahead_ms: int = 0
    # The room on the disk of the data directory of this node, known also when no store answers.
    disk: DiskSpace | None = None
    # By what is not known, such as "ledger": a sentence that says why.
    missing: dict[str, str] = {}


class OrganisationBacklog(msgspec.Struct, frozen=True):
    """What one organisation has waiting behind the ready messages of a queue, put off or not."""

    organisation_id: int
    messages: int
    segments: int
    # Age of the oldest of them, since it was accepted, milliseconds.
    oldest_ms: int
    weight: float
    paused: bool
    # Segments of it that left the backlog in about the last ten seconds, and what part that is of all that
    # did; None when nothing did.
    segments_in_10_s: int
    share: float | None
    # When the last of them will have left, milliseconds from now: by what left lately, and what is put off by
    # what its providers take; None: nobody knows.
    ends_in_ms: int | None
    # How many of the messages are put off, because their providers take no more now.
    put_off: int = 0


class QueueBacklog(msgspec.Struct, frozen=True):
    """The answer to `GET /v1/admin/queues/{queue}`."""

    queue: Queue
    # Of all organisations, and of those that are paused.
    messages: int
    paused: int
    # Segments that left backlogs in about the last ten seconds.
    segments_in_10_s: int
    # The longest backlogs first, up to `_ORGANISATIONS_MAX`.
    organisations: list[OrganisationBacklog]
    # Messages of all organisations that are in no backlog because they are not due yet: scheduled, or to be
    # tried again.
    due: int = 0
    # Of all organisations, those of their backlogs that are put off.
    put_off: int = 0
    # None: the queue is not paused, not drained, or `missing` says why that is not known.
    pause: Pause | None = None
    drain: Drain | None = None
    missing: dict[str, str] = {}


class StatusReader:
    """Reads the status from Redis and PostgreSQL. Every call raises Unavailable."""

    def __init__(self, pool: Pool, link: RedisLink, activity: ActivityStream, shards: int) -> None:
        self._pool = pool
        self._link = link
        self._activity = activity
        self._shards = range(shards)

    async def queues(self, now_ms: int) -> dict[str, QueueStatus]:
        """The status by queue, in two round trips for all shards; `now_ms` is milliseconds since 1970."""
        return {queue: await self._queue(queue, now_ms) for queue in QUEUES}

    async def ledger(self) -> LedgerStatus:
        """How far the books are behind, in the worst shard, who has had locks on them for long, and what
        usage is not in them."""
        async with self._pool.connection() as connection:
            rows = await connection.fetch("SELECT shard, position FROM shards")
            held_up_by = await blocker(connection, _LOCKED_S)
            organisations, units = await unbooked_in_all(connection)
            to_rebuild, uncharged_units, uncharged_messages = await losses_in_all(connection)
        positions = {row["shard"]: _ms(row["position"].encode()) for row in rows}
        lasts = await self._link.batch(
            [("XREVRANGE", keys.usage_key(s), "+", "-", "COUNT", 1) for s in self._shards]
        )
        lags = [
            _ms(last[0][0]) - positions.get(shard, 0)
            for shard, last in zip(self._shards, lasts, strict=True)
            if last and not isinstance(last, ReplyError)
        ]
        return LedgerStatus(
            lag_ms=max([0, *lags]),
            held_up_by=held_up_by,
            unbooked_organisations=organisations,
            unbooked_units=units,
            shards_to_rebuild=to_rebuild,
            uncharged_units=uncharged_units,
            uncharged_messages=uncharged_messages,
        )

    async def memory(self, mark: float, now_ms: int) -> MemoryStatus:
        """How much of its memory Redis uses; from the share `mark` on it counts as full. `now_ms` is
        milliseconds since 1970."""
        waited_ms = (await self.activity(now_ms)).oldest_ms
        return await memory_status(self._link, self._shards, mark, waited_ms)

    async def paused(self, providers: Sequence[str]) -> dict[str, Pause]:
        """Those of `providers` that somebody has paused, in the order of their names."""
        pauses = await Routing(self._pool).provider_pauses()
        return {name: pause for name, pause in pauses.items() if name in providers}

    async def queue_states(self) -> tuple[dict[Queue, Pause], dict[Queue, Drain]]:
        """(the queues that somebody has paused, those that somebody drains)."""
        return await Routing(self._pool).queue_states()

    async def activity(self, now_ms: int) -> ActivityStatus:
        """The activity of all shards that is not archived; `now_ms` is milliseconds since 1970."""
        backlogs = await self._activity.backlog()
        oldest = [b.first.ms for b in backlogs if b.first]
        return ActivityStatus(
            waiting_entries=sum(b.entries for b in backlogs),
            oldest_ms=max(0, now_ms - min(oldest)) if oldest else 0,
        )

    async def receipts(self, now_ms: int) -> ReceiptsStatus:
        """The receipts of all shards, without `unmatched`; `now_ms` is milliseconds since 1970."""
        commands: list[Command] = []
        for s in self._shards:
            commands += [
                ("XLEN", keys.receipts_key(s)),
                ("ZCARD", keys.receipts_later_key(s)),
                ("FCALL_RO", versioned("receipts_first"), 1, keys.receipts_key(s)),
            ]
        replies = await self._link.batch(commands)
        oldest = [_ms(first) for first in replies[2::3] if first and not isinstance(first, ReplyError)]
        return ReceiptsStatus(
            waiting_entries=sum(replies[0::3]),
            set_aside=sum(replies[1::3]),
            oldest_ms=max(0, now_ms - min(oldest)) if oldest else 0,
        )

    async def webhooks(self) -> WebhookStatus:
        """What waits to be told to organisations, and who does not take it."""
        async with self._pool.connection() as connection:
            return await webhook_status(connection, len(self._shards))

    async def takes(self, throughputs: Mapping[str, float | None]) -> dict[str, float | None] | None:
        """The segments a second of each provider that is not paused, None without a throughput; `throughputs`
        has those of the configuration. None where it has no provider: other nodes send."""
        if not throughputs:
            return None
        plan = await Routing(self._pool).read()
        return {
            name: plan.throughput.get(name, configured)
            for name, configured in throughputs.items()
            if name not in plan.paused
        }

    async def backlog(
        self, queue: Queue, now_ms: int, takes: Mapping[str, float | None] | None = None
    ) -> QueueBacklog:
        """Who has a backlog in `queue`, in one round trip; `now_ms` is milliseconds since 1970. `takes`: what
        providers take, as the method of that name returns it; None: that is not known."""
        commands: list[Command] = [("ZCARD", keys.due_key(s, queue)) for s in self._shards]
        found = await self._link.batch(commands + [_backlog(queue, s) for s in self._shards])
        due, replies = sum(found[: len(commands)]), found[len(commands) :]
        replies = [reply for reply in replies if not isinstance(reply, ReplyError)]
        messages, paused, moved, put_off = (sum(reply[i] for reply in replies) for i in (0, 1, 2, 6))
        paused += sum(_paused_off(row) for reply in replies for row in reply[3])
        ends = ends_in_ms([_shard(reply) for reply in replies], takes)
        rows = [_organisation(row, moved, now_ms, ends) for reply in replies for row in reply[3]]
        rows.sort(key=lambda o: (-o.messages, o.organisation_id))
        return QueueBacklog(queue, messages, paused, moved, rows[:_ORGANISATIONS_MAX], due, put_off)

    async def paused_organisations(self) -> list[PausedOrganisation]:
        """Those that are paused, the first by id."""
        return await LimitBook(self._pool).paused(_PAUSED_MAX)

    async def _queue(self, queue: Queue, now_ms: int) -> QueueStatus:
        commands: list[Command] = []
        for s in self._shards:
            commands += [
                ("XRANGE", keys.queue_key(s, queue), "-", "+", "COUNT", 1),
                ("ZCARD", keys.due_key(s, queue)),
                ("XLEN", keys.dead_key(s, queue)),
                _backlog(queue, s),
            ]
        replies = await self._link.batch(commands)
        status = QueueStatus()
        for at in range(0, len(replies), _READS):
            first, due, dead, line = replies[at : at + _READS]
            nothing: tuple[Any, ...] = (0, 0, 0, [], 0, 0)
            behind, parked, _, lists, in_hand, unread = nothing if isinstance(line, ReplyError) else line[:6]
            status.in_hand += in_hand
            status.waiting += unread + behind
            status.paused += parked
            status.due += due
            status.dead += dead
            if first:
                status.oldest_ms = max(status.oldest_ms, now_ms - _ms(first[0][0]))
            for row in lists:
                status.paused += _paused_off(row)
                _, _, _, oldest_us, _, _, is_paused, *_ = row
                if not is_paused:
                    status.oldest_ms = max(status.oldest_ms, now_ms - oldest_us // 1000)
        return status


def _paused_off(row: Sequence[Any]) -> int:
    """The messages of one row of `backlog` that are put off, and of an organisation that is paused: what
    `backlog` says of those that are paused is without them. Of each shard it has a thousand paused ones."""
    is_paused, put_off = row[6:8]
    return int(put_off) if is_paused else 0


def _organisation(
    row: Sequence[Any], moved_of_all: int, now_ms: int, ends: Mapping[int, int | None]
) -> OrganisationBacklog:
    """One row of `backlog` in functions/queue; `moved_of_all`: segments that left all backlogs lately."""
    organisation_id, messages, segments, oldest_us, moved, weight, paused, put_off, *_ = row
    return OrganisationBacklog(
        organisation_id,
        messages,
        segments,
        max(0, now_ms - oldest_us // 1000),
        float(weight),
        bool(paused),
        moved,
        share=round(moved / moved_of_all, 4) if moved_of_all else None,
        ends_in_ms=ends[organisation_id],
        put_off=put_off,
    )


def _shard(reply: Sequence[Any]) -> Shard:
    """What `backlog` in functions/queue replies of a shard, for `ends_in_ms`."""
    waits = [
        Waits(
            organisation_id, float(weight), bool(paused), messages, segments, turned, off,
            {number: (count, of_way) for number, count, of_way in zip(*[iter(flat)] * 3, strict=True)},
        )
        for organisation_id, messages, segments, _, _, weight, paused, _, turned, off, flat in reply[3]
    ]  # fmt: skip
    ways = [
        Way(number, text.decode(), messages, float(weight), moved)
        for number, text, messages, weight, moved in reply[7]
    ]
    messages, *pace = reply[8]
    return Shard(waits, ways, Behind(messages, line_pace(pace)))


def _backlog(queue: Queue, shard: int) -> Command:
    """Reply as `backlog` in functions/queue says."""
    touched = (*keys.line_keys(shard, queue), keys.limits_key(shard), keys.ways_key(shard, queue))
    return ("FCALL_RO", versioned("backlog"), len(touched), *touched, _ORGANISATIONS_MAX)


def _ms(entry_id: bytes) -> int:
    return StreamId.parse(entry_id).ms
