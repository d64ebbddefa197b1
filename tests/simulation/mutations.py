"""Ways to spoil the protocol, one decision each. Some seed must notice every one of them.

A mutation patches or subclasses what it spoils; it copies nothing. `seed` is one that is
known to catch it; when the engine has changed so much that it no longer does, others are
tried (test_mutations.py).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any
from unittest.mock import patch

import msgspec

from engine.bundle_format import payloads_of
from engine.clocks.store_clock import StoreClock
from engine.credit import posting
from engine.credit.flush import Outbox
from engine.credit.holder import Effects, Holder
from engine.credit.ledger import Ledger
from engine.credit.ledger_records import (
    Books,
    RemainingUnits,
    Standing,
    StoredAnswer,
    UsageEntry,
    WaitingRequest,
)
from engine.credit.movements import change_quota, move
from engine.credit.quota import Quota
from engine.credit.records import LedgerAnswer
from engine.credit.retention import Retention, Trim
from engine.delivery.ways import Ways
from engine.errors import Unavailable
from engine.records import Entry
from engine.routing.throughput import Allowance
from engine.stores.redis import admission
from engine.stores.redis.admission import RedisAdmission
from engine.stores.redis.replicas import Copies
from engine.stores.redis.usage import RedisUsage
from tests.routing.throughput_model import Timeline
from tests.simulation.holdings import WatchedMap
from tests.simulation.line import Line, Waiting
from tests.simulation.postgres_server import Change, PostgresServer
from tests.simulation.put_off_mutations import (
    SEVERAL,
    lose_when_recalled,
    put_off_to_nowhere,
    recall_a_copy,
)
from tests.simulation.redis_functions import Functions
from tests.simulation.slot_mutations import grant_the_same_again, take_without_slots

_encode = msgspec.msgpack.Encoder().encode


class Mutation(msgspec.Struct, frozen=True):
    name: str
    # Known to catch it.
    seed: int
    # What is patched: (object, attribute, replacement).
    patches: list[tuple[Any, str, Any]] = []
    # What to run the world with: servers, or faults that show it soon.
    world: dict[str, Any] = {}

    @contextmanager
    def applied(self) -> Iterator[dict[str, Any]]:
        """For one run, the engine is spoiled; arguments for `runs.run`."""
        _asked.clear()
        with ExitStack() as stack:
            for target, attribute, replacement in self.patches:
                stack.enter_context(patch.object(target, attribute, replacement))
            yield self.world


def spoiled(name: str, **methods: Any) -> type[Functions]:
    """The atomic steps of Redis, with these methods instead of their own."""
    return type(name, (Functions,), methods)


# -- the holder's side

_answered, _want, _next_flush = Holder.answered, Holder.want, Outbox.next_flush
_admit, _release, _serve_answers = RedisAdmission.admit, Quota.release, Ledger._apply


def _refuse_later_ones_too(self: Holder, answer: LedgerAnswer, now_us: int) -> Effects:
    asked = self._asked.get(answer.organisation_id)
    if answer.kind == "refusal" and asked is not None:
        asked.waiters, asked.later = asked.waiters | asked.later, {}
    return _answered(self, answer, now_us)


def _remember_refusals(self: Holder, answer: LedgerAnswer, now_us: int) -> Effects:
    remembered = self.__dict__.setdefault("remembered", set())
    if answer.kind == "refusal":
        remembered.add(answer.organisation_id)
    return _answered(self, answer, now_us)


def _refuse_from_memory(self: Holder, organisation_id: int, waiter: Any, now_us: int) -> Effects:
    if organisation_id in self.__dict__.get("remembered", ()):
        return Effects(refuse=[waiter.token])
    return _want(self, organisation_id, waiter, now_us)


def _take_every_grant(self: Holder, answer: LedgerAnswer, now_us: int) -> Effects:
    asked = self._asked.get(answer.organisation_id)
    if answer.kind == "grant" and (asked is None or asked.number != answer.number):
        self._credit.grant(answer.organisation_id, answer.units)
    return _answered(self, answer, now_us)


def _answer_recalls_with_nothing(self: Holder, answer: LedgerAnswer, now_us: int) -> Effects:
    """Says that it has returned its quota, and keeps it."""
    if answer.kind != "recall":
        return _answered(self, answer, now_us)
    with patch.object(self, "_credit", _Generous(self._credit)):
        return _answered(self, answer, now_us)


class _Generous:
    def __init__(self, credit: Any) -> None:
        self.take: Callable[[int], int] = credit.remaining


async def _number_again(self: RedisAdmission, name: str, flushes: Any, timeout_s: float) -> Any:
    """A flush whose answer was lost is sent as a new one."""
    lost = self.__dict__.setdefault("lost", set())
    numbered = [
        msgspec.structs.replace(f, sequence=f.sequence + ((f.shard, f.epoch, f.sequence) in lost))
        for f in flushes
    ]
    try:
        return await _admit(self, name, numbered, timeout_s)
    except Unavailable:
        lost.update((f.shard, f.epoch, f.sequence) for f in flushes)
        raise


def _forget_what_is_under_way(self: Outbox) -> Any:
    """A second flush goes out beside the first."""
    self._under_way = None
    return _next_flush(self)


async def _believe_every_refusal(self: RedisAdmission, name: str, flushes: Any, timeout_s: float) -> Any:
    """When Redis is full: what it refuses now was not applied earlier either, though an answer was lost."""
    while True:
        try:
            return await _admit(self, name, flushes, timeout_s)
        except Unavailable:
            await asyncio.sleep(0.1)


def _refuse_and_keep(self: Outbox) -> Any:
    return list(self._submissions)


def _keep_replayed(self: Quota, organisation_id: int, units: int, incarnation: int) -> None:
    """The units of a repeated request stay reserved."""


async def _answer_before_commit(self: Ledger, shards: list[int]) -> None:
    store, ledger = self._store, self

    class Hasty:
        async def apply(self, entries: Any, decide: Any, sent: int) -> Any:
            told: list[Any] = []
            applied = await store.apply(entries, partial(_note_answers, decide, told, ledger), sent)
            return msgspec.structs.replace(applied, answers=[])

    with patch.object(self, "_store", Hasty()):
        await _serve_answers(self, shards)


def _note_answers(decide: Any, told: list[Any], self: Ledger, books: Books, **entries: Any) -> None:
    decide(books, **entries)
    for shard, holder, answer in books.answers:
        row = self._delivered[shard] = self._delivered[shard] + 1
        told.append(StoredAnswer(row, shard, holder, _encode(answer)))
    if told:
        asyncio.get_running_loop().create_task(_send(self._usage, told))


async def _send(usage: Any, answers: list[Any]) -> None:
    try:
        await usage.send(answers, {})
    except Unavailable:
        return


# -- the ledger's side

_recall, _close_books = posting._recall, posting._close_books


def _no_recall(books: Books, organisation_id: int, head: WaitingRequest) -> bool:
    return False


def _recall_once(books: Books, organisation_id: int, head: WaitingRequest) -> bool:
    """A recall is over with the answer, whatever the books say of the holder's quota."""
    asked = _asked.setdefault((head.holder, head.epoch, head.request.number, organisation_id), set())
    others = [h for h, units in books.quotas.get(organisation_id, {}).items() if units and h != head.holder]
    if set(others) - asked:
        asked.update(others)
        return _recall(books, organisation_id, head)
    return any(holder in head.recalled for holder in others)


_asked: dict[Any, set[str]] = {}


def _leave_quotas_open(books: Books, shard: int, left: dict[int, RemainingUnits], reopens: bool) -> None:
    with patch.object(books, "quotas", {}):
        _close_books(books, shard, left, reopens)


def _keep_nothing(self: Retention, now_s: float, standing: Standing, entries: int) -> Trim | None:
    """Usage is trimmed as soon as it is applied."""
    return Trim(self._moments[-1].positions, False) if self._moments else None


def _apply_strictly(books: Books, entry: UsageEntry, organisation_id: int, units: int) -> None:
    """A holder that used more than the books granted is an error, whatever the reason."""
    change_quota(books, organisation_id, entry.holder, -units)
    move(books, entry.shard, organisation_id, "hold", units)


async def _spend_on(self: RedisUsage, shards: Any) -> list[tuple[int, str]]:
    """Holders keep what they were granted in the time that PostgreSQL lost."""
    return []


class PositionsApart(PostgresServer):
    """The position is written by a statement of its own, a moment later."""

    def _write_marks(self, change: Change) -> None:
        life = self.life
        self.clock.after(0.02, lambda: self.life == life and self.tables.marks.update(change.marks))


class ForgetfulPostgres(PostgresServer):
    """Answers are not kept until they are sent."""

    def _write_answers(self, change: Change) -> list[int]:
        return [self.tables.next_row() for _ in change.answers]


class BeginsUnseen(PostgresServer):
    """Of a fence that is booked in part nothing is kept but what it has ended."""

    def _write_begun(self, change: Change) -> None:
        pass


class Unproven(PostgresServer):
    """A ledger that has the lock writes, whoever else has it."""

    def prove_term(self, term: int) -> None:
        pass

    def prove_next(self, entries: Any) -> None:
        pass

    def prove_marks(self, marks: Any) -> None:
        pass


class TermUnproven(PostgresServer):
    """Entries must be the next ones; that another ledger has read the books since does not matter."""

    def prove_term(self, term: int) -> None:
        pass


async def _send_at_once(self: Copies, entries: list[Entry]) -> list[Entry]:
    """A worker sends what it has been given, wherever else that is."""
    return entries


def _own_time(self: StoreClock) -> int:
    """The machine's own time of day."""
    return self._wall_us()


def _settle_again(self: Functions, key: bytes, entry_id: tuple[int, int]) -> int:
    Functions.acknowledge(self, key, entry_id)
    return 1


def _end_again(self: Functions, dead: bytes, entry_id: str) -> bool:
    Functions.takes_away(self, dead, entry_id)
    return True


def _fence_silently(self: Functions, keys: Any, args: Any) -> int:
    """The epoch ends without a marker in the usage stream."""
    if self.store.hash(keys[1]).pop(args[0].encode(), None) is None:
        return 0
    self.end_epoch(keys[0])
    return 1


def _spare_epoch(self: Functions, key: bytes) -> int:
    return int(self.store.hash(key).get(b"epoch", b"0")) + 1


def _forget_hits(self: Functions, holder: dict[bytes, bytes], epoch: bytes, seq: int) -> list[Any] | None:
    return None if Functions.stored_outcome(self, holder, epoch, seq) is None else []


def _first_use(self: Functions, key: bytes, kept: bytes) -> None:
    return None


def with_line(name: str, **methods: Any) -> dict[str, Any]:
    """A world in which the lines of the queues have these methods instead of their own."""
    return {"functions": spoiled(name, line=type(name, (Line,), methods))}


def with_put_off(name: str, **methods: Any) -> dict[str, Any]:
    """As `with_line`, where much is put off."""
    return {**with_line(name, **methods), "plans": SEVERAL}


def _lose_when_listed(self: Line, of: Waiting) -> None:
    """What is moved from a list to the ready stream is lost on the way."""
    self.store.list_pop(self.wait, of.organisation)
    self.messages -= 1
    of.served = True


def _move_a_copy(self: Line, of: Waiting) -> None:
    """The message stays in its list too."""
    segments, payload = self.store.lists(self.wait)[of.organisation][0]
    Line.serve(self, of)
    self.store.list_push(self.wait, of.organisation, segments, payload)


def _settle_bundle_again(
    self: Functions, line: Line, entry_id: bytes, size: int, messages: Any, *rest: Any, whole: bool
) -> set[int]:
    """A bundle counts whether it is still there or not."""
    found = Functions.settle_entry(self, line, entry_id, size, messages, *rest, whole=whole)
    return {place for place, *_ in messages} if size > 1 else found


def _leave_one_behind(self: Line, note: bytes) -> bool:
    return note.count(b".") <= 1


def _take_all_apart(self: Line, entry_id: bytes, payload: bytes) -> list[bytes]:
    """Also what is settled comes again."""
    return payloads_of(payload)


MUTATIONS = [
    Mutation("lose what is recalled", 0, world=with_put_off("LosingAside", move_aside=lose_when_recalled)),
    Mutation("recall a copy", 0, world=with_put_off("CopyingAside", move_aside=recall_a_copy)),
    Mutation("put off to nowhere", 0, world=with_put_off("Nowhere", put_off=put_off_to_nowhere)),
    Mutation("put off without a turn", 0,
             world=with_put_off("TurnlessAside", take_turn_aside=lambda *_: None)),
    Mutation("recall nothing", 0, [(Ways, "wanted", lambda *_: [])], {"plans": SEVERAL}),
    Mutation("lose the bitmap", 0, world=with_line("Forgetful", noted=lambda *_: None)),
    Mutation(
        "count a bundle twice", 1,
        world={"functions": spoiled("AllAgain", settle_entry=_settle_bundle_again)},
    ),
    Mutation("acknowledge with one message open", 0, world=with_line("Hasty", is_over=_leave_one_behind)),
    Mutation("take settled messages out of a bundle", 9,
             world=with_line("AllApart", open_messages=_take_all_apart)),
    Mutation("give numbers again where redis goes back", 7,
             world={**with_line("Again", move_on=lambda _: None), "clock_behind": True}),
    Mutation("forget the refill", 1, world=with_line("Dry", refill=lambda _: None)),
    Mutation("wait without a turn", 1, world=with_line("Turnless", take_turn=lambda *_: None)),
    Mutation("lose what is moved to the ready stream", 0, world=with_line("Losing", serve=_lose_when_listed)),
    Mutation("leave what is moved where it was", 0, world=with_line("Copying", serve=_move_a_copy)),
    Mutation(
        "skip the fence check in admit", 3,
        world={"functions": spoiled("Unfenced", epoch_is_over=lambda *_: False)},
    ),
    Mutation(
        "fence without ending the epoch", 3,
        world={"functions": spoiled("SameEpoch", end_epoch=_spare_epoch)},
    ),
    Mutation("fence without a marker", 4, world={"functions": spoiled("Silent", fence=_fence_silently)}),
    Mutation(
        "forget the sequence", 4,
        world={
            "functions": spoiled("Unnumbered", stored_outcome=lambda *_: None, is_next=lambda *_: True)
        },
    ),
    Mutation(
        "forget the stored outcome of a sequence", 100,
        world={"functions": spoiled("NoOutcome", stored_outcome=_forget_hits)},
    ),
    Mutation("forget idempotency keys", 0, world={"functions": spoiled("NoKeys", used_before=_first_use)}),
    Mutation(
        "count a settlement twice", 3,
        world={"functions": spoiled("Twice", acknowledge=_settle_again)},
    ),
    Mutation("end a dead letter twice", 0,
             world={"functions": spoiled("Undead", takes_away=_end_again), "operators": 3}),
    Mutation("cancel what a worker has in hand", 0,
             world={"functions": spoiled("Reaching", is_given=lambda *_: False), "cancelers": 3}),
    Mutation("write the position apart", 19, world={"postgres": PositionsApart}),
    Mutation("forget to keep answers", 0, world={"postgres": ForgetfulPostgres, "faults": ["restart_redis"]}),
    Mutation("write without proving the lead", 4, world={"postgres": Unproven}),
    Mutation("forget that a fence was begun", 43, world={"postgres": BeginsUnseen, "half_fences": True}),
    Mutation("prove the entries and not the term", 37, world={"postgres": TermUnproven}),
    Mutation("send a flush again under a new number", 48, [(RedisAdmission, "admit", _number_again)]),
    Mutation("send the next flush before the outcome of the last", 2,
             [(Outbox, "next_flush", _forget_what_is_under_way)]),
    Mutation("answer before the commit", 1, [(Ledger, "_apply", _answer_before_commit)]),
    Mutation("refuse without recall", 0, [(posting, "_recall", _no_recall)]),
    Mutation("end a recall without looking at the quotas", 45, [(posting, "_recall", _recall_once)],
             {"faults": ["drain", "kill"]}),
    Mutation("forget what a recall took from a request", 0, [(posting, "_without", lambda r, _: r)]),
    Mutation("leave quotas open when a lost shard is closed", 3,
             [(posting, "_close_books", _leave_quotas_open)]),
    Mutation("keep the quota after a fence", 1, [(WatchedMap, "drop", lambda self: [])]),
    Mutation("keep quota that was said to be returned", 0,
             [(Holder, "answered", _answer_recalls_with_nothing)]),
    Mutation("take a grant twice", 9, [(Holder, "answered", _take_every_grant)]),
    Mutation("refuse those who came later too", 0, [(Holder, "answered", _refuse_later_ones_too)]),
    Mutation("remember refusals", 0,
             [(Holder, "answered", _remember_refusals), (Holder, "want", _refuse_from_memory)]),
    Mutation("forget what may have been applied when redis is full", 4,
             [(RedisAdmission, "admit", _believe_every_refusal)], {"faults": ["fill_redis"]}),
    Mutation("ignore how far the machine's clock is off", 0, [(StoreClock, "now_us", _own_time)]),
    Mutation("forget to wait for the replica", 2, [(admission, "confirm", lambda *_: None)],
             {"faults": ["stall_redis"]}),
    Mutation("send what the replica does not have", 6, [(Copies, "sendable", _send_at_once)]),
    Mutation("keep in the queue what was refused", 1, [(Outbox, "take_back_all", _refuse_and_keep)],
             {"faults": ["fill_redis"]}),
    Mutation("keep no usage for books that go back", 8, [(Retention, "due", _keep_nothing)],
             {"books_go_back": True}),
    Mutation("apply strictly what is applied again", 6, [(posting, "hold_usage", _apply_strictly)],
             {"books_go_back": True}),
    Mutation("leave holders what lost books granted", 1, [(RedisUsage, "spending", _spend_on)],
             {"books_go_back": True}),
    Mutation("believe sums that an older version left", 1,
             world={"functions": spoiled("Believing", adds_up=lambda *_: True), "older_sums": True}),
    Mutation("count anew without the lists", 8,
             world={"functions": spoiled("Listless", in_lists=lambda *_: []), "older_sums": True}),
    Mutation("keep the units of a repeated request", 1, [(Quota, "release", _keep_replayed)]),
    Mutation("send without a slot", 5, [(Allowance, "take", take_without_slots)], {"throughput": 20.0}),
    Mutation("grant the same slots again", 0, [(Timeline, "reserve", grant_the_same_again)],
             {"throughput": 20.0}),
]  # fmt: skip
