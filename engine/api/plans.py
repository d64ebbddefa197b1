"""The admin call that plans capacity."""

from __future__ import annotations

from aiohttp import web

from engine.api.decoding import Shape, read_body
from engine.api.description import Answer, described
from engine.api.ports import AdminServices
from engine.api.response import Response, answer_of
from engine.capacity.plan_answer import PlanAnswer
from engine.capacity.wish import PEAKS_MAX, QUESTIONS_MAX, TARGETS_MAX, PlanWish
from engine.errors import TooMany

# How long the call may take, seconds.
CALL_S = 70.0

_WISH = Shape(
    PlanWish,
    "a wish for a plan",
    {
        "peaks": f"at most {PEAKS_MAX} objects with `organisation`, `queue`, `messages_per_second`, `burst`; "
        "none: the busiest minutes that were recorded",
        "days": "a whole number from 1 to 3660: in how many days the busiest minutes are looked for",
        "response_times": "how long a provider takes to answer, as p50=80ms,p99=900ms; empty: as recorded",
        "targets": f"at most {TARGETS_MAX} texts such as `express p99 <= 2s`",
        "throughput": "segments a second that the provider takes, from 0.01 to 1,000,000, or null",
        "express_share": "the part of the throughput that is kept for express, from 0 to 1",
        "segments": "segments a message, from 1 to 20, or null",
        "failures": "the part of the sends that fail for a while, from 0 to 0.9",
        "concurrency_max": "a whole number from 1 to 10,000: sends in flight in one process",
        "processes_max": "a whole number from 1 to 256",
        "cores": "the cores of a node, a whole number up to 4,096; 0: as many as may be used here",
        "what_if": f"at most {QUESTIONS_MAX} texts such as `arrivals x2`",
    },
)


class PlanCalls:
    """The action on /v1/admin/plan."""

    def __init__(self, services: AdminServices) -> None:
        self._plan = services.plan
        self._body_bytes_max = services.body_bytes_max
        self._is_planning = False

    @described(
        "make_plan",
        "Find the processes and the concurrency that meet targets of latency.",
        more="It changes nothing. It takes some seconds, and one plan at a time is made.",
        body=_WISH,
        is_body_optional=True,
        examples={
            "peaks": {
                "peaks": [{"organisation": "shop", "queue": "express", "messages_per_second": 5}],
                "response_times": "p50=80ms,p99=900ms",
            }
        },
        answers={200: Answer(PlanAnswer)},
        codes=("plan_under_way",),
    )
    async def make(self, request: web.Request) -> Response:
        """`POST /plan`: 200 with a `PlanAnswer`. Raises Refusal 400, 413, 422, TooMany, Unavailable."""
        wish = _WISH.decode_optional(await read_body(request, self._body_bytes_max))
        if self._is_planning:
            detail = "Another plan is being made; try again in some seconds."
            raise TooMany(
                "plan_under_way", detail, "plans", quota=1, window_s=0, remaining=0, retry_after_s=5.0
            )
        self._is_planning = True
        try:
            return answer_of(200, await self._plan(wish))
        finally:
            self._is_planning = False
