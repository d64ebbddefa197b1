"""Rule: a plan that is wished for by a call: what it is about, and the answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated

import msgspec
from msgspec import Meta

from engine.capacity import plan_answer, response_times, targets, traffic
from engine.capacity.autoscale_settings import DEFAULT_TARGETS
from engine.capacity.costs import REFERENCE, Costs
from engine.capacity.peaks import Peak
from engine.capacity.plan import CONCURRENCY_MAX, PROCESSES_MAX, Bounds, Planner
from engine.capacity.plan_answer import PlanAnswer
from engine.capacity.response_times import ResponseTimes
from engine.capacity.simulation import System
from engine.capacity.traffic import BusyMinute
from engine.records import Queue
from engine.written_numbers import plural

PEAKS_MAX, TARGETS_MAX, QUESTIONS_MAX = 1_000, 16, 8


class PeakWish(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one organisation sends in one queue at the busiest time."""

    organisation: Annotated[str, Meta(min_length=1, max_length=200)]
    queue: Queue
    messages_per_second: Annotated[float, Meta(gt=0, le=1e6)]
    burst: Annotated[int, Meta(ge=1, le=10_000_000)] = 1


class PlanWish(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is planned for."""

    # Empty: the busiest minutes of the last `days` days.
    peaks: Annotated[list[PeakWish], Meta(max_length=PEAKS_MAX)] = []
    days: Annotated[int, Meta(ge=1, le=3660)] = 30
    # As `response_times.parse` reads them; "": as they were recorded.
    response_times: Annotated[str, Meta(max_length=1_000)] = ""
    # As `targets.parse` reads them; empty: those that autoscaling has without any.
    targets: Annotated[list[str], Meta(max_length=TARGETS_MAX)] = []
    # Segments a second that the provider takes; None: no limit. The part of it that is kept for express.
    throughput: Annotated[float, Meta(ge=0.01, le=1e6)] | None = None
    express_share: Annotated[float, Meta(ge=0, le=1)] = 0.2
    # Segments a message; None: as recorded, or 1.
    segments: Annotated[float, Meta(ge=1, le=20)] | None = None
    failures: Annotated[float, Meta(ge=0, le=0.9)] = 0.0
    concurrency_max: Annotated[int, Meta(ge=1, le=CONCURRENCY_MAX)] = CONCURRENCY_MAX
    processes_max: Annotated[int, Meta(ge=1, le=PROCESSES_MAX)] = PROCESSES_MAX
    # Of one node; 0: as many as this one has.
    cores: Annotated[int, Meta(ge=0, le=4096)] = 0
    what_if: Annotated[list[str], Meta(max_length=QUESTIONS_MAX)] = []


class PlanRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A wish, with what is known here."""

    wish: PlanWish
    # Recorded; empty when the wish has peaks.
    busiest: list[BusyMinute]
    # None: nobody has measured them here.
    costs: Costs | None
    backoff_s: dict[Queue, float]
    cores: float


class PlanRefused(msgspec.Struct, frozen=True, kw_only=True, tag="refused"):
    """A wish for which there is no plan because of one of its fields."""

    field: str
    # One sentence on what is allowed.
    detail: str


def planned(request: PlanRequest) -> PlanAnswer | PlanRefused:
    """The answer to a wish; it takes seconds."""
    wish = request.wish
    try:
        system = _system(request)
        wanted = [_target(text) for text in wish.targets or _targets(system.queues)]
    except _Wrong as e:
        return PlanRefused(field=e.field, detail=e.detail)
    bounds = Bounds(concurrency_max=wish.concurrency_max, processes_max=wish.processes_max)
    remarks = [
        f"{one}: nothing arrives in {one.queue}, so it says nothing."
        for one in wanted
        if one.queue not in system.queues
    ]
    if request.costs is None:
        remarks.append(
            "what the engine costs is that of a reference machine; `make calibrate` measures this one."
        )
    plan = Planner(system, wanted, bounds).find()
    try:
        return plan_answer.answer(
            plan, wanted, bounds,
            cores_per_node=wish.cores or request.cores, questions=wish.what_if, warnings=remarks,
        )  # fmt: skip
    except ValueError as e:
        return PlanRefused(field="what_if", detail=f"`what_if`: {e}.")


class _Wrong(Exception):
    def __init__(self, field: str, detail: str) -> None:
        super().__init__(detail)
        self.field = field
        self.detail = detail


def _system(request: PlanRequest) -> System:
    wish, minutes = request.wish, request.busiest
    peaks = [Peak(p.organisation, p.queue, p.messages_per_second, p.burst) for p in wish.peaks]
    if len({(p.organisation, p.queue) for p in peaks}) < len(peaks):
        raise _Wrong("peaks", "`peaks` must have one entry for each organisation and queue.")
    if not peaks:
        peaks = traffic.peaks_of(minutes)
    if not peaks:
        days = f"{wish.days} {plural('day', wish.days)}"
        detail = f"No message was accepted in {days}, so `peaks` must say what arrives."
        raise _Wrong("peaks", detail)
    recorded = {minute.queue: traffic.response_times_of(minute) for minute in minutes}
    known = {queue: times for queue, times in recorded.items() if times is not None}
    return System(
        peaks=peaks,
        answers=_answers(wish.response_times, known),
        costs=request.costs or REFERENCE,
        throughput=wish.throughput,
        express_share=wish.express_share,
        segments=wish.segments or traffic.segments_of(minutes),
        failed=wish.failures,
        backoff_s=request.backoff_s,
    )


def _answers(text: str, known: Mapping[Queue, ResponseTimes]) -> dict[Queue, ResponseTimes]:
    """By queue; of one in which nothing was recorded, those of the other."""
    if not text.strip():
        if not known:
            detail = "`response_times` must say how long the provider takes to answer: none is recorded."
            raise _Wrong("response_times", detail)
        some = next(iter(known.values()))
        return {queue: known.get(queue, some) for queue in DEFAULT_TARGETS}
    try:
        return dict.fromkeys(DEFAULT_TARGETS, response_times.parse(text))
    except ValueError as e:
        raise _Wrong("response_times", f"`response_times`: {e}.") from e


def _targets(queues: Sequence[Queue]) -> list[str]:
    return [f"{queue} {DEFAULT_TARGETS[queue]}" for queue in queues]


def _target(text: str) -> targets.Target:
    try:
        return targets.parse(text)
    except ValueError as e:
        raise _Wrong("targets", f"`targets` {e}.") from e
