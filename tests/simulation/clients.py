"""Clients: several for each organisation, some racing for the last units of a small balance."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any

import msgspec

from engine.errors import Refusal, Unavailable, Undecided
from engine.intake.kept_answer import Outcome
from engine.intake.under_way import Submitted
from engine.records import Accepted, MessageDraft
from tests.simulation.checkers import asking
from tests.simulation.clock import EPOCH_S
from tests.simulation.roles import PRICES
from tests.simulation.world import Role, World

_DESTINATIONS = {"+4915112345678": 1, "+447700900123": PRICES["+44"], "+989121234567": PRICES["+98"]}
_COUNTS = (1, 1, 1, 1, 2, 3, 5, 20)
# Characters of GSM-7 text by number of segments.
_TEXTS = {1: "x", 2: "x" * 200, 3: "x" * 400}
# After the chaos, so long may it take until everything works: time-outs, lingering
# sessions, late bytes, silent holders.
GRACE_S = 8.0
# And so long may an answer take then: some rounds of grants and recalls.
CALM_ANSWER_S = 1.0


class Request(msgspec.Struct, frozen=True):
    organisation_id: int
    drafts: list[MessageDraft]
    # Units of each message.
    costs: list[int]
    key: str
    # All of its messages are accepted or none.
    atomic: bool = False


class _Reset(Exception):
    """The process that should have answered is gone."""


class Clients:
    """Runs in a process of its own; talks to ingest processes."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.process = world.process("clients")
        world.graves.append(self.process)
        world.on_death.append(self._died)
        self._open: dict[str, dict[int, asyncio.Future[Any]]] = {}
        self._number = 0
        self.stopping = False
        self.under_way = 0
        # What was answered, by kind.
        self.answered: dict[str, int] = {}

    def add(self, organisation_id: int, pause_s: float) -> None:
        self.process.call_soon(lambda: self.process.create_task(self._client(organisation_id, pause_s)))

    async def _client(self, organisation_id: int, pause_s: float) -> None:
        rng = self._world.clock.rng
        try:
            while not self.stopping:
                await asyncio.sleep(rng.expovariate(1 / pause_s))
                if not self.stopping:
                    self.under_way += 1
                    await self._ask(self._request(organisation_id))
                    self.under_way -= 1
        except Exception as e:  # whatever it is, it is an error of the simulation
            self._world.broken(self.process, e)

    def _request(self, organisation_id: int) -> Request:
        rng = self._world.clock.rng
        self._number += 1
        key = f"k{self._number}" if rng.random() < 0.4 else ""
        drafts, costs = [], []
        send_at = None
        if not self._world.calm and rng.random() < 0.05:
            at_s = EPOCH_S + self._world.clock.now + 0.5 + rng.random() * 3
            send_at = datetime.fromtimestamp(at_s, UTC).isoformat()
        for _ in range(rng.choice(_COUNTS)):
            to, price = rng.choice(list(_DESTINATIONS.items()))
            segments = rng.choice((1, 1, 2, 3))
            drafts.append(MessageDraft(to=to, text=_TEXTS[segments], send_at=send_at))
            costs.append(segments * price)
        # Drawn only where messages are canceled too, so that other worlds stay as they are.
        atomic = self._world.cancelers > 0 and rng.random() < 0.4
        return Request(organisation_id, drafts, costs, key, atomic)

    async def _ask(self, request: Request) -> None:
        """Until it is answered; without a key it is not safe to repeat, and is not."""
        rng = self._world.clock.rng
        for attempt in range(6):
            if request.key and rng.random() < 0.15:
                twin = asyncio.create_task(self._attempt(request, attempt + 100))
                await asyncio.gather(self._attempt(request, attempt), twin)
                return
            if await self._attempt(request, attempt) or not request.key:
                return
            await asyncio.sleep(rng.random() * 0.5)

    async def _attempt(self, request: Request, attempt: int) -> bool:
        """Whether it was answered, by an acceptance or a refusal."""
        world = self._world
        rng = world.clock.rng
        roles = [r for r in world.roles if r.process.role == "ingest" and r.ready]
        if not roles:
            await asyncio.sleep(0.2)
            return False
        role = rng.choice(roles)
        answer = self.process.create_future()
        self._number += 1
        number = self._number
        self._open.setdefault(role.process.name, {})[number] = answer
        world.clock.after(
            world.weather.latency(rng), self._arrive, role, request, attempt, partial(self._answer, answer)
        )
        try:
            async with asyncio.timeout(world.settings.timeout_s + 2):
                kind = await answer
        except (TimeoutError, _Reset):
            kind = "unanswered"
        finally:
            self._open.get(role.process.name, {}).pop(number, None)
        self.answered[kind] = self.answered.get(kind, 0) + 1
        return kind in ("202", "402", "409", "422")

    def _arrive(self, role: Role, request: Request, attempt: int, answer: Any) -> None:
        """The request reaches the process: its own loop takes it from there."""
        if role.process.alive:
            serving = partial(self._serve, role, request, attempt, answer)
            role.process.call_soon(lambda: role.process.create_task(serving()))

    async def _serve(self, role: Role, request: Request, attempt: int, answer: Any) -> None:
        """As the HTTP face does: one submit, one answer; and what it says must be true."""
        world, name = self._world, role.process.name
        truth = world.truth
        world.requests[name] = world.requests.get(name, 0) + 1
        asked = truth.begin(request.organisation_id)
        asking.set(asked)
        began = world.clock.now
        self._number += 1
        reference = f"{request.key}#{attempt}" if request.key else f"#{self._number}"
        drafts = [msgspec.structs.replace(d, reference=reference) for d in request.drafts]
        kind = "503"
        try:
            assert role.ingest is not None
            submitted = await role.ingest.submit(
                request.organisation_id,
                drafts,
                render=_render_atomic if request.atomic else _render,
                idempotency_key=request.key,
                fingerprint=request.key.encode(),
            )
            kind = self._check(asked, request, submitted)
        except Refusal as refusal:
            kind = str(int(refusal.status))
        except Unavailable as e:
            world.clock.trace(name, "503", e.detail)
            if not isinstance(e, Undecided):
                truth.never.add(reference)
            if began > world.settings.chaos_s + GRACE_S:
                truth.fail(f"{name} could not serve though nothing has been wrong: {e.detail}")
        finally:
            truth.end(asked)
            world.requests[name] -= 1
        took_s = world.clock.now - began
        if took_s > CALM_ANSWER_S and began > world.settings.chaos_s + GRACE_S:
            truth.fail(f"{name} took {took_s:.3f} s for an answer though nothing has been wrong")
        world.clock.trace(name, "answers", kind, "organisation", request.organisation_id, reference)
        world.clock.after(world.weather.latency(world.clock.rng), answer, kind)

    def _check(self, asked: Any, request: Request, submitted: Submitted) -> str:
        outcomes = msgspec.json.decode(submitted.answer)
        accepted = [o["id"] for o in outcomes if "id" in o]
        self._world.truth.accepted(accepted)
        if not submitted.replayed:
            units = sum(cost for o, cost in zip(outcomes, request.costs, strict=True) if "id" in o)
            for outcome, cost in zip(outcomes, request.costs, strict=True):
                # Another refusal: a repetition came after the time at which it was to be sent.
                if outcome.get("code") == "insufficient_credit":
                    self._world.truth.refused(asked, units, cost)
        return "202" if accepted else "402"

    def _answer(self, future: asyncio.Future[Any], kind: str) -> None:
        self.process.call_soon(lambda: future.done() or future.set_result(kind))

    def _died(self, role: Role) -> None:
        for future in self._open.pop(role.process.name, {}).values():
            self.process.call_soon(_reset, future)


def _reset(future: asyncio.Future[Any]) -> None:
    if not future.done():
        future.set_exception(_Reset())


def _render_atomic(outcomes: Sequence[Outcome]) -> bytes:
    for outcome in outcomes:
        if isinstance(outcome, Refusal):
            raise outcome
    return _render(outcomes)


def _render(outcomes: Sequence[Outcome]) -> bytes:
    return msgspec.json.encode([o if isinstance(o, Accepted) else {"code": o.code} for o in outcomes])
