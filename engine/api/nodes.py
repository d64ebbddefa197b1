"""The operator's calls about nodes: which there are, drain, resume, and how many workers each has."""

from __future__ import annotations

import msgspec
from aiohttp import web

from engine.api.admin_call import posted
from engine.api.decoding import Shape
from engine.api.description import described
from engine.api.parameters import NODE, QUEUE
from engine.api.ports import AdminServices
from engine.api.queues import queue_of
from engine.api.response import Response, answer_of
from engine.nodes.records import CONCURRENCY_MAX, PROCESSES_MAX, Nodes, NodeWish, QueueScale
from engine.records import Queue

_BOOLEAN = "true or false"


class _Drain(msgspec.Struct, forbid_unknown_fields=True):
    reason: str = ""
    # Also when no other node does what this one does.
    force: bool = False


class _Nothing(msgspec.Struct, forbid_unknown_fields=True):
    pass


class _Scale(msgspec.Struct, forbid_unknown_fields=True):
    # Null: as the configuration of the node says.
    processes: int | None
    # Sends in flight in each; null: the same; left out: as it is.
    concurrency: int | msgspec.UnsetType | None = msgspec.UNSET
    # Null: the node that answers.
    node: str | None = None
    force: bool = False


class _Wished(msgspec.Struct):
    node: str
    wish: NodeWish


class _Scaled(msgspec.Struct):
    queue: Queue
    node: str
    processes: int | None
    concurrency: int | None


_DRAIN = Shape(_Drain, "a drain", {"reason": "a string of 1 to 200 characters", "force": _BOOLEAN})
_RESUMPTION = Shape(_Nothing, "an end of a drain", {})
_SCALE = Shape(
    _Scale,
    "a number of processes",
    {
        "processes": f"a whole number from 0 to {PROCESSES_MAX}, or null: as configured",
        "concurrency": f"a whole number from 1 to {CONCURRENCY_MAX}, or null: as configured",
        "node": "the name of a node, or null: the one that answers",
        "force": _BOOLEAN,
    },
)


class NodeCalls:
    """The actions on /v1/admin/nodes, and /v1/admin/queues/{queue}/scale."""

    def __init__(self, services: AdminServices) -> None:
        self._nodes = services.nodes
        self._body_bytes_max = services.body_bytes_max

    @described("list_nodes", "List the nodes of the engine and their processes.", answers={200: Nodes})
    async def show_all(self, _: web.Request) -> Response:
        """`GET /nodes`: 200 with a `nodes.records.Nodes`. Raises Refusal 401, Unavailable."""
        return answer_of(200, await self._nodes.nodes())

    @described(
        "drain_node",
        "Let a node take nothing new.",
        path=NODE,
        body=_DRAIN,
        is_body_optional=True,
        limits={"reason": {"maxLength": 200}},
        examples={"a reason": {"reason": "new disk", "force": True}},
        answers={200: _Wished},
        codes=("last_node",),
        once=True,
    )
    async def drain(self, request: web.Request) -> Response:
        """`POST /nodes/{name}/drain`: 200; it takes nothing new from about a second later on.

        Safe to repeat. Raises Refusal 400, 401, 404, 409, 413, 422, Unavailable.
        """
        body, once = await posted(request, self._body_bytes_max)
        wanted, name = _DRAIN.decode_optional(body), request.match_info["name"]
        wish = await self._nodes.drain(name, wanted.reason, force=wanted.force, once=once)
        return answer_of(200, _Wished(name, wish))

    @described(
        "resume_node",
        "Let a node work again.",
        path=NODE,
        body=_RESUMPTION,
        is_body_optional=True,
        answers={200: _Wished},
        once=True,
    )
    async def resume(self, request: web.Request) -> Response:
        """`POST /nodes/{name}/resume`: 200; it works again. Raises as `drain` does."""
        body, once = await posted(request, self._body_bytes_max)
        _RESUMPTION.decode_optional(body)
        name = request.match_info["name"]
        return answer_of(200, _Wished(name, await self._nodes.resume(name, once)))

    @described(
        "scale_queue",
        "Say how many workers of a queue a node has.",
        path=QUEUE,
        body=_SCALE,
        limits={"processes": {"minimum": 0, "maximum": PROCESSES_MAX}},
        examples={"two": {"processes": 2}},
        answers={200: _Scaled},
        codes=("last_node", "no_providers"),
        once=True,
    )
    async def scale(self, request: web.Request) -> Response:
        """`POST /queues/{queue}/scale`: 200; the node has so many workers of it about a second later.

        Safe to repeat. Raises as `drain` does.
        """
        body, once = await posted(request, self._body_bytes_max)
        queue = queue_of(request)
        wanted = _SCALE.decode(body)
        name = self._nodes.node if wanted.node is None else wanted.node
        scale = QueueScale(processes=wanted.processes, concurrency=wanted.concurrency)
        wish = await self._nodes.scale(name, queue, scale, force=wanted.force, once=once)
        return answer_of(200, _Scaled(queue, name, wish.processes.get(queue), wish.concurrency.get(queue)))
