"""Service: from the activity of a notifier's shards to deliveries, each event at least once.

    1 read     rows of activity and queued events, behind the place that was read last. What the archiver has
               moved to ClickHouse meanwhile is read there
    2 offer    the deliveries of those that an endpoint or a callback URL is told of
    (`engine.webhooks.sender`) 3 settle   when all deliveries of a read, and of those before it, were made or
    are kept in PostgreSQL, its place
               is noted in Redis

Nothing is written for an event that is delivered at the first attempt, and nothing at all for organisations
that are told of nothing.

    killed at any step     the next owner of the shard reads from the place that was noted: what was
    delivered since
                           is delivered again, with the same ids. That is some seconds at most
    frozen                 the same; `settle` then says that the shard is another's
    Redis away             nothing is read; what is in hand goes on
    PostgreSQL away        what succeeds at once goes on; with `IN_HAND_MAX` deliveries to be kept nothing is
    read
                           any more, and events wait in Redis and ClickHouse
    ClickHouse away        only a shard whose rows have gone there unread waits for it
    no notifier for a day  the archiver does not wait: the rows are in ClickHouse, and are read there
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

import msgspec
import structlog

from engine.clocks.waits import happens, next_tick, until_tick_ms
from engine.errors import ConfigError, Unavailable
from engine.shards import shard_of
from engine.stream_id import StreamId
from engine.webhooks.endpoint_table import EndpointTable
from engine.webhooks.keeper import Keeper
from engine.webhooks.made import MadeDeliveries
from engine.webhooks.ports import ActivityLog, DeliveryBook, FoundEntry, Settled, WebhookStreams
from engine.webhooks.read_pace import ReadPace
from engine.webhooks.reading import deliveries_of, events_in, events_of_rows, may_concern, rows_in, rows_of
from engine.webhooks.records import Delivery, ReadPart, WebhookEvent
from engine.webhooks.retries import RETRY_S, Retries
from engine.webhooks.sender import Sender
from engine.webhooks.shares import OwnShard, Shares

log = structlog.get_logger("notifier")

# With so many deliveries in hand nothing more is read.
IN_HAND_MAX = 20_000
# With so many of one shard in hand that shard is not read: others are.
SHARD_MAX = 4_000
# With so many in line the next read waits until there are fewer. What has waited for `sender.WAIT_S` is
# kept, so that takes no longer.
_WAITING_MAX = 1_000
# About how long a read waits for something to come, seconds: usually, and when a shard is left out.
_IDLE_S, _BUSY_S = 2.0, 0.1
_SETTLE_S = 0.2
_MORE_S = 0.1
_SWEEP_S = 0.5
_PAUSE_S = 1.0


class NotifierCounts(msgspec.Struct):
    """Events that somebody is told of, and those of them that were read in ClickHouse."""

    events: int = 0
    caught_up: int = 0


class NotifierStores(NamedTuple):
    """Where a notifier reads and keeps."""

    streams: WebhookStreams
    activity: ActivityLog
    book: DeliveryBook


class Notifier:
    """One notifier; see the module."""

    def __init__(
        self,
        stores: NotifierStores,
        table: EndpointTable,
        sender: Sender,
        keeper: Keeper,
        made: MadeDeliveries,
        shares: Shares,
        *,
        name: str,
        shards: int,
        now_us: Callable[[], int],
        retry_s: float = RETRY_S,
        drain_s: float = 15.0,
    ) -> None:
        """`name` is unique per process incarnation. `now_us`: the stores' time, µs since 1970. `retry_s`:
        how often what is kept is looked at. `drain_s`: how long what is in flight may take at the end. Both
        in seconds."""
        self._streams, self._activity, self._book = stores
        self._table = table
        self._sender = sender
        self._keeper = keeper
        self._made = made
        self._shares = shares
        self._name = name
        self._shards = shards
        self._now_us = now_us
        self._drain_s = drain_s
        self._draining = asyncio.Event()
        self._has_read = asyncio.Event()
        self._pace = ReadPace()
        # How many rows the last read brought.
        self._rows = 0
        self.counts = NotifierCounts()
        self.retries = Retries(
            self._book, sender, shares, has_room=lambda: self.in_hand < IN_HAND_MAX, retry_s=retry_s
        )

    @property
    def shards(self) -> list[int]:
        """The shards that it reads now."""
        return list(self._shares.reading())

    @property
    def in_hand(self) -> int:
        """Deliveries in memory."""
        return self._sender.in_hand + self._keeper.pending

    @property
    def lag_s(self) -> float:
        """Age of the oldest event that was read and is not settled, seconds; 0: there is none."""
        oldest = min(
            (int(part.activity.partition("-")[0]) for own in self._shares.shards.values() for part in
             list(own.parts)[:1] if part.activity), default=0,
        )  # fmt: skip
        return max(0.0, self._now_us() / 1e6 - oldest / 1000) if oldest else 0.0

    async def run(self, draining: asyncio.Event) -> None:
        """Notify until `draining` is set, then end what is in flight and give the shards back."""
        self._draining = draining
        loops = [
            self._keeper.run(), self._shares.run(), self._table.run(), self._read_on(), self._settle_on(),
            self.retries.run(), self._sweep_on(), self.retries.tidy(), self._made.run(),
        ]  # fmt: skip
        async with asyncio.TaskGroup() as group:
            running = [group.create_task(loop) for loop in loops]
            await draining.wait()
            for task in running[3:]:
                task.cancel()
            with contextlib.suppress(Unavailable, ConfigError, TimeoutError):
                await self._end()
            for task in running:
                task.cancel()

    async def _end(self) -> None:
        """Wait for what is in flight, keep the rest, and give the shards back."""
        async with asyncio.timeout(self._drain_s):
            self._sender.give_back()
            while self._sender.in_flight:  # noqa: ASYNC110 - once, at the end
                await asyncio.sleep(0.02)
            await self._keeper.written()
            await self._settle()
            await self._made.flush()
        await self._shares.leave()

    # -- reading

    async def _read_on(self) -> None:
        while True:
            try:
                if not self._shares.reading():
                    self._shares.some.clear()
                    await happens(self._shares.some, _PAUSE_S)
                    continue
                before = self.counts.events
                if self.in_hand >= IN_HAND_MAX or not await self._read():
                    await asyncio.sleep(_MORE_S)
                    continue
                pause_s = self._pace.after(
                    self._rows,
                    has_events=self.counts.events != before,
                    has_endpoints=bool(self._table.organisations),
                )
                if pause_s:
                    await asyncio.sleep(pause_s)
                else:
                    await self._breathe()
            except (Unavailable, ConfigError) as e:
                log.warning("notifier cannot read; events wait", reason=str(e))
                await asyncio.sleep(_PAUSE_S)

    async def _breathe(self) -> None:
        """Let endpoints take what was read, so that a backlog is not kept in PostgreSQL for being read
        quickly."""
        while self._sender.waiting > _WAITING_MAX:  # noqa: ASYNC110 - no signal for each delivery
            await asyncio.sleep(0.01)

    async def _read(self) -> bool:
        """Read once; whether there was a shard to read."""
        now_s = asyncio.get_running_loop().time()
        reading = self._shares.reading()
        owned = {s: own for s, own in reading.items() if own.paused_until_s <= now_s and own.open < SHARD_MAX}
        if not owned:
            return False
        places = {s: own.read for s, own in owned.items()}
        idle_ms = until_tick_ms(_IDLE_S if len(owned) == len(reading) else _BUSY_S)
        found, trimmed = await self._streams.read(places, self._pace.entries, idle_ms)
        self._rows = sum(map(rows_of, found))
        by_shard: dict[int, list[FoundEntry]] = {}
        for entry in found:
            by_shard.setdefault(entry.shard, []).append(entry)
        for shard, own in owned.items():
            if self._shares.shards.get(shard) is not own:
                continue
            entries = by_shard.get(shard, [])
            try:
                await self._catch_up(own, entries, trimmed[shard])
                if entries:
                    await self._take(own, entries)
            except (Unavailable, ConfigError) as e:
                log.warning("notifier cannot read a shard; its events wait", shard=shard, reason=str(e))
                own.paused_until_s = now_s + 5 * _PAUSE_S
        return True

    async def _take(self, own: OwnShard, entries: Sequence[FoundEntry]) -> None:
        rows, events = list[tuple[StreamId, list[object]]](), list[WebhookEvent]()
        activity, queued = own.read
        concerned = [o for o in self._table.organisations if shard_of(o, self._shards) == own.shard]
        for entry in entries:
            if not entry.activity:
                queued = entry.id
                events += events_in(entry.blob)
                continue
            activity = entry.id
            if may_concern(entry.blob, endpoints=bool(concerned)):
                rows += [(entry.id, row) for row in rows_in(entry.blob)]
        events += events_of_rows(rows, concerned)
        await self._offer(own, events, Settled(activity, queued))

    async def _catch_up(self, own: OwnShard, entries: Sequence[FoundEntry], trimmed: StreamId) -> None:
        """Read in ClickHouse what the archiver moved there before it was read here."""
        if trimmed <= own.read.activity.next:
            return
        before = min([trimmed, *(entry.id for entry in entries if entry.activity)])
        concerned = [o for o in self._table.organisations if shard_of(o, self._shards) == own.shard]
        after: StreamId | None = own.read.activity
        while after is not None and after.next < before:
            rows, after = await self._activity.rows_between(own.shard, after, before, concerned)
            events = events_of_rows(rows, concerned)
            self.counts.caught_up += len(events)
            if events:
                last = after or StreamId(before.ms, before.sequence - 1) if before.sequence else rows[-1][0]
                await self._offer(own, events, own.read._replace(activity=last))
            while self.in_hand >= IN_HAND_MAX:  # noqa: ASYNC110 - no signal for each delivery
                await asyncio.sleep(_MORE_S)
        if before.sequence:
            own.read = own.read._replace(
                activity=max(own.read.activity, StreamId(before.ms, before.sequence - 1))
            )

    async def _offer(self, own: OwnShard, events: Sequence[WebhookEvent], read: Settled) -> None:
        """Offer the deliveries of events; then the shard is read as far as `read`. Raises Unavailable, and
        then nothing was offered."""
        if any(event.endpoint_id and self._table.endpoint(event.endpoint_id) is None for event in events):
            # It was made a moment ago, or is removed.
            await self._table.refresh()
        callbacks = {
            event.organisation_id: await self._table.callback_endpoint(event.organisation_id)
            for event in events
            if event.callback_url
        }
        part = ReadPart(own.shard, *_changed(own.read, read))
        deliveries = list[Delivery]()
        for event in events:
            of_event = deliveries_of(
                event,
                own.shard,
                self._table.of(event.organisation_id),
                callbacks.get(event.organisation_id) if event.callback_url else None,
            )
            self.counts.events += bool(of_event)
            deliveries += of_event
        part.open = len(deliveries)
        own.read = read
        own.parts.append(part)
        self._has_read.set()
        for delivery in deliveries:
            delivery.part = part
            self._sender.offer(delivery)

    # -- settling

    async def _settle_on(self) -> None:
        while True:
            await self._has_read.wait()
            await asyncio.sleep(_SETTLE_S)
            try:
                await self._settle()
            except Unavailable as e:
                log.warning("notifier cannot note what is settled", reason=str(e))
                await asyncio.sleep(_PAUSE_S)

    async def _settle(self) -> None:
        """Note how far each shard is settled. Raises Unavailable; then it is noted the next time."""
        owned = self._shares.shards
        settled = {shard: own.to_note for shard, own in owned.items() if own.settle()}
        if settled:
            lost = await self._streams.settle(self._name, settled)
            for shard, noted in settled.items():
                if shard in owned and owned[shard].to_note == noted:
                    owned[shard].to_note = ("", "")
            self._shares.lose(lost)
        if not any(own.parts or any(own.to_note) for own in owned.values()):
            self._has_read.clear()

    async def _sweep_on(self) -> None:
        while True:
            await next_tick(_SWEEP_S)
            self._sender.sweep()


def _changed(before: Settled, after: Settled) -> tuple[str, str]:
    return (
        str(after.activity) if after.activity != before.activity else "",
        str(after.events) if after.events != before.events else "",
    )
