"""The processes: the engine's real services, put together by the functions of engine/boot/.

The real adapters of Redis run too (`admission.py`, `usage.py` and `queue.py` of stores/redis), on simulated
links; only the ledger's books are a simulation of their own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from random import Random
from typing import Any

import msgspec

from engine.activity.records import CampaignPlace
from engine.boot.ingest import assemble_ingest
from engine.boot.ledger import assemble_ledger
from engine.boot.worker import assemble_worker
from engine.config import Credit, Queues, QueueSettings
from engine.delivery.dead_letters import DeadLetterId
from engine.delivery.dispatcher import Dispatcher
from engine.delivery.sent import SentEntries
from engine.delivery.settlement import DELIVERIES_MAX
from engine.errors import Refusal, Unavailable
from engine.intake.pricing import PriceTable
from engine.providers.settings import SimulatedSettings
from engine.records import QUEUES, Entry, Message, Settlement, Verdict
from engine.redis_keys import due_key
from engine.routing.ports import SlotRequest, Slots
from engine.routing.throughput import UNANSWERED_S
from engine.shards import shard_of
from engine.stores.redis.admission import RedisAdmission
from engine.stores.redis.cancels import RedisCancels
from engine.stores.redis.dead_letters import RedisDeadLetters
from engine.stores.redis.queue import QueueStreams
from engine.stores.redis.usage import RedisUsage
from tests.routing.throughput_model import Timeline
from tests.simulation.holdings import Holding
from tests.simulation.own_clock import pulse_of
from tests.simulation.world import Role, World

PRICES = {"": 1, "+44": 2, "+98": 3}
_CONCURRENCY = 20


async def ingest(world: World, role: Role) -> None:
    process, settings = role.process, world.settings
    link, inbox = world.link(process), world.link(process)
    world.truth.holdings[process.name] = Holding(world.truth, process)
    await link.start()
    await inbox.start()
    pulse = pulse_of(world, role)
    quota, role.ingest = assemble_ingest(
        RedisAdmission(
            link,  # type: ignore[arg-type]
            inbox,  # type: ignore[arg-type]
            settings.shards,
            pulse,
            accepted_on=settings.accepted_on,
        ),
        PriceTable(PRICES),
        process.name,
        Credit(quota_s=settings.quota_s, quota_min=settings.quota_min, validity_s=settings.validity_s),
        Queues(),
        shards=settings.shards,
        timeout_s=settings.timeout_s,
        spenders=settings.spenders,
        now_us=pulse.clock.now_us,
        rng=world.clock.rng,
    )
    process.quota = quota
    await quota.start()
    serving = asyncio.create_task(quota.run())
    role.ready = True
    try:
        draining = asyncio.ensure_future(role.draining.wait())
        done, _ = await asyncio.wait({draining, serving}, return_when=asyncio.FIRST_COMPLETED)
        role.ready = False
        if serving in done:
            serving.result()
        await world.idle(process)
        await quota.leave()
    finally:
        serving.cancel()
        await asyncio.wait([serving])


class Carrier:
    """A provider whose verdicts are drawn from the seed."""

    def __init__(self, world: World, name: str) -> None:
        self._world = world
        self.name = name

    async def start(self) -> None: ...

    async def stop(self) -> None: ...

    def submit(self, message: Message, done: Callable[[Verdict], None]) -> None:
        world = self._world
        kind, latency_s = world.verdict()
        if world.truth.messages[message.id].state != "lost":
            # Else Redis was emptied since, and nothing is promised of it.
            world.truth.on_two.sent(message.id)
        limited = world.limited.get(self.name)
        if limited and (wrong := limited.given(message.segments, world.clock.now)):
            world.truth.fail(wrong)
        ended = world.truth.messages[message.id].ended
        if wrong := world.truth.carried.given(message.id, ended, taken=kind == "accepted"):
            world.truth.fail(wrong)
        if kind == "accepted":
            world.sent[message.id] = world.sent.get(message.id, 0) + 1
        asyncio.get_running_loop().call_later(latency_s, done, Verdict(kind=kind, provider=self.name))


class Pacing:
    """The slots of limited providers as Redis gives them: late, or not at all."""

    def __init__(self, world: World) -> None:
        self._world = world

    async def reserve(self, asks: Sequence[SlotRequest]) -> list[Slots]:
        """See `engine.routing.ports.SlotStore`."""
        world, rng = self._world, self._world.clock.rng
        await asyncio.sleep(rng.expovariate(1 / 0.001))
        granted = []
        for ask in asks:
            timeline = world.timelines.setdefault(ask.provider, Timeline())
            now_us = world.clock.now_us()
            segments, delay_us = timeline.reserve(ask, now_us)
            granted.append(Slots(segments, delay_us, timeline.interval_us, ask.together, now_us))
        if not world.calm and rng.random() < 0.05:
            await asyncio.sleep(UNANSWERED_S)
            raise Unavailable("No answer.")
        await asyncio.sleep(rng.expovariate(1 / 0.001))
        return granted


class ShortQueue(QueueStreams):
    """Lets few messages be ready, so that the others wait in their organisation's turn."""

    def __init__(self, world: World, *arguments: Any, ready_max: int, **named: Any) -> None:
        self._world = world
        self._wanted, self._most = 0, ready_max
        super().__init__(*arguments, **named)

    async def settle(self, settlements: Sequence[Settlement], sent: Sequence[SentEntries] = ()) -> int:
        """Count what is put off, and what was recalled."""
        self._world.recalled += sum(settlement.entry.way != "" for settlement in settlements)
        self._world.recalled += sum(entry.way != "" for batch in sent for entry in batch.entries)
        self._world.put_off += sum(settlement.way != "" for settlement in settlements)
        return await super().settle(settlements, sent)

    async def read(self, count: int, block_ms: int) -> list[Entry]:
        """Where there are operators, some entries have outlived too many workers."""
        found = await super().read(count, block_ms)
        if not self._world.operators:
            return found
        again = [not self._world.clock.rng.randrange(20) for _ in found]
        return [
            msgspec.structs.replace(entry, deliveries=DELIVERIES_MAX + 1) if dead else entry
            for entry, dead in zip(found, again, strict=True)
        ]

    @property
    def ready_max(self) -> int:  # type: ignore[override]
        return min(self._wanted, self._most)

    @ready_max.setter
    def ready_max(self, messages: int) -> None:
        self._wanted = messages


async def worker(world: World, role: Role) -> None:
    process, settings = role.process, world.settings
    link, reading, beside = world.link(process), world.link(process), world.link(process)
    for connection in (link, reading, beside):
        await connection.start()
    pulse = pulse_of(world, role)
    reader = ShortQueue(
        world,
        link,
        reading,
        ready_max=settings.ready_max,
        queue="normal",
        shards=settings.shards,
        worker_name=process.name,
        timeout_s=settings.link_timeout_s,
        log=world.log,
        pulse=pulse,
        accepted_on=settings.accepted_on,
        beside=beside,
    )
    await reader.join()
    names = ("carrier", "other")
    work, sweeper, dispatcher = assemble_worker(
        reader,
        [Carrier(world, name) for name in names],
        [SimulatedSettings(name=name, throughput=world.throughputs.get(name)) for name in names],
        Pacing(world),
        QueueSettings(concurrency=_CONCURRENCY, backoff_s=0.1, backoff_max_s=1.0, hedge=True),
        take_over_s=settings.take_over_s,
        now_us=pulse.clock.now_us,
        readable=pulse.readable,
        clock_s=process.time,
        rng=Random(world.clock.rng.getrandbits(64)),
        log=world.log,  # type: ignore[arg-type]
    )
    others = [asyncio.create_task(sweeper.run(role.draining))]
    if len(world.plans) > 1:
        others.append(asyncio.create_task(_route(world, dispatcher)))
    role.ready = True
    try:
        working = asyncio.ensure_future(work.run(role.draining, 10.0))
        done, _ = await asyncio.wait({working, *others}, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in others:
            task.cancel()
        await asyncio.wait(others)
    await RedisAdmission(link, link, settings.shards).fence(process.name)  # type: ignore[arg-type]


async def _route(world: World, dispatcher: Dispatcher) -> None:
    """Let the plans of the world be in force, each from its second on, and in the end the first."""
    while True:
        dispatcher.use(world.plans[0 if world.calm else int(world.clock.now) % len(world.plans)])
        await asyncio.sleep(0.2)


async def ledger(world: World, role: Role) -> None:
    process, settings = role.process, world.settings
    link, reading = world.link(process), world.link(process)
    service = assemble_ledger(
        world.ledger_books(world.network, process, world.postgres, settings.link_timeout_s),
        RedisUsage(link, reading, settings.shards),  # type: ignore[arg-type]
        Credit(overdue_s=settings.overdue_s, usage_kept_s=10.0),
        shards=settings.shards,
        clock_s=process.time,
        rng=world.clock.rng,
        gather_s=settings.gather_s,
        apart_s=0.005,
    )

    def works() -> None:
        role.ready = True

    await service.run(role.draining, works)


async def operator(world: World, role: Role) -> None:
    """Replays and drops what lies dead, now and then by a look that is old, and again after a lost answer."""
    rng, shards = world.clock.rng, world.settings.shards
    link = world.link(role.process)
    now_us, shard = world.redis.store.now_us, partial(shard_of, shards=shards)
    letters = RedisDeadLetters(link, shards, shard, now_us)  # type: ignore[arg-type]
    role.ready = True
    while not role.draining.is_set():
        await asyncio.sleep(rng.expovariate(1 / 0.1))
        try:
            for letter in await letters.page(None, None, None, 20):
                verb = "drop" if letter.expired or rng.random() < 0.5 else "replay"
                await getattr(letters, verb)(DeadLetterId.parse(letter.id))
                world.letters[verb] += 1
        except Unavailable:
            await asyncio.sleep(0.2)
        except Refusal as e:
            # Another operator was faster, or this one was and did not hear of it.
            world.letters["gone"] += e.status == 404


async def canceler(world: World, role: Role) -> None:
    """Cancels messages that were accepted lately, one or several, wherever they are by then."""
    rng, store, truth = world.clock.rng, world.redis.store, world.truth
    cancels = RedisCancels(world.link(role.process), world.settings.shards, store.now_us)  # type: ignore[arg-type]
    role.ready = True
    while not role.draining.is_set():
        await asyncio.sleep(rng.expovariate(1 / 0.1))
        known = list(truth.messages)[-rng.choice((20, 200)) :]
        if not known or world.calm:
            continue
        first = rng.choice(known)
        if rng.random() < 0.3:
            await _cancel_campaign(world, cancels, first)
            continue
        last = f"{first[:24]}{int(first[24:], 16) + rng.choice((0, 0, 3, 20)):012x}"
        organisation_id = truth.messages[first].organisation_id
        due = store.db.get(due_key(shard_of(organisation_id, world.settings.shards), "normal"), {})
        times = [at for payload, at in due.items() if first.encode() in payload and rng.random() < 0.7]
        try:
            found = await cancels.cancel(
                "normal", organisation_id, first, last, 1, near=first, due_at_us=times, far=rng.random() < 0.5
            )
        except Unavailable:
            await asyncio.sleep(0.2)
            continue
        for kind in ("canceled", "in_hand", "given_before"):
            world.cancels[kind] += len(getattr(found, kind))
        world.cancels["none"] += not len(found)


async def _cancel_campaign(world: World, cancels: RedisCancels, message_id: str) -> None:
    """Cancel what waits of the campaign of a message: all messages of one attempt to send."""
    known = world.truth.messages[message_id]
    place: CampaignPlace | None = CampaignPlace(queue=QUEUES[0])
    while place is not None:
        try:
            step = await cancels.cancel_campaign(known.organisation_id, known.attempt, place)
        except Unavailable:
            await asyncio.sleep(0.2)
            return
        for kind in ("canceled", "in_hand", "given_before"):
            world.cancels[kind] += len(getattr(step.found, kind))
        place = step.next


ROLES: dict[str, Callable[[World, Role], Coroutine[Any, Any, None]]] = {
    "ingest": ingest,
    "worker": worker,
    "ledger": ledger,
    "operator": operator,
    "canceler": canceler,
}
