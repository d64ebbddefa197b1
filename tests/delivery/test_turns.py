"""Every loop of the engine sleeps when it has nothing to do: on virtual time, with its turns counted.

Those of a worker are in `test_turns_of_delivery`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import pytest

from engine.activity.archiver import Archiver
from engine.credit.ledger import Ledger
from engine.credit.ledger_records import Applied, Recovered, ShardLife, Standing, StreamMark, UsageEntry
from engine.credit.quota import Quota
from engine.credit.retention import Retention
from engine.errors import Unavailable
from engine.intake.price_list import PriceList
from engine.leases.ports import HeldShards
from engine.providers.problems import Problems
from engine.providers.smpp.body import encode_bind_resp
from engine.providers.smpp.codes import ANSWER, Command, CommandStatus
from engine.providers.smpp.pdu import Pdu, Reader, pack
from engine.providers.smpp.provider import SmppProvider
from engine.receipts.matcher import Matcher
from engine.receipts.ports import MatchLimits
from engine.records import PriceSheet, Submission
from engine.routing.records import RoutingPlan
from engine.routing.table import RoutingTable
from engine.stream_id import StreamId
from tests.delivery.turns import Away, Loop, VirtualTime
from tests.providers.sink import Sink
from tests.providers.smpp.scripted_smsc import message, settings

TRIP_S = 0.0005


class Store:
    """Answers each call by what it was given for its name, else by None."""

    def __init__(self, **answers: Any) -> None:
        self._answers = answers
        self.calls: dict[str, int] = {}

    def __getattr__(self, name: str) -> Callable[..., Coroutine[Any, Any, Any]]:
        async def call(*arguments: Any) -> Any:
            self.calls[name] = self.calls.get(name, 0) + 1
            answer = self._answers.get(name)
            found = answer(*arguments) if callable(answer) else answer
            # A read that finds nothing waits as long as it was told.
            blocks_ms = arguments[-1] if found == [] and name in ("read", "inbox") else 0
            await asyncio.sleep(TRIP_S + blocks_ms / 1000)
            return found

        return call


def quota(store: Any, virtual: VirtualTime) -> Quota:
    return Quota(
        store,
        "holder",
        shards=1,
        shard_of=lambda _: 0,
        now_us=virtual.clock.now_us,
        quota_s=5.0,
        quota_min=100,
        validity_s=60.0,
    )


# -- quota: inbox, ticks, heartbeat, flushes


def test_quota_that_nobody_uses_hardly_turns() -> None:
    with VirtualTime() as virtual:
        store = Store(register=[1], beat=True, inbox=[], fullness=0.0)
        kept = quota(store, virtual)
        virtual.start(kept.start())
        virtual.pass_s(0.1)
        virtual.start(kept.run())
        virtual.pass_s(20.0, turns_max=60)


@pytest.mark.parametrize("after_s", [0.0, 1.0])
def test_quota_without_redis_tries_again_and_does_not_spin(after_s: float) -> None:
    with VirtualTime() as virtual:
        away = Away(after_s)
        kept = quota(away, virtual)
        virtual.start(kept.run())
        submission = Submission(organisation_id=1, messages=(), units=0)
        kept.admit(submission, 0, lambda outcome: None)
        virtual.pass_s(20.0, turns_max=60)
        # Fenced as well: registers anew whenever Redis is back.
        kept._fenced.set()
        virtual.pass_s(20.0, turns_max=100)


def test_leaving_while_a_flush_is_not_answered_does_not_spin() -> None:
    with VirtualTime() as virtual:
        away = Away(1.0)
        away.__dict__["fence"] = Store().fence
        kept = quota(away, virtual)
        serving = virtual.start(kept.run())
        kept.admit(Submission(organisation_id=1, messages=(), units=0), 0, lambda outcome: None)
        virtual.pass_s(0.5)
        virtual.start(kept.leave())
        virtual.pass_s(10.0, turns_max=100)
        # Nor when it has ended before what had gathered was written.
        serving.cancel()
        virtual.pass_s(10.0, turns_max=100)


# -- the followers of PostgreSQL


@pytest.mark.parametrize("store", [Away(), Store(version=3, read=PriceSheet(version=3, prices={"": 1}))])
def test_the_price_list_looks_once_a_second(store: Any) -> None:
    with VirtualTime() as virtual:
        virtual.start(PriceList(store).run())
        virtual.pass_s(20.0, turns_max=20)


@pytest.mark.parametrize("copy", [Away(), Store()])
@pytest.mark.parametrize("store", [Away(), Store(version=1, read=RoutingPlan(version=1))])
def test_the_routing_table_looks_once_a_second(store: Any, copy: Any) -> None:
    with VirtualTime() as virtual:
        virtual.start(RoutingTable(store, copy, lambda plan: None).run())
        virtual.pass_s(20.0, turns_max=40)


# -- ledger


def ledger(store: Any, usage: Any, virtual: VirtualTime) -> Ledger:
    return Ledger(
        store,
        usage,
        shards=1,
        fresh_generation=lambda: "g2",
        overdue_s=10.0,
        clock_s=virtual.clock_s,
        retention=Retention(60.0, 1_000),
    )


def leading() -> Store:
    recovered = Recovered({0: "g1"}, {0: StreamMark()}, {0: 0}, {0: frozenset()}, [], {0: []}, 1, 0)

    def apply(entries: Sequence[UsageEntry], decide: Any, sent: int) -> Applied:
        return Applied([], {0: StreamMark(entries[-1].position, entries[-1].link)})

    nothing = Applied([], {})
    return Store(
        lead=True, recover=recovered, apply=apply, events=[], standing=Standing(0), close_accounts=nothing
    )


def usage(read: Any) -> Store:
    life = ShardLife(
        shard=0,
        generation="g1",
        run="r",
        seen_run="r",
        last_position=StreamId(9_999_999, 0),
        follows="",
        delivered=0,
    )
    return Store(read=read, lives=[life], overdue=[])


@pytest.mark.parametrize("leads", [True, False])
def test_a_ledger_without_usage_hardly_turns(leads: bool) -> None:
    with VirtualTime() as virtual:
        store = leading() if leads else Store(lead=False)
        virtual.start(ledger(store, usage([]), virtual).run(asyncio.Event(), lambda: None))
        virtual.pass_s(20.0, turns_max=60)


@pytest.mark.parametrize("after_s", [0.0, 5.0])
def test_a_ledger_whose_stores_are_away_tries_again_and_does_not_spin(after_s: float) -> None:
    with VirtualTime() as virtual:
        away = Away(after_s)
        # Giving up a lock that nobody can reach is no failure.
        away.__dict__["resign"] = Store().resign
        virtual.start(ledger(away, away, virtual).run(asyncio.Event(), lambda: None))
        virtual.pass_s(20.0, turns_max=60)


def test_a_ledger_that_has_read_as_much_as_it_may_applies_it() -> None:
    entries = [UsageEntry(0, StreamId(n, 0), "usage", b"", "", "") for n in range(1, 30_001)]

    def read(positions: dict[int, StreamId], count: int, block_ms: int) -> list[UsageEntry]:
        # A burst: there is always more, at once.
        taken, entries[:] = entries[:10_000], entries[10_000:]
        return taken

    with VirtualTime() as virtual:
        store, stream = leading(), usage(read)
        virtual.start(ledger(store, stream, virtual).run(asyncio.Event(), lambda: None))
        virtual.pass_s(10.0, turns_max=200)
        assert store.calls["apply"] >= 2
        assert not entries


def test_the_first_who_asks_is_applied_at_once_and_those_that_follow_together() -> None:
    applied_s: list[float] = []

    def read(positions: dict[int, StreamId], count: int, block_ms: int) -> list[UsageEntry]:
        # An organisation asks each millisecond.
        asked, seen = int(virtual.clock.now * 1000), positions[0].ms
        return [
            UsageEntry(0, StreamId(n, 0), "request", b"", "", "")
            for n in range(seen + 1, min(asked, 1000) + 1)
        ]

    with VirtualTime() as virtual:
        store = leading()
        apply = store._answers["apply"]

        def noted(entries: Sequence[UsageEntry], decide: Any, sent: int) -> Applied:
            applied_s.extend([virtual.clock.now] * len(entries))
            found: Applied = apply(entries, decide, sent)
            return found

        store._answers["apply"] = noted
        virtual.start(ledger(store, usage(read), virtual).run(asyncio.Event(), lambda: None))
        virtual.pass_s(3.0)
        waited_s = [at_s - n / 1000 for n, at_s in enumerate(applied_s, 1)]
        assert len(waited_s) == 1000
        # The step that is under way, the time between two reads, and the step.
        assert max(waited_s) < 0.03
        assert store.calls["apply"] <= 55


# -- archiver and matcher


@pytest.mark.parametrize("leased", [True, False, Unavailable("away")])
@pytest.mark.parametrize("drains", [True, False])
def test_an_archiver_with_nothing_to_do_hardly_turns(leased: Any, drains: bool) -> None:
    with VirtualTime() as virtual:
        held = HeldShards(frozenset(range(16))) if leased else HeldShards()
        stream = Away() if isinstance(leased, Unavailable) else Store(lease=held, plans=[], read=[])
        archiver = Archiver(stream, Store(), "owner", now=virtual.clock_s)  # type: ignore[arg-type]
        draining = asyncio.Event()
        virtual.start(archiver.run(draining))
        virtual.pass_s(10.0, turns_max=60)
        if drains:
            draining.set()
        virtual.pass_s(20.0, turns_max=60)


class CaughtUp(Store):
    """Rounds that ask nobody whether they have caught up."""

    async def caught_up(self) -> bool:
        return True


@pytest.mark.parametrize("leased", [True, False, Unavailable("away")])
@pytest.mark.parametrize("round_", [False, Unavailable("away")])
def test_a_matcher_with_nothing_to_do_hardly_turns(leased: Any, round_: Any) -> None:
    with VirtualTime() as virtual:
        held = HeldShards(frozenset(range(16))) if leased else HeldShards()
        stream = Away() if isinstance(leased, Unavailable) else Store(lease=held)
        rounds = Away() if isinstance(round_, Unavailable) else CaughtUp(round=round_)
        matcher = Matcher(stream, rounds, "owner", MatchLimits(), virtual.clock_s)  # type: ignore[arg-type]
        draining = asyncio.Event()
        virtual.start(matcher.run(draining))
        virtual.pass_s(10.0, turns_max=100)
        draining.set()
        virtual.pass_s(10.0, turns_max=100)


# -- SMPP


class Wire(asyncio.Transport):
    """A connection to a carrier in memory: it binds, and answers submits with `status`, or not at all."""

    def __init__(self, virtual: VirtualTime, protocol: Any, status: int | None) -> None:
        super().__init__()
        self._virtual = virtual
        self._protocol = protocol
        self._status = status
        self._reader = Reader()

    def write(self, data: Any) -> None:
        for pdu in self._reader.feed(bytes(data)):
            assert isinstance(pdu, Pdu)
            body = encode_bind_resp("wire") if pdu.command_id == Command.bind_transceiver else b""
            status: int | None = 0
            if pdu.command_id == Command.submit_sm:
                status = self._status
            if status is not None:
                answer = pack(pdu.command_id | ANSWER, status, pdu.sequence, body)
                self._virtual.process.call_later(0.001, self._protocol.data_received, answer)

    def is_closing(self) -> bool:
        return False

    def get_write_buffer_size(self) -> int:
        return 0

    def close(self) -> None: ...

    def abort(self) -> None: ...


def smpp(virtual: VirtualTime, monkeypatch: pytest.MonkeyPatch, status: int | None) -> SmppProvider:
    """Started, with a window of 10, and 500 messages submitted."""

    async def connect(self: Loop, made: Callable[[], Any], *_: Any, **__: Any) -> tuple[Any, Any]:
        protocol = made()
        wire = Wire(virtual, protocol, status)
        protocol.connection_made(wire)
        return wire, protocol

    monkeypatch.setattr(time, "monotonic", virtual.clock_s)
    if status != -1:
        monkeypatch.setattr(Loop, "create_connection", connect)
    provider = SmppProvider(settings(1, window=10, timeout_s=8.0), Sink(), Problems())
    virtual.start(provider.start())
    virtual.pass_s(0.1)
    return provider


@pytest.mark.parametrize(
    ("status", "turns_max"), [(None, 120), (int(CommandStatus.ESME_RTHROTTLED), 400), (-1, 120)]
)
def test_messages_that_wait_for_a_carrier_do_not_keep_its_sessions_turning(
    monkeypatch: pytest.MonkeyPatch, status: int | None, turns_max: float
) -> None:
    """No answer; all throttled; nobody listens."""
    with VirtualTime() as virtual:
        provider, verdicts = smpp(virtual, monkeypatch, status), list[Any]()
        for _ in range(500):
            provider.submit(message(), verdicts.append)
        # Those that are refused at once, one callback each, are not what is counted.
        virtual.pass_s(0.5)
        virtual.pass_s(20.0, turns_max=turns_max)
        assert len(verdicts) == 500
        assert all(v.kind != "accepted" for v in verdicts)
        virtual.start(provider.stop())
        virtual.pass_s(10.0, turns_max=turns_max)
