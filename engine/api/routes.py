"""The operator's calls on routes and providers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec
from aiohttp import web

from engine.api.admin_call import posted
from engine.api.decoding import Shape, read_body
from engine.api.description import described
from engine.api.parameters import PROVIDER
from engine.api.ports import AdminServices
from engine.api.problems import not_found
from engine.api.response import Response, answer_of
from engine.errors import Refusal
from engine.organisations import Pause
from engine.routing.records import Route, RoutingPlan
from engine.stores.redis.problems import ProblemCounts


class _NewRoutes(msgspec.Struct, forbid_unknown_fields=True):
    # Each is decoded by itself, so that an error names the one that is wrong.
    routes: list[msgspec.Raw]
    version: int | None = None


class _Routes(msgspec.Struct):
    version: int
    routes: tuple[Route, ...]


class _Pause(msgspec.Struct, forbid_unknown_fields=True):
    reason: str = ""


class _Nothing(msgspec.Struct, forbid_unknown_fields=True):
    pass


class _Change(msgspec.Struct, forbid_unknown_fields=True):
    throughput: float | None


class _Throughput(msgspec.Struct):
    """Segments per second, all workers together; null: unlimited."""

    configured: float | None
    in_force: float | None


class _Provider(msgspec.Struct):
    name: str
    type: str
    paused: bool
    # Null: it is not paused.
    pause: Pause | None
    throughput: _Throughput


class _Providers(msgspec.Struct):
    version: int
    # In the order of the configuration.
    providers: list[_Provider]


class _Problems(msgspec.Struct):
    problems: Sequence[ProblemCounts]


_ROUTES = Shape(
    _NewRoutes,
    "a routing table",
    {
        "routes": "an array of routes, each an object",
        "version": "the version that the change is based on, a whole number",
    },
)
_ROUTE = Shape(
    Route,
    "a route",
    {
        "prefix": 'a string: empty, or "+" and 1 to 15 digits',
        "sender": "a string",
        "queue": "express, normal or empty",
        "providers": "an array of names of providers",
        "weights": "an array of whole numbers",
        "reroute": "true or false",
    },
)
_PAUSE = Shape(_Pause, "a pause", {"reason": "a string of 1 to 200 characters"})
_RESUMPTION = Shape(_Nothing, "an end of a pause", {})
_CHANGE = Shape(
    _Change, "a change of a provider", {"throughput": "a number of segments a second, or null: as configured"}
)


class Routes:
    """The actions on /v1/admin/routes."""

    def __init__(self, services: AdminServices) -> None:
        self._routing = services.routing
        self._body_bytes_max = services.body_bytes_max

    @described("list_routes", "Show which providers carry what.", answers={200: _Routes})
    async def show(self, request: web.Request) -> Response:
        """`GET /v1/admin/routes`: 200 with all routes and the version. Raises Refusal 401, Unavailable."""
        return _shown(await self._routing.read())

    @described(
        "replace_routes",
        "Replace all routes in one step.",
        body=_ROUTES,
        parts={"routes": _ROUTE},
        examples={
            "one route": {"routes": [{"prefix": "+98", "providers": ["simulated"]}]},
            "none": {"routes": []},
        },
        answers={200: _Routes},
        codes=("version_conflict",),
    )
    async def replace(self, request: web.Request) -> Response:
        """`PUT /v1/admin/routes`: 200 with the routes that stand now.

        Safe to repeat: the same routes again change nothing, whatever `version` says. Raises
        Refusal 400, 401, 409, 413, 422, Unavailable.
        """
        wanted = _ROUTES.decode(await read_body(request, self._body_bytes_max))
        routes = [_route(number, route) for number, route in enumerate(wanted.routes)]
        return _shown(await self._routing.replace(routes, wanted.version))


class Providers:
    """The actions on /v1/admin/providers."""

    def __init__(self, services: AdminServices) -> None:
        self._routing = services.routing
        self._problems = services.provider_problems
        self._settings = {p.name: p for p in services.providers}
        self._body_bytes_max = services.body_bytes_max

    @described("list_providers", "List the providers of the configuration.", answers={200: _Providers})
    async def show_all(self, request: web.Request) -> Response:
        """`GET /v1/admin/providers`: 200, in the order of the configuration. Raises Refusal 401,
        Unavailable."""
        plan, pauses = await self._routing.read(), await self._routing.provider_pauses()
        found = [self._provider(name, plan, pauses) for name in self._settings]
        return answer_of(200, _Providers(plan.version, found))

    @described("get_provider", "Show one provider.", path=PROVIDER, answers={200: _Provider})
    async def show(self, request: web.Request) -> Response:
        """`GET /v1/admin/providers/{name}`: 200 with that one. Raises Refusal 401, 404, Unavailable."""
        name = self._named(request)
        return await self._shown(name, await self._routing.read())

    @described(
        "pause_provider",
        "Send nothing through a provider.",
        path=PROVIDER,
        body=_PAUSE,
        is_body_optional=True,
        limits={"reason": {"maxLength": 200}},
        examples={"a reason": {"reason": "its receipts do not come"}},
        answers={200: _Provider},
        once=True,
    )
    async def pause(self, request: web.Request) -> Response:
        """`POST /v1/admin/providers/{name}/pause`: 200; nothing is sent through it any more.

        Safe to repeat. Raises Refusal 400, 401, 404, 409, 413, 422, Unavailable.
        """
        return await self._set_paused(request, _PAUSE)

    @described(
        "resume_provider",
        "Send through a provider again.",
        path=PROVIDER,
        body=_RESUMPTION,
        is_body_optional=True,
        answers={200: _Provider},
        once=True,
    )
    async def resume(self, request: web.Request) -> Response:
        """`POST /v1/admin/providers/{name}/resume`: 200; it is sent through again. Raises as `pause` does."""
        return await self._set_paused(request, _RESUMPTION)

    @described(
        "change_provider",
        "Set the throughput of a provider.",
        path=PROVIDER,
        body=_CHANGE,
        limits={"throughput": {"minimum": 0.01, "maximum": 1_000_000}},
        examples={"fifty a second": {"throughput": 50}},
        answers={200: _Provider},
    )
    async def change(self, request: web.Request) -> Response:
        """`PUT /v1/admin/providers/{name}`: set its throughput; 200 with the provider.

        Safe to repeat. Raises Refusal 400, 401, 404, 413, 422, Unavailable.
        """
        name = self._named(request)
        wanted = _CHANGE.decode(await read_body(request, self._body_bytes_max))
        return await self._shown(name, await self._routing.set_throughput(name, wanted.throughput))

    @described("list_problems", "List what providers sent that was not understood.", answers={200: _Problems})
    async def all_problems(self, request: web.Request) -> Response:
        """`GET /v1/admin/problems`: 200 with what any provider sent that was not understood, how often.

        Raises Refusal 401, Unavailable.
        """
        return answer_of(200, _Problems(await self._problems.counts(list(self._settings))))

    @described(
        "list_provider_problems",
        "List what one provider sent that was not understood, with samples.",
        path=PROVIDER,
        answers={200: _Problems},
    )
    async def problems(self, request: web.Request) -> Response:
        """`GET /v1/admin/providers/{name}/problems`: 200 with those of one, and the last samples.

        Raises Refusal 401, 404, Unavailable.
        """
        return answer_of(200, _Problems(await self._problems.of(self._named(request))))

    async def _set_paused(self, request: web.Request, shape: Shape[_Pause] | Shape[_Nothing]) -> Response:
        body, once = await posted(request, self._body_bytes_max)
        name = self._named(request)
        wanted = shape.decode_optional(body)
        reason = wanted.reason if isinstance(wanted, _Pause) else ""
        plan = await self._routing.set_paused(name, isinstance(wanted, _Pause), reason, once)
        return await self._shown(name, plan)

    async def _shown(self, name: str, plan: RoutingPlan) -> Response:
        return answer_of(200, self._provider(name, plan, await self._routing.provider_pauses()))

    def _named(self, request: web.Request) -> str:
        name = request.match_info["name"]
        if name not in self._settings:
            raise not_found("There is no provider with this name in the configuration.")
        return name

    def _provider(self, name: str, plan: RoutingPlan, pauses: Mapping[str, Pause]) -> _Provider:
        settings = self._settings[name]
        return _Provider(
            name=name,
            type=str(settings.__struct_config__.tag),
            paused=name in pauses,
            pause=pauses.get(name),
            throughput=_Throughput(settings.throughput, plan.throughput.get(name, settings.throughput)),
        )


def _route(number: int, raw: msgspec.Raw) -> Route:
    """Raises Refusal naming the route by its number."""
    try:
        return _ROUTE.decode(raw)
    except Refusal as e:
        at = f"routes.{number}"
        if e.field is None:
            raise Refusal(e.code, e.status, e.detail.replace("The body", f"`{at}`", 1), at) from e
        raise Refusal(e.code, e.status, f"`{at}`: {e.detail}", f"{at}.{e.field}") from e


def _shown(plan: RoutingPlan) -> Response:
    return answer_of(200, _Routes(plan.version, plan.routes))
