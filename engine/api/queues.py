"""The operator's calls that pause or drain a queue and let it go on."""

from __future__ import annotations

import msgspec
from aiohttp import web

from engine.api.admin_call import posted
from engine.api.decoding import Shape
from engine.api.description import described
from engine.api.parameters import QUEUE
from engine.api.ports import AdminServices
from engine.api.problems import not_found
from engine.api.response import Response, answer_of
from engine.organisations import Drain, Pause
from engine.records import QUEUES, Queue


class _Pause(msgspec.Struct, forbid_unknown_fields=True):
    reason: str = ""


class _Nothing(msgspec.Struct, forbid_unknown_fields=True):
    pass


class _Queue(msgspec.Struct):
    queue: Queue
    # Null: it is not paused, or not drained.
    pause: Pause | None
    drain: Drain | None


_PAUSE = Shape(_Pause, "a pause", {"reason": "a string of 1 to 200 characters"})
_DRAIN = Shape(_Pause, "a drain", {"reason": "a string of 1 to 200 characters"})
_RESUMPTION = Shape(_Nothing, "an end of a pause", {})


class QueuePauses:
    """The actions on /v1/admin/queues/{queue}/pause, drain and resume."""

    def __init__(self, services: AdminServices) -> None:
        self._routing = services.routing
        self._body_bytes_max = services.body_bytes_max

    @described(
        "pause_queue",
        "Send nothing of a queue; its messages are accepted and wait.",
        path=QUEUE,
        body=_PAUSE,
        is_body_optional=True,
        limits={"reason": {"maxLength": 200}},
        examples={"a reason": {"reason": "a wrong text"}},
        answers={200: _Queue},
        once=True,
    )
    async def pause(self, request: web.Request) -> Response:
        """`POST /queues/{queue}/pause`: 200; nothing of it is sent any more.

        Safe to repeat. Raises Refusal 400, 401, 404, 409, 413, 422, Unavailable.
        """
        return await self._set_paused(request, _PAUSE)

    @described(
        "resume_queue",
        "Let a queue go on that is paused or drained.",
        path=QUEUE,
        body=_RESUMPTION,
        is_body_optional=True,
        answers={200: _Queue},
        once=True,
    )
    async def resume(self, request: web.Request) -> Response:
        """`POST /queues/{queue}/resume`: 200; neither paused nor drained, it goes on. Raises as `pause`."""
        return await self._set_paused(request, _RESUMPTION)

    @described(
        "drain_queue",
        "Take no new messages for a queue, and deliver those that wait.",
        path=QUEUE,
        body=_DRAIN,
        is_body_optional=True,
        limits={"reason": {"maxLength": 200}},
        examples={"a reason": {"reason": "a wrong text"}},
        answers={200: _Queue},
        codes=("queue_paused",),
        once=True,
    )
    async def drain(self, request: web.Request) -> Response:
        """`POST /queues/{queue}/drain`: 200; it takes no new messages, and those that wait are delivered.

        Safe to repeat. Raises as `pause` does; 409 also when it is paused.
        """
        body, once = await posted(request, self._body_bytes_max)
        queue, wanted = queue_of(request), _DRAIN.decode_optional(body)
        drain = await self._routing.drain_queue(queue, wanted.reason, once)
        return answer_of(200, _Queue(queue, (await self._routing.queue_pauses()).get(queue), drain))

    async def _set_paused(self, request: web.Request, shape: Shape[_Pause] | Shape[_Nothing]) -> Response:
        body, once = await posted(request, self._body_bytes_max)
        queue = queue_of(request)
        wanted = shape.decode_optional(body)
        reason = wanted.reason if isinstance(wanted, _Pause) else None
        pause = await self._routing.pause_queue(queue, reason, once)
        return answer_of(200, _Queue(queue, pause, (await self._routing.queue_drains()).get(queue)))


def queue_of(request: web.Request) -> Queue:
    """The queue in the path. Raises Refusal 404."""
    for queue in QUEUES:
        if queue == request.match_info["queue"]:
            return queue
    raise not_found(f"There is no queue of this name: the queues are {' and '.join(QUEUES)}.")
