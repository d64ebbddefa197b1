"""One run: a seed, some seconds of chaos, calm, and the end, at which everything must add up."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from random import Random
from typing import Any
from unittest.mock import patch

import msgspec

from engine.credit import group_commit, laws, ledger, quota, reconciliation, standstill, trimmer
from engine.credit.ledger_records import MOVEMENTS
from engine.errors import Unavailable
from engine.records import QUEUES, Message
from engine.redis_keys import dead_key
from tests.simulation.checkers import Violation, asking
from tests.simulation.clients import Clients
from tests.simulation.faults import Faults
from tests.simulation.holdings import WatchedMap
from tests.simulation.roles import ROLES
from tests.simulation.supervisor import Supervisor
from tests.simulation.wires import Link, Weather
from tests.simulation.world import Settings, World

# Balances to begin with: one that lasts, and some that clients race for.
_BALANCES = (100_000, 2_000, 120, 60, 15)
_ORGANISATIONS = [101 + i for i in range(len(_BALANCES))]
# Virtual seconds within which a world without faults must come to rest.
_REST_S = 60.0
# After the last answer a twin of its request may still be under way to Redis.
_AFTERWARDS_S = 1.0


class Result(msgspec.Struct, frozen=True):
    seed: int
    steps: int
    # Virtual seconds.
    seconds: float
    # Answers given, by kind.
    answered: dict[str, int]
    # Messages admitted; sent more than once.
    messages: int
    twice: int
    # Dead letters that were replayed, that were dropped, and that another operator had taken away.
    letters: dict[str, int]
    # What calls that cancel came upon.
    cancels: dict[str, int]
    # How often messages were put off, and recalled.
    put_off: int
    recalled: int
    # "" when every promise was kept.
    violation: str
    trace: list[str]


def run(seed: int, *, trace: bool = False, steps_max: int = 1 << 60, **world: Any) -> Result:
    """Run one seed; a broken promise is in the result, not raised."""
    drawn, weather = Settings.drawn(Random(seed), _ORGANISATIONS), Weather()
    settings = msgspec.structs.replace(drawn, accepted_on=2 - seed % 2)
    with _collecting_rarely(), World(seed, settings, weather, **world) as w, _watching(w):
        w.mains = ROLES
        if trace:
            w.clock.lines = []
        violation = ""
        clients = Clients(w)
        try:
            _live(w, clients, steps_max)
        except Violation as e:
            violation = str(e)
            w.clock.trace("VIOLATION", violation)
        return Result(
            seed, w.clock.steps, w.clock.now, clients.answered, len(w.truth.messages),
            sum(n > 1 for n in w.sent.values()), w.letters, w.cancels, w.put_off, w.recalled, violation,
            w.clock.lines or [],
        )  # fmt: skip


@contextmanager
def _collecting_rarely() -> Iterator[None]:
    """Worlds are full of circles, which end with them: to look for garbage all the while costs a tenth."""
    before = gc.get_threshold()
    gc.set_threshold(50_000, 20, 100)
    try:
        yield
    finally:
        gc.set_threshold(*before)


@contextmanager
def _watching(world: World) -> Iterator[None]:
    """While the world runs, the services' maps and logs are watched."""

    def watched_map() -> WatchedMap:
        return WatchedMap(world.truth.holdings[asyncio.get_running_loop().name], asking)  # type: ignore[attr-defined]

    with ExitStack() as stack:
        stack.enter_context(patch.object(quota, "CreditMap", watched_map))
        stack.enter_context(patch.object(quota, "log", world.log))
        for module in (group_commit, ledger, reconciliation, standstill, trimmer):
            stack.enter_context(patch.object(module, "log", world.log))
        yield


def _live(world: World, clients: Clients, steps_max: int) -> None:
    settings, rng = world.settings, world.clock.rng
    supervisor = Supervisor(world)
    for organisation_id, units in zip(_ORGANISATIONS, _BALANCES, strict=True):
        world.truth.organisation(organisation_id)
        world.postgres.create(organisation_id, world.truth.sums[organisation_id].shard, units // 2)
        world.postgres._top_up(None, organisation_id, units, "first")  # type: ignore[arg-type]
    for role, count in (
        ("ledger", settings.ledgers), ("worker", settings.workers), ("ingest", settings.ingest),
        ("operator", world.operators), ("canceler", world.cancelers),
    ):  # fmt: skip
        for _ in range(count):
            world.spawn(role)
    Faults(world, supervisor, settings.chaos_s)
    for organisation_id in _ORGANISATIONS:
        pause_s = rng.choice((0.05, 0.2, 0.5))
        for _ in range(rng.choice((1, 2, 4))):
            clients.add(organisation_id, pause_s)
    payer = clients.process
    payer.call_soon(lambda: payer.create_task(_pay(world, clients)))
    world.run(settings.chaos_s + settings.calm_s, steps_max)
    if world.clock.steps >= steps_max:
        return
    clients.stopping = True
    _until(world, lambda: not clients.under_way, "clients were not answered")
    world.run(world.clock.now + _AFTERWARDS_S)
    for organisation_id, sums in world.truth.sums.items():
        if sums.r:
            raise Violation(f"organisation {organisation_id}: {sums.r} units are reserved for nobody")
    _until(world, lambda: _settled(world), "messages were not settled")
    supervisor.draining = True
    for role in world.roles:
        if role.process.role == "ingest":
            role.draining.set()
    _until(world, lambda: _returned(world), "quota was not returned")
    _audit(world)


async def _pay(world: World, clients: Clients) -> None:
    """Top-ups of every size, each until it is known to be booked."""
    rng = world.clock.rng
    link = Link(world.network, clients.process, world.postgres, world.settings.link_timeout_s)
    number = 0
    while not clients.stopping:
        await asyncio.sleep(rng.expovariate(1.5))
        organisation_id = rng.choice(_ORGANISATIONS[1:])
        units = rng.choice((1, 5, 20, 100, 400))
        number += 1
        while True:
            try:
                await link.call("top_up", organisation_id, units, f"t{number}")
                break
            except Unavailable:
                await asyncio.sleep(0.2)


def _until(world: World, holds: Any, complaint: str) -> None:
    deadline = world.clock.now + _REST_S
    while not holds():
        if world.clock.now >= deadline:
            raise Violation(f"{complaint} within {_REST_S} s without faults")
        world.run(world.clock.now + 0.25)


def _settled(world: World) -> bool:
    left = {message_id for message_id, known in world.truth.messages.items() if known.state == "queued"}
    return not left or left <= {message.id for message in _dead_letters(world)}


def _returned(world: World) -> bool:
    tables, held = world.postgres.tables, _held_for_good(world)
    return not tables.waiting and all(
        row.granted == 0 and row.held == held.get(o, 0) for o, row in tables.accounts.items()
    )


def _dead_letters(world: World) -> list[Message]:
    """Those that stay what they are, because there are no operators: enough workers died by chance."""
    if world.operators:
        return []
    streams = (
        world.redis.store.db.get(dead_key(shard, queue))
        for shard in range(world.settings.shards)
        for queue in QUEUES
    )
    return [
        msgspec.msgpack.decode(fields[1], type=Message)
        for stream in streams
        if stream is not None
        for fields in stream.fields.values()
    ]


def _held_for_good(world: World) -> dict[int, int]:
    """By organisation, the units that its dead letters hold."""
    held: dict[int, int] = {}
    for message in _dead_letters(world):
        held[message.organisation_id] = held.get(message.organisation_id, 0) + message.units
    return held


def _audit(world: World) -> None:
    """engine.credit.laws on the end, and that each message was settled as it was sent."""
    truth, tables = world.truth, world.postgres.tables
    if truth.broken:
        raise Violation(f"nobody has noticed that Redis lost data of shards {sorted(truth.broken)}")
    if truth.books.back:
        raise Violation(f"PostgreSQL went back, and the books of {sorted(truth.books.back)} never came right")
    held_for_good = _held_for_good(world)
    for o, s in truth.sums.items():
        if s.r or s.m or s.h != held_for_good.get(o, 0):
            raise Violation(f"organisation {o}: reserved {s.r}, in maps {s.m}, held {s.h} are left over")
    for message_id, known in truth.messages.items():
        if known.ended == "sent" and not world.sent.get(message_id):
            raise Violation(f"message {message_id} was charged but never accepted by the carrier")
    if set(truth.announced.values()) - {1} and not truth.lost and not truth.books.went_back:
        raise Violation(f"events were recorded more than once: {truth.announced}")
    found = laws.Laws()
    for shard in range(world.settings.shards):
        accounts = [
            laws.Account(
                o, shard, row.topped_up, row.available, row.granted, row.held, row.captured,
                sum(tables.quotas.get(o, {}).values()), _journal_sums(tables.journal.get(o, {})),
            )
            for o, row in tables.accounts.items() if row.shard == shard
        ]  # fmt: skip
        units = {name: sum(getattr(a, name) for a in accounts) for name in laws.JournalSums._fields[:5]}
        found.shard(shard, len(accounts), units, with_events=shard not in truth.lost)
        unbooked = {o: truth.books.unbooked(o) for o in tables.accounts if any(truth.books.unbooked(o))}
        unbooked = {o: units for o, units in unbooked.items() if truth.sums[o].shard == shard}
        events = None if shard in truth.lost else _recorded(truth.activity)
        found.accounts(accounts, events, unbooked)
        found.unbooked(shard, unbooked)
        held = int(world.redis.store.db.get(b"credit:{%d}:held" % shard, b"0"))
        kept = sum(units for o, units in held_for_good.items() if truth.sums[o].shard == shard)
        found.instant(laws.ShardCut(shard, held, [], 0, kept), with_books=True)
    audit = found.result()
    broken = {check.name for check in audit.checks if check.verdict != "clean"}
    # That some usage is unbooked is true; `Truth` looks whether it had to be.
    if broken - {"unbooked"}:
        raise Violation("; ".join(check.detail for check in audit.checks if check.verdict != "clean"))


def _journal_sums(movements: dict[str, int]) -> laws.JournalSums:
    """What an organisation's movements put into each place and took out of it."""
    sums = dict.fromkeys(laws.JournalSums._fields, 0)
    for movement, units in movements.items():
        debit, credit = {"top-up": ("payments", "available"), **MOVEMENTS}[movement]
        if debit == "payments":
            sums["topped_up"] += units
        else:
            sums[debit] -= units
        sums[credit] += units
    return laws.JournalSums(
        **{**sums, "holds": movements.get("hold", 0), "releases": movements.get("release", 0)}
    )


def _recorded(activity: dict[int, dict[str, int]]) -> dict[int, laws.Units]:
    return {
        o: laws.Units(*(sum(of.get(e, 0) for e in events) for events in laws.EVENTS_BY_CHARGE))
        for o, of in activity.items()
    }
