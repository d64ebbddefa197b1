"""Random loads on the line of a queue, and what fairness asks of the order in which it is served.

The rule is start-time fair queueing. Its theorem (Goyal, Vin and Cheng, 1996, theorem 1): in every interval
in which two organisations have a backlog throughout, what they are served, divided by their weights, differs
by no more than one message of each, divided by its weight. A fluid server would serve both the same, to the
drop. What one turn moves at once counts as one message: with a large mark, several small ones.

A weight that changes counts for the turns from then on; so an interval begins then. While an organisation is
paused nothing of it becomes ready, and then it goes on in order.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from random import Random
from typing import Any

import msgspec

from engine import message_format
from engine import redis_keys as keys
from engine.bundle_format import MESSAGES_MAX, payloads_of
from engine.credit.flush import Flush
from engine.limits.records import LimitRow, ShardLimits
from engine.organisations import Limits
from engine.records import Addressed, Message, Submission
from engine.stores.redis import admit_wire, settle_wire
from engine.stores.redis import queue_wire as wire
from engine.stores.redis.limits import limit
from engine.stores.redis.queue import MARK
from engine.stores.redis.settle_wire import Settled

SHARD = 0
# Executes commands in order; the replies.
Execute = Callable[[list[Any]], Awaitable[list[Any]]]

_decode = msgspec.msgpack.Decoder(Message).decode


class FairLoad:
    """A queue of one shard under a random load: who waits, and who is served."""

    def __init__(self, execute: Execute, rng: Random, *, takes: bool = False) -> None:
        """`takes`: what waits is left in its lists until the worker takes it."""
        self._execute = execute
        self._rng = rng
        self.takes = takes
        self._sequence = self.number = 0
        self._epoch = 0
        self._seen = b"-"
        # Of what was admitted and is not in the ready stream, and of what was served, by organisation.
        self.waiting: dict[int, list[Message]] = {}
        self.served: dict[int, int] = {}
        self.largest: dict[int, int] = {}
        # By pair of organisations that both wait: the least and the most that one is ahead of the other, in
        # segments divided by weights.
        self._ahead: dict[tuple[int, int], tuple[float, float]] = {}
        # Of those that have one; the least weight that each ever had; who is paused; the version in force.
        self.weights: dict[int, float] = {}
        self._least: dict[int, float] = {}
        self.paused: set[int] = set()
        self._version = 0
        # What the worker was given, by the id of its entry and its place there.
        self._given: dict[tuple[bytes, int], Message] = {}
        # How many messages were in the ready stream and not read, after each step; how often several waited.
        self.unread: list[int] = []
        self.waits = 0
        # How many messages one entry may have, and the most that one had; after how many steps some messages
        # of a bundle were settled and others not.
        self.bundle_max = MESSAGES_MAX
        self.bundles = self.parts = 0
        # When the next message expires; and those that no turn brought into the ready stream.
        self.expiry: Callable[[], int] = lambda: 2
        self._skipped: set[str] = set()
        # The largest mark that was ever told; until then the one of functions/queue.
        self.mark_max = MARK
        self.broken: list[str] = []

    async def begin(self) -> None:
        made = await self._execute(
            [
                wire.make_group("normal", SHARD),
                ("SET", keys.generation_key(SHARD), "g1"),
                wire.register("h", SHARD),
            ]
        )
        self._epoch = made[2]

    async def admit(self, sizes: dict[int, list[int]]) -> None:
        """Admit messages of so many segments, by organisation."""
        self._sequence += 1
        # While nobody waits, what fits into the ready stream goes there first come, first served.
        is_open = not self._waiting()
        submissions = []
        for organisation, segments in sizes.items():
            messages = [self.message(organisation, of) for of in segments]
            self.waiting.setdefault(organisation, []).extend(messages)
            units = sum(segments)
            addressed = [Addressed(queue="normal", message=m, due_at_us=0) for m in messages]
            submissions.append(
                Submission(organisation_id=organisation, messages=addressed, units=units, answer=b"")
            )
        flush = Flush(SHARD, self._epoch, self._sequence, list(enumerate(submissions)), [])
        assert (await self._execute([admit_wire.admit("h", flush)]))[0][0] == b"applied"
        await self.look(is_open)

    def skip(self, ids: set[str]) -> None:
        """Note messages that have left their lists, though it was not their turn."""
        self._skipped |= ids

    async def limit(self, organisation: int, weight: float, paused: bool) -> None:
        """Set the weight of an organisation, and whether it is paused."""
        before, self._version = str(self._version or ""), self._version + 1
        row = LimitRow(organisation, Limits(weight=weight), paused)
        [done] = await self._execute([limit(ShardLimits(SHARD, before, str(self._version), False, [row]))])
        assert done == 1
        self._least.setdefault(organisation, self.weights.get(organisation, 1.0))
        self._least[organisation] = min(self._least[organisation], weight)
        self.weights[organisation] = weight
        self._forget(organisation)
        # What lies ready stays so.
        self.paused -= {organisation}
        if paused:
            self.paused |= {organisation}
        await self.look()

    async def put_back(self, some: Sequence[Settled], mark: int) -> None:
        """The worker gives messages back that it has not begun to send."""
        back = []
        for one in some:
            message = self.given(one)
            back.append(
                Settled(
                    one.entry_id, one.place, one.bundle, "retry", message.organisation_id,
                    payload=message_format.packed(message),
                )
            )  # fmt: skip
            waiting = self.waiting[message.organisation_id]
            waiting.insert(
                next((i for i, w in enumerate(waiting) if w.id > message.id), len(waiting)), message
            )
            self._forget(message.organisation_id)
        unread = await self._unread()
        await self._execute([settle_wire.settle("normal", "w", SHARD, self._room(mark), back)])
        gives = {self.given(one).organisation_id for one in some}
        await self.look(again=await self._taken_back(unread, gives))

    async def _unread(self) -> list[Message]:
        """What lies ready that the worker was not given."""
        stream = keys.line_keys(SHARD, "normal")[0]
        there, pending = await self._execute(
            [("XRANGE", stream, "-", "+", "COUNT", 1 << 30),
             ("XPENDING", stream, keys.GROUP, "IDLE", 0, "-", "+", 1 << 30, "w")]
        )  # fmt: skip
        given = {entry_id for entry_id, _, _, _ in pending}
        payloads = [fields[1] for entry_id, fields in there if entry_id not in given]
        return [_decode(one) for payload in payloads for one in payloads_of(payload)]

    async def _taken_back(self, unread: list[Message], gives: set[int]) -> set[str]:
        """What lay unread of those who were given back waits again, at its place; the ids of the others,
        which lie ready as they did."""
        kept = []
        for message in unread:
            organisation = message.organisation_id
            if organisation not in gives | self.paused:
                kept.append(message.id)
                continue
            if organisation not in gives and message.id in {m.id for m in await self._unread()}:
                continue
            waiting = self.waiting[organisation]
            waiting.insert(
                next((i for i, w in enumerate(waiting) if w.id > message.id), len(waiting)), message
            )
            self._forget(organisation)
        if [m.id for m in await self._unread()][: len(kept)] != kept and not self.paused:
            self.broken.append("what others had ready changed its place")
        return set(kept)

    def given_of(self, some: Sequence[Settled], organisations: set[int]) -> list[Settled]:
        """Those that are messages of these organisations."""
        return [of for of in some if self.given(of).organisation_id in organisations]

    def given(self, one: Settled) -> Message:
        """The message that the worker was given."""
        return self._given[one.entry_id, one.place]

    def _forget(self, organisation: int) -> None:
        self._ahead = {pair: ahead for pair, ahead in self._ahead.items() if organisation not in pair}

    def _waiting(self) -> list[int]:
        """The organisations that wait for their turn."""
        return [o for o, waiting in self.waiting.items() if waiting and o not in self.paused]

    async def refill(self, mark: int) -> None:
        taken = mark if self.takes else None
        await self._execute([wire.refill("normal", SHARD, self._room(mark), taken)])
        await self.look(filled=True)

    async def read(self, count: int) -> list[Settled]:
        """Give up to `count` entries to the worker; what settles their messages."""
        reply = (await self._execute([wire.read("normal", "w", [SHARD], count, None)]))[0]
        hand = []
        for entry_id, fields in reply[0][1] if reply else ():
            payloads = payloads_of(fields[1])
            for place, payload in enumerate(payloads):
                self._given[entry_id, place] = _decode(payload)
                hand.append(Settled(entry_id, place, len(payloads), "captured", 1))
        return hand

    async def settle(self, some: Sequence[Settled], mark: int) -> None:
        await self._execute([settle_wire.settle("normal", "w", SHARD, self._room(mark), some)])
        await self.look()

    def _room(self, mark: int) -> wire.Room:
        return wire.Room(0, self.bundle_max, mark) if self.takes else wire.Room(mark, self.bundle_max)

    async def look(
        self,
        is_open: bool = False,
        again: set[str] = frozenset(),  # type: ignore[assignment]
        filled: bool = False,
    ) -> None:
        """See what has come into the ready stream, and hold it against the rule; `is_open`: nobody waited;
        `again`: what was there before; `filled`: the worker has taken what waits."""
        stream, wait = keys.line_keys(SHARD, "normal")[:2]
        entries, there, pending, flat = await self._execute(
            [("XRANGE", stream, self._seen, "+", "COUNT", 1 << 30),
             ("XRANGE", stream, "-", "+", "COUNT", 1 << 30),
             ("XPENDING", stream, keys.GROUP, "IDLE", 0, "-", "+", 1 << 30, "w"), ("HGETALL", wait)]
        )  # fmt: skip
        fields_of = dict(zip(flat[::2], flat[1::2], strict=True))
        together = [] if is_open else self._waiting()
        self.waits += len(together) > 1
        for entry_id, fields in entries:
            self._seen = b"(" + entry_id
            for message in map(_decode, payloads_of(fields[1])):
                if message.id not in self._skipped and message.id not in again:
                    self._serve(message, together)
        given = {entry_id for entry_id, _, _, _ in pending}
        sizes = [(entry_id, len(payloads_of(fields[1]))) for entry_id, fields in there]
        self.bundles = max([self.bundles, *(size for _, size in sizes)])
        self.unread.append(sum(size for entry_id, size in sizes if entry_id not in given))
        notes = [fields_of.get(b"part:" + entry_id.partition(b"-")[2], b"") for entry_id, _ in sizes]
        noted = sum(note.count(b"x") for note in notes)
        self.parts += noted > 0
        bundled = sum(size - 1 for _, size in sizes) - noted
        if int(fields_of.get(b"bundled", b"0")) != bundled:
            self.broken.append(f"{bundled} messages are bundled, {fields_of[b'bundled']} counted")
        if self.unread[-1] > max(self.mark_max, MARK * self.takes) + len(self.largest):
            self.broken.append(f"{self.unread[-1]} messages lie ready")
        if self._waiting() and self.unread[-1] <= 0 and (filled or not self.takes):
            self.broken.append("the ready stream is empty while messages wait")

    def _serve(self, message: Message, together: list[int]) -> None:
        organisation = message.organisation_id
        waiting = self.waiting[organisation]
        if organisation in self.paused:
            self.broken.append(f"organisation {organisation} was served while it was paused")
        if not waiting or waiting.pop(0).id != message.id:
            self.broken.append(f"organisation {organisation} was not served in order")
            return
        self.served[organisation] = self.served.get(organisation, 0) + message.segments
        for other in [o for o in together if o != organisation and self.waiting[o]]:
            pair = (min(organisation, other), max(organisation, other))
            done = [self.served.get(o, 0) / self.weights.get(o, 1.0) for o in pair]
            ahead = done[0] - done[1]
            least, most = self._ahead.get(pair, (ahead, ahead))
            self._ahead[pair] = least, most = min(least, ahead), max(most, ahead)
            # A turn is at most a quarter of the mark.
            at_once = sum(
                max(self.largest[o], self.largest[o] - 1 + -(-self.mark_max // 4)) / self._least.get(o, 1.0)
                for o in pair
            )
            if most - least > at_once + 1e-6:
                self.broken.append(f"organisations {pair} are {most - least} segments apart")
        if not waiting:
            self._forget(organisation)

    def message(self, organisation: int, segments: int) -> Message:
        """A new message of an organisation."""
        self.number += 1
        self.largest[organisation] = max(self.largest.get(organisation, 0), segments)
        return Message(
            id=f"m{self.number:06d}", organisation_id=organisation, to="+1", text="x", sender="",
            units=segments, encoding="GSM-7", segments=segments, accepted_at_us=1,
            expires_at_us=self.expiry(),
        )  # fmt: skip


async def random_load(
    load: FairLoad, rng: Random, steps: int, marks: Sequence[int] = (4, 4, 8), *, limits: bool = False
) -> None:
    """Heavy and light organisations, large and small messages, reads and settlements of every size.

    `marks`: those that the worker says; up to 4 a turn is one message. `limits`: weights are changed, and
    organisations are paused and go on.
    """
    await load.begin()
    load.mark_max = max(marks)
    await load.refill(load.mark_max)
    hand: list[Settled] = []
    organisations = rng.sample(range(1, 100), rng.choice((2, 3, 8, 30)))
    sizes = {o: rng.choice(((1,), (1, 2), (7,), (1, 10))) for o in organisations}
    for _ in range(steps):
        mark = rng.choice(marks)
        what = rng.random()
        if limits and rng.random() < 0.1:
            organisation = rng.choice(organisations)
            await load.limit(organisation, rng.choice((0.5, 1.0, 2.0, 3.0, 4.0)), rng.random() < 0.3)
            back = load.given_of(hand, load.paused)
            if rng.random() < 0.3:
                # The worker ends, or its queue is paused.
                back = hand[rng.randrange(len(hand) + 1) :]
            if back and rng.random() < 0.5:
                hand = [i for i in hand if i not in back]
                await load.put_back(back, mark)
        elif what < 0.3:
            some = rng.sample(organisations, rng.choice((1, 2)))
            await load.admit(
                {
                    o: [rng.choice(sizes[o]) for _ in range(rng.choice((1, 3, 5 * load.mark_max)))]
                    for o in some
                }
            )
        elif what < 0.6:
            if load.takes:
                await load.refill(mark)
            hand += await load.read(rng.randrange(1, 1 + load.mark_max))
            if not load.takes:
                await load.refill(mark)
        else:
            count = rng.randrange(len(hand) + 1)
            settled, hand = hand[:count], hand[count:]
            await load.settle(settled, mark)
