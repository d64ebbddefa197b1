"""A worker's side of the queue streams in Redis (`engine.delivery.ports.QueueReader`).

Every entry that a worker has been given is in the stream's pending list under the
worker's name until its messages are settled. Redis keeps that list, so it survives this process.
Which messages of a bundle are settled is noted beside it (`settle` in functions/queue).
What happens when an answer does not come, or this process dies or freezes:

read       The entries are pending under our name, but we have never seen them. The next
           `read` looks through the pending list for entries that are not in hand; not of shards
           that another read asks, because what that is given would count as lost.
settle     Nobody knows whether it counted. Sent again, it counts what was not counted.
promote    Messages that came into the queue are there. What is left comes with the next call.
take_over  As for `read`.
killed     The name is fenced; the other workers take its entries over at once.
frozen     They take them over after `min_idle_ms`. The first settlement of an entry counts.

A message that this version cannot read is no dead letter: a newer one may have written it. It waits on
the due set, is tried again every UNREAD_S by whoever reads it, and is logged each time.

One command to one Redis reads all shards, and one asks where there is something to sweep. A Redis Cluster
would need one link and one command for each node, in `reads.py` and `_all`.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

from structlog.typing import FilteringBoundLogger

from engine import bundle_format
from engine.clocks.store_clock import wall_us
from engine.delivery.ports import Apart
from engine.delivery.sent import SentEntries
from engine.errors import Unavailable
from engine.records import Entry, Queue, Settlement
from engine.stores.redis import queue_wire as wire
from engine.stores.redis import settle_wire
from engine.stores.redis.backlog import Backlog
from engine.stores.redis.in_hand import HeldEntries
from engine.stores.redis.link import Command, RedisLink
from engine.stores.redis.pulse import Pulse, pulsed, readable
from engine.stores.redis.put_off import PutOffEntries
from engine.stores.redis.reads import Answer, ReadLinks, Reads
from engine.stores.redis.replicas import Copies
from engine.stores.redis.unread import UnreadEntries
from engine.stores.redis.visits import is_visited
from engine.stores.redis.wire import ReplyError

# Pending entries that one command lists while we look for lost ones.
_PAGE = 500
# How long an entry that could not be read waits for somebody who can, seconds.
UNREAD_S = 30.0
# How many unread messages each stream shall hold, as long as nobody says; as in functions/queue.
MARK = 128
# A mark that no stream reaches, so that nothing goes to a list.
_NO_LISTS = 1 << 30
# How often a shard is asked in one search for what dead workers left, as long as it has more.
_CLAIMS = 4


class QueueStreams:
    """The port `QueueReader`: one queue, all shards, as the consumer `worker_name`.

    Every call raises Unavailable.
    """

    def __init__(
        self,
        commands: RedisLink,
        reading: RedisLink,
        *,
        queue: Queue,
        shards: int,
        worker_name: str,
        timeout_s: float,
        log: FilteringBoundLogger,
        pulse: Pulse | None = None,
        accepted_on: int = 1,
        beside: RedisLink | None = None,
    ) -> None:
        """`reading` blocks, so nobody else may use it; its answers may take the block and `timeout_s`.
        `beside` blocks too; None: shards where nobody waits are always read with those that have a backlog.

        `worker_name` is unique for each incarnation and never used again. `pulse` goes with
        joining, and with each heartbeat. `accepted_on`: on how many machines a message must be to be sent.
        """
        self._commands = commands
        self.queue: Queue = queue
        self._shards = range(shards)
        self._name = worker_name
        self._timeout_s = timeout_s
        self._log = log
        self._pulse = pulse
        self._now_us = wall_us if pulse is None else pulse.clock.now_us
        self._hand = HeldEntries(shards)
        now_us = self._now_us
        self._copies = Copies(reading, worker_name, accepted_on, timeout_s=timeout_s, now_us=now_us, log=log)
        self._room = partial(_room, self)
        self.unread = UnreadEntries(queue, self._shards, worker_name, self._all, self._room)
        # See the port.
        self.ready_max, self.moment, self.reads_aside, self.more, self.apart = MARK, 1, False, False, Apart()
        self.took_s: float | None = None
        self.next_due_us: int | None = None
        self._bundle = 1.0  # How many messages an entry had, on average, in the last read that gave any.
        self._backlog = Backlog()
        self.put_off = PutOffEntries(queue, self._all, self._room, self._backlog.note, pulse)
        self._reads = Reads(
            ReadLinks(commands, reading, beside), self._backlog, self._shards, queue, worker_name,
            timeout_s=timeout_s, mended=self._mended, room=self._room,
        )  # fmt: skip
        self._lost = False  # Whether there may be pending entries of ours that are not in hand.

    async def join(self) -> None:
        """Make the consumer groups and register this worker.

        The other workers take over the entries of one that is not registered at once.
        """
        await self.ensure_groups()
        await self._all([wire.register(self._name, shard) for shard in self._shards], self._pulse)

    async def ensure_groups(self) -> None:
        """Make the consumer groups that are missing. Raises Unavailable."""
        for reply in await self._commands.batch([wire.make_group(self.queue, s) for s in self._shards]):
            if isinstance(reply, ReplyError):
                raise Unavailable(f"Redis does not make the consumer group: {reply}.") from reply

    async def beat(self) -> None:
        """Show that this worker lives; where it was fenced, register again."""
        alive = await self._all([wire.beat(self._name, shard) for shard in self._shards], self._pulse)
        fenced = [shard for shard in self._shards if not alive[shard]]
        if fenced:
            self._log.warning("worker was fenced, joining again", queue=self.queue, shards=fenced)
            await self._all([wire.register(self._name, shard) for shard in fenced])

    async def read(self, count: int, block_ms: int) -> list[Entry]:
        """About `count` new messages, waiting `block_ms` for the first: `count` and one more for each shard
        where each has an entry of its own, more where bundles come that are larger than those before.

        After an answer was lost it first gives the messages that were in it. Canceled: as if its
        answer was lost.
        """
        try:
            if self._lost:
                # Before anything newer of their shards is read.
                asked = self._reads.asked
                free = [shard for shard in self._shards if shard not in asked]
                self._lost = bool(asked)
                if free and (found := await self._receive(await self._claim_own(0, count, free))):
                    return found
            aside = self.reads_aside and not self._lost
            entries = math.ceil(count / self._bundle)
            takes = count if self.reads_aside and readable(self._pulse, "line") else 0
            ready, apart = self.ready_max, self.apart
            read = self._reads.first(entries, block_ms, ready, aside=aside, apart=apart, takes=takes)
            return await self._received(await read)
        except (Unavailable, asyncio.CancelledError):
            self._lost = True
            raise

    async def rest(self) -> list[Entry]:
        """What reads under way give, and what was lost of others; see the port. The rest stays pending."""
        found: list[Entry] = []
        while self._reads.only_written():
            try:
                found += await self._received(await self._reads.answer())
            except Unavailable:
                self._lost = True
        try:
            if self._lost:
                self._lost = False
                found += await self._receive(await self._claim_own(0, _PAGE, self._shards))
        except Unavailable:
            self._lost = True
        return found

    async def _received(self, answer: Answer) -> list[Entry]:
        """Take in hand what a read has given."""
        self._lost, self.took_s = self._lost or answer.lost, answer.took_s
        found = await self._receive((shard, wire.fields_of(raw)) for shard, raw in answer.entries)
        if answer.of_all:
            gave = {shard: len(raw) for shard, raw in answer.entries}
            self._reads.visits.gave(self._backlog.gave(gave, found))
            self._bundle = max(1.0, len(found) / sum(gave.values())) if found else self._bundle
        self.more = self._reads.more
        return found

    async def settle(self, settlements: Sequence[Settlement], sent: Sequence[SentEntries] = ()) -> int:
        """Settle messages, in one command for each shard; how many counted.

        A message that another worker has settled since does not count.
        """
        by_shard = settle_wire.by_shard(settlements, sent)
        commands = [
            settle_wire.settle(
                self.queue, self._name, shard, self._room(shard), of.some, of.bundles, of.alone
            )
            for shard, of in by_shard.items()
        ]
        self._backlog.fills(shard for shard in by_shard if self._room(shard).mark)
        replies = await self._all(commands)
        self._hand.let_go([settlement.entry for settlement in settlements])
        for batch in sent:
            self._hand.let_go(batch.entries)
        return self._backlog.counted(by_shard, replies)

    def drop(self, entries: Sequence[Entry]) -> None:
        """Let go of messages unsettled; a later `read` gives them again."""
        self._hand.drop(entries)
        self._lost = self._lost or bool(entries)

    async def promote(self, now_us: int, limit: int) -> int:
        """Let up to `limit` messages a shard that are due at `now_us` into the queue; how many came."""
        # Where nobody waits, all streams have the same mark.
        room = self._room(None)
        ((times, ways),) = await self._all([wire.due_in(self.queue, self._shards, room.mark)])
        self.put_off.note(ways)
        self.next_due_us = min((at for at in times if at > now_us), default=None)
        due = [shard for shard, at in enumerate(times) if 0 <= at <= now_us]
        idle = [shard for shard in self._shards if shard not in due]
        self._backlog.note(idle, [0] * len(idle))
        self._backlog.fills(shard for shard in due if self._room(shard).mark)
        commands = [wire.promote(self.queue, s, now_us, limit, self._room(s)) for s in due]
        return self._backlog.counted(due, await self._all(commands))

    async def take_over(self, min_idle_ms: int, limit: int) -> list[Entry]:
        """Take over up to `limit` entries of dead workers, and of living ones idle for `min_idle_ms`.

        Among them are our own lost ones. At most one suspect is in hand at a time, see `take_over`
        in functions/queue. The messages of bundles are not taken: each becomes an entry for whoever reads it.
        """
        try:
            (found,) = await self._all([wire.pending_in(self.queue, self._name, self._shards)])
            own = [s for s, of in enumerate(found) if of & wire.OWN]
            claimed = await self._claim_own(min_idle_ms, limit, own)
            limit -= len(claimed)
            shards, suspected = [s for s, of in enumerate(found) if of & wire.OTHERS], None
            # First an equal share of each shard, then the rest of `limit` from the shards with more.
            for _ in range(_CLAIMS):
                if limit <= 0 or not shards:
                    break
                share = max(1, limit // len(shards))
                more = []
                for shard, (raw, suspects, apart) in await _claim(
                    self, shards, min_idle_ms, share, suspects=0
                ):
                    claimed.append((shard, raw))
                    limit -= len(raw)
                    if len(raw) == share or apart:
                        more.append(shard)
                    if suspects:
                        suspected = shard
                shards = more
            # One suspect at a time, of all shards together.
            if suspected is not None and not self._hand.suspected:
                claimed += [
                    (s, raw) for s, (raw, _, _) in await _claim(self, [suspected], min_idle_ms, 1, suspects=1)
                ]
        except (Unavailable, asyncio.CancelledError):
            self._lost = True
            raise
        return await self._receive(claimed)

    async def _claim_own(
        self, min_idle_ms: int, limit: int, shards: Iterable[int]
    ) -> list[tuple[int, Iterable[wire.RawEntry]]]:
        """Up to `limit` entries pending under our name, idle for `min_idle_ms`, and not wholly in hand."""
        lost: list[tuple[int, bytes, int, int]] = []
        starts = dict.fromkeys(shards, b"-")
        while starts and len(lost) < limit:
            pages = await self._all(
                [
                    wire.own_pending(self.queue, self._name, shard, min_idle_ms, start, _PAGE)
                    for shard, start in starts.items()
                ]
            )
            further = {}
            for shard, page in zip(starts, pages, strict=True):
                lost += [
                    (shard, i, idle, given) for i, _, idle, given in page if not self._hand.holds(shard, i)
                ]
                if len(page) == _PAGE:
                    further[shard] = b"(" + page[-1][0]
            starts = further
        if len(lost) > limit:
            self._lost = True
            del lost[limit:]
        replies = await self._all(
            [
                command
                for shard, i, idle, given in lost
                for command in (
                    wire.own_again(self.queue, self._name, shard, i, idle, given),
                    wire.noted(self.queue, shard, i),
                )
            ]
        )
        return [
            (shard, [wire.raw_entry(entry_id, fields, given, note) for entry_id, fields in reply])
            for (shard, _, _, given), reply, note in zip(lost, replies[::2], replies[1::2], strict=True)
        ]

    async def _receive(self, claimed: Iterable[tuple[int, Iterable[wire.RawEntry]]]) -> list[Entry]:
        """Take the messages of entries in hand; leave those that cannot be read to others.

        Returns the messages that were not in hand before. What too few machines have is found again by the
        next `read`, as if the answer was lost.
        """
        received: list[Entry] = []
        undecodable: list[wire.Undecodable] = []
        for shard, raw in claimed:
            entries, bad = wire.decoded(shard, self.queue, raw)
            received += entries
            undecodable += bad
        for entry in undecodable:
            self._log.error(
                "queue entry cannot be read, and waits for a version that can",
                queue=self.queue,
                shard=entry.shard,
                entry_id=entry.entry_id.decode(),
                payload_bytes=len(entry.payload),
            )
        due_at_us = self._now_us() + int(UNREAD_S * 1e6) if undecodable else 0
        try:
            await self._all(
                [
                    settle_wire.settle(
                        self.queue,
                        self._name,
                        entry.shard,
                        self._room(entry.shard),
                        [settle_wire.left_for_others(entry, due_at_us)],
                    )
                    for entry in undecodable
                ]
            )
        except Unavailable:
            # They are still pending and not in hand, so the search for lost ones finds them again.
            self._lost = True
        except asyncio.CancelledError:
            self._lost = True
            raise
        try:
            sendable = await self._copies.sendable(received)
        except (Unavailable, asyncio.CancelledError):
            self._lost = True
            raise
        taken = self._hand.take(sendable)
        if len(sendable) < len(received):
            sent = set(map(id, sendable))
            self.drop([entry for entry in received if id(entry) not in sent])
        return taken

    async def _all(self, commands: Sequence[Command], pulse: Pulse | None = None) -> list[Any]:
        """Send all in one write, with `pulse`.

        Raises Unavailable when any is refused; others may have been applied.
        """
        replies = await pulsed(self._commands, pulse, commands)
        for reply in replies:
            if isinstance(reply, ReplyError):
                raise await self._mended(reply)
        return replies

    async def _mended(self, error: ReplyError) -> Unavailable:
        """Make the groups that Redis lost when it was emptied, so that the caller's next try succeeds."""
        if error.code == "NOGROUP" or "no such key" in str(error):
            await self.ensure_groups()
        return Unavailable(f"Redis refuses: {error}.", retry_after=0.05)


def _room(reader: QueueStreams, shard: int | None) -> wire.Room:
    """What the stream of a shard may hold; None: of any, when nobody waits.

    All, beside a version that does not know the lists: it would not find what waits there when it closes the
    books of a lost shard. One message an entry, beside one that does not know bundles.
    """
    pulse, ready, moment, backlog = reader._pulse, reader.ready_max, reader.moment, reader._backlog
    if shard is not None:
        takes = reader.reads_aside and is_visited(backlog, shard)
        ready, moment = 0 if takes else backlog.ready_of(shard, ready), backlog.part_of(shard, moment)
    bundle_max = bundle_format.MESSAGES_MAX if readable(pulse, "bundle") else 1
    return wire.Room(ready if readable(pulse, "line") else _NO_LISTS, bundle_max, moment)


async def _claim(
    reader: QueueStreams, shards: Sequence[int], min_idle_ms: int, limit: int, *, suspects: int
) -> Iterable[tuple[int, tuple[list[wire.RawEntry], int, int]]]:
    """(shard, (entries taken over, how many suspects were passed over, how many messages were taken out
    of bundles)) for each of `shards`."""
    commands = [wire.take_over(reader.queue, reader._name, s, min_idle_ms, limit, suspects) for s in shards]
    return [
        (shard, ([wire.raw_entry(*entry) for entry in taken], passed, apart))
        for shard, (taken, passed, apart) in zip(shards, await reader._all(commands), strict=True)
    ]
