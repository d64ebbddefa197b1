"""One worker of a queue under a random load, and the order in which it sends each organisation's messages.

The worker does as `engine/delivery` does with one provider that all messages wait for, the only one or one
of several: what it reads goes to its hand, is put off, or is given back, by the rules of `unsent.py` and
`ways.py`. The provider and the queue are paused and resumed, also while a read is under way. So the order in
which the worker sends is what functions/queue and these rules make of it: each organisation's messages are
sent in the order of admission, each once, and those that were canceled never. Nothing of a paused
organisation is sent once the worker knows of the pause.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from random import Random
from typing import Any, cast

from engine import redis_keys as keys
from engine.activity.records import CampaignPlace
from engine.credit.flush import Flush
from engine.delivery.pauses import Pauses
from engine.delivery.ports import PutOff, Recall
from engine.delivery.settlement import put_back, put_off_in, unroutable
from engine.limits.records import LimitRow, ShardLimits
from engine.organisations import Limits
from engine.records import Addressed, Entry, Message, Settlement, Submission
from engine.stores.redis import admit_wire, settle_wire
from engine.stores.redis import queue_wire as wire
from engine.stores.redis.cancels import RedisCancels
from engine.stores.redis.limits import limit
from engine.stores.redis.link import RedisLink
from engine.stores.redis.settle_wire import settled
from engine.stream_id import StreamId

SHARD = 0
WAY = "1 slow"
CAMPAIGN = "spring"
# What may happen, and how often.
STEPS = {
    "admit": 6,
    "read": 8,
    "send": 5,
    "ask": 3,
    "leave": 1,
    "provider": 2,
    "recall": 4,
    "limit": 2,
    "learn": 2,
    "cancel": 2,
    "campaign": 1,
}


class OrderLoad:
    """A queue of one shard, and its worker."""

    def __init__(self, execute: Callable[[list[Any]], Awaitable[list[Any]]], rng: Random) -> None:
        """`execute`: commands in, replies out."""
        self._execute = execute
        self._rng = rng
        self._cancels = RedisCancels(cast(RedisLink, self), 1, lambda: 2)
        self._sequence = self._version = self._epoch = self._number = 0
        self._organisations = rng.sample(range(1, 100), rng.choice((1, 2, 4)))
        self._mark = rng.choice((4, 8, 40, 200))
        # What was admitted, in order; what was canceled; what was sent, in order.
        self.admitted: list[Message] = []
        self.canceled: set[str] = set()
        self.sent: list[str] = []
        # Who is paused, and what the worker knows of that.
        self._paused: set[int] = set()
        self._pauses, self._known = Pauses(), 0
        # What the worker has in hand; whether something is put off for its provider, as far as it knows.
        self._hand: list[Entry] = []
        self._behind = False
        # Whether its provider is the only one, and whether that is paused.
        self.alone, self._closed = rng.random() < 0.3, False
        # What a read has given that the worker has not taken yet; whether that goes back, with all that is
        # read before the next one begins.
        self._under_way: list[Entry] = []
        self.all_back = False
        # How many messages were recalled and have not been read yet.
        self._expected = 0
        # How often each kind of thing happened.
        self.counts = dict.fromkeys((*STEPS, "sent", "put off", "put off again", "back", "held"), 0)
        self.broken: list[str] = []

    async def batch(self, commands: Sequence[Any]) -> list[Any]:
        """As a link to Redis does it."""
        return await self._execute(list(commands))

    async def run(self, steps: int) -> None:
        """Do random things, and then send all that is left."""
        made = [wire.make_group("normal", SHARD), ("SET", keys.generation_key(SHARD), "g1")]
        self._epoch = (await self._execute([*made, wire.register("h", SHARD)]))[2]
        for _ in range(steps):
            what = self._rng.choices(list(STEPS), list(STEPS.values()))[0]
            self.counts[what] += 1
            await getattr(self, f"_{what}")()
        for organisation in list(self._paused):
            await self._set(organisation, paused=False)
        await self._learn()
        self._closed = False
        for _ in range(len(self.admitted)):
            await self._recall()
            await self._read(50, 100)
            await self._send(len(self._hand))
        await self._look()

    async def _look(self) -> None:
        """What is left when all was sent."""
        for organisation in self._organisations:
            own = [m.id for m in self.admitted if m.organisation_id == organisation]
            expected = [name for name in own if name not in self.canceled]
            if [name for name in self.sent if name in set(own)] != expected:
                self.broken.append(f"not all of organisation {organisation} was sent in order, once")
        stream, wait = keys.line_keys(SHARD, "normal")[:2]
        held, left, bundled = await self._execute(
            [("GET", keys.held_key(SHARD)), ("XLEN", stream), ("HGET", wait, "bundled")]
        )
        if (int(held or 0), left, int(bundled or 0)) != (0, 0, 0):
            self.broken.append(f"{held} units are held, {left} entries left, {bundled} messages counted")

    # -- what may happen

    async def _admit(self) -> None:
        rng, some = self._rng, []
        for _ in range(rng.choice((1, 3, 30))):
            self._number += 1
            organisation = rng.choice(self._organisations)
            some.append(
                Message(
                    id=f"m{self._number:06}", organisation_id=organisation, to="+1", text="x", sender="",
                    encoding="GSM-7", segments=1, units=2, accepted_at_us=1, expires_at_us=1 << 60,
                    reference=rng.choice(("", "", CAMPAIGN)),
                )
            )  # fmt: skip
        self.admitted += some
        submissions = [
            Submission(
                organisation_id=m.organisation_id,
                messages=[Addressed(queue="normal", message=m, due_at_us=0)],
                units=2,
                answer=b"",
            )
            for m in some
        ]
        self._sequence += 1
        flush = Flush(SHARD, self._epoch, self._sequence, list(enumerate(submissions)), [])
        assert (await self._execute([admit_wire.admit("h", flush)]))[0][0] == b"applied"

    async def _ask(self, count: int | None = None) -> None:
        """Begin a read, which Redis answers at once; the worker takes its answer later."""
        if self.all_back:
            await self._take(0)
            self.all_back = False
        if self._under_way or (self._closed and self.alone):
            return
        count = self._rng.choice((1, 3, 10)) if count is None else count
        command = wire.read("normal", "w", [SHARD], count, None)
        reply, _ = await self._execute([command, wire.refill("normal", SHARD, self._room())])
        fields = wire.fields_of(reply[0][1] if reply else ())
        self._under_way = wire.decoded(SHARD, "normal", fields)[0]

    async def _read(self, count: int | None = None, room: int | None = None) -> None:
        """Take what a read gives. As long as there is room, it goes to the hand."""
        if not self._under_way:
            await self._ask(count)
        await self._take(self._rng.choice((0, 5, 20, 100)) if room is None else room)

    async def _take(self, room: int) -> None:
        entries, self._under_way = self._under_way, []
        self._pauses = self._pauses.after(entries, 0)
        # Nothing is sent before what went back, nor while the only provider is paused.
        back = self.all_back or (self.alone and self._closed)
        held, off = [entry for entry in entries if back or self._pauses.hold(entry)], []
        await self._settle([put_back(entry) for entry in held], "held")
        self._behind = self._behind or any(entry.way for entry in held)
        for entry in entries:
            if entry in held:
                continue
            self._expected -= bool(entry.way)
            if self._known == self._version and entry.message.organisation_id in self._paused:
                self.broken.append(
                    f"{entry.message.id} is given out to be sent while its organisation is paused"
                )
            if self._is_taken(entry, room, bool(off)):
                self._hand.append(entry)
                continue
            off.append(put_off_in(entry, WAY))
            self._behind = True
            self.counts["put off again"] += bool(entry.way)
        await self._settle(off, "put off")

    def _is_taken(self, entry: Entry, room: int, off: bool) -> bool:
        """Whether an entry goes to the hand; `off`: some of those before it do not."""
        if self.alone or self._closed:
            return self.alone
        return len(self._hand) < room and not (off if entry.way else self._behind)

    async def _send(self, count: int | None = None) -> None:
        count = self._rng.randrange(len(self._hand) + 1) if count is None else count
        some, self._hand = self._hand[:count], self._hand[count:]
        for entry in some:
            if entry.message.id in self.canceled:
                self.broken.append(f"{entry.message.id} was sent and is canceled")
        self.sent += [entry.message.id for entry in some]
        await self._settle([unroutable(entry, 1) for entry in some], "sent")

    async def _leave(self) -> None:
        """The worker's queue is paused for a moment: what it has in hand goes back."""
        self.all_back = True
        await self._back(self._hand)

    async def _provider(self) -> None:
        """The provider is paused, or resumed."""
        self._closed = not self._closed
        if not self._closed:
            return
        hand, self._hand = self._hand, []
        if self.alone:
            self.all_back = True
        else:
            self._behind = self._behind or bool(hand)
        await self._settle([self.left(entry) for entry in hand], "back")

    def left(self, entry: Entry) -> Settlement:
        """What becomes of an entry that waits for the provider when that is paused."""
        return put_back(entry) if self.alone else put_off_in(entry, WAY, front=True)

    async def _back(self, some: Sequence[Entry]) -> None:
        self._hand = [entry for entry in self._hand if entry not in some]
        front = self._behind = self._waits_in_its_way(some)
        await self._settle(
            [put_off_in(e, WAY, front=True) if front and not e.way else put_back(e) for e in some], "back"
        )

    def _waits_in_its_way(self, some: Sequence[Entry]) -> bool:
        """Whether what is handed back without having been put off goes before what is put off."""
        return self._behind or self._expected > 0 or any(entry.way for entry in some)

    async def _recall(self) -> None:
        """Ask what is put off, and recall some of it. It asks so seldom that no read is under way from one
        question to the next."""
        if self._under_way:
            await self._read()
        ((_, [packed]),) = await self._execute([wire.due_in("normal", [SHARD], self._mark)])
        waits: list[PutOff] = wire.ways_of(SHARD, packed)
        self._behind = any(of.messages for of in waits)
        if self._closed:
            return
        asks = [
            wire.recall(
                "normal",
                Recall(SHARD, of.number, of.way, self._rng.choice((1, 5, 50)), 1 << 30),
                self._room(),
            )
            for of in waits
        ]
        self._expected += sum(moved for moved, *_ in await self._execute(asks))

    async def _limit(self) -> None:
        organisation = self._rng.choice(self._organisations)
        await self._set(organisation, paused=organisation not in self._paused)

    async def _set(self, organisation: int, *, paused: bool) -> None:
        before, self._version = str(self._version or ""), self._version + 1
        row = LimitRow(organisation, Limits(), paused)
        [done] = await self._execute([limit(ShardLimits(SHARD, before, str(self._version), False, [row]))])
        assert done == 1
        self._paused ^= {organisation}

    async def _learn(self) -> None:
        """The worker learns who is paused, and gives back what it has in hand of them. It looks so seldom
        that no read is under way from one look to the next."""
        if self._under_way:
            await self._read()
        [notes] = await self._execute([("HGET", keys.limits_key(SHARD), "paused")])
        of = [note.split(b":") for note in (notes or b"").split()]
        self._known = self._version
        self._pauses = Pauses({int(o): StreamId.parse(last) for o, _, last in of})
        await self._back([entry for entry in self._hand if self._pauses.hold(entry)])

    async def _cancel(self) -> None:
        lately = self.admitted[-self._rng.choice((5, 50, 500)) :]
        if not lately:
            return
        at = self._rng.randrange(len(lately))
        first, last = lately[at], lately[min(len(lately) - 1, at + self._rng.choice((0, 0, 5)))]
        found = await self._cancels.cancel(
            "normal", first.organisation_id, first.id, last.id, 6, near=first.id, due_at_us=(), far=False
        )
        self._note(found.canceled)

    async def _campaign(self) -> None:
        organisation = self._rng.choice(self._organisations)
        place: CampaignPlace | None = CampaignPlace(queue="normal")
        while place is not None:
            step = await self._cancels.cancel_campaign(organisation, CAMPAIGN, place)
            self._note(step.found.canceled)
            place = step.next

    def _note(self, canceled: set[str]) -> None:
        wrong = canceled & (self.canceled | set(self.sent) | {entry.message.id for entry in self._hand})
        if wrong:
            self.broken.append(f"{sorted(wrong)} could not be canceled any more")
        self.canceled |= canceled

    async def _settle(self, some: Sequence[Settlement], what: str) -> None:
        if not some:
            return
        self.counts[what] += 1
        command = settle_wire.settle("normal", "w", SHARD, self._room(), [settled(one) for one in some])
        [[counted, *_]] = await self._execute([command])
        if counted != len(some):
            self.broken.append(f"{counted} of {len(some)} settlements counted")

    def _room(self) -> wire.Room:
        return wire.Room(self._mark, self._rng.choice((1, 5, 50)))
