"""The HTTP API: which action answers which call."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import NamedTuple

import msgspec
from aiohttp import HttpVersion11, hdrs, web

from engine.api.accounts import Accounts
from engine.api.admin_call import AdminCalls
from engine.api.admin_routes import admin_routes
from engine.api.auth import Keys
from engine.api.auto_replies import OWN_AUTO_REPLIES, AutoReplies
from engine.api.cancels import CancelCalls
from engine.api.description import Answer, described, description_of
from engine.api.estimates import Estimates
from engine.api.exports import OwnExports
from engine.api.guard import Action, Exchanges, Handler, asked_as_described
from engine.api.inbound import InboundPushes, OwnInbound
from engine.api.last_uses import LastUses
from engine.api.message_lists import MessageListCalls
from engine.api.messages import SUBMISSIONS, Messages
from engine.api.metrics import Metrics
from engine.api.openapi import Call
from engine.api.opt_outs import OWN_OPT_OUTS, OptOuts
from engine.api.own_keys import OwnKeys
from engine.api.pages import Pages
from engine.api.ports import AdminServices, CommonServices, Services
from engine.api.problems import MethodNotAllowed, not_found
from engine.api.receipts import Receipts
from engine.api.reports import REPORT_S, OwnReports
from engine.api.response import Response, answer_of
from engine.api.senders import OwnSenders
from engine.api.webhooks import own_webhooks
from engine.errors import Refusal

# By path and method.
Actions = dict[str, dict[str, Action]]
# Also a path with a line end in it (%0A), which `.` would leave to aiohttp.
_ANY = r"/{tail:[\s\S]*}"
# Of the calls of organisations that have a time of their own: by path, seconds.
OWN_TIMES = {"/v1/reports/summary": REPORT_S, "/v1/reports/messages": REPORT_S}
_NO_TIMES: Mapping[str, float] = {}


class AdminCallTable(NamedTuple):
    """The admin calls of one process, for who answers them in another way too."""

    app: web.Application
    exchanges: Exchanges
    calls: AdminCalls
    # Those under /v1/admin, and the time of those that have one of their own, seconds, by path.
    actions: Actions
    times: Mapping[str, float]


class _Readiness(msgspec.Struct):
    status: str
    parts: dict[str, str]


class Probes:
    """The actions that a load balancer calls: /healthz and /readyz. They need no key."""

    def __init__(self, services: CommonServices, accepts: Callable[[], bool]) -> None:
        """`accepts`: whether the process accepts messages although PostgreSQL is away."""
        self._ready = services.ready
        self._accepts = accepts
        self._draining = services.draining
        self._drained = services.drained

    def actions(self) -> Actions:
        """By path and method."""
        return {"/healthz": {"GET": self.alive}, "/readyz": {"GET": self.ready}}

    @described(
        "get_health",
        "Say that the process answers.",
        answers={200: Answer(dict[str, str], example={"status": "ok"})},
        any_query=True,
    )
    async def alive(self, _: web.Request) -> Response:
        """`GET /healthz`: 200 as long as this process answers anything, also while it drains."""
        return Response(200, b'{"status":"ok"}')

    @described(
        "get_readiness",
        "Say whether the process can accept messages.",
        answers={200: _Readiness, 503: Answer(_Readiness, "It cannot, and `parts` says why.")},
        any_query=True,
    )
    async def ready(self, _: web.Request) -> Response:
        """`GET /readyz`: 200 when the process can accept messages, else 503.

        Without Redis it cannot. Without PostgreSQL it can (`limited`) as long as it knows keys of callers
        and has quota to spend. If it counted as unavailable then, an outage of PostgreSQL would take
        every node out of its load balancer.
        """
        parts = await self._ready()
        away = {name for name, state in parts.items() if state != "ok"}
        if self._draining.is_set():
            return answer_of(503, _Readiness("draining", parts))
        if self._drained():
            return answer_of(503, _Readiness("drained", parts))
        if not away:
            return answer_of(200, _Readiness("ok", parts))
        if away == {"postgres"} and self._accepts():
            return answer_of(200, _Readiness("limited", parts))
        return answer_of(503, _Readiness("unavailable", parts))


def own_actions(services: CommonServices, keys: Keys) -> Actions:
    """The calls of organisations on what is theirs; none of them submits a message."""
    accounts, cancels = Accounts(services, keys), CancelCalls(services, keys)
    lists, own_keys = MessageListCalls(services, keys), OwnKeys(services, keys)
    return {
        "/v1/messages": {"GET": lists.page},
        "/v1/messages/cancel": {"POST": cancels.campaign},
        "/v1/messages/{id}": {"GET": lists.message},
        "/v1/messages/{id}/cancel": {"POST": cancels.message},
        "/v1/batches/{id}": {"GET": lists.batch},
        "/v1/batches/{id}/cancel": {"POST": cancels.batch},
        "/v1/balance": {"GET": accounts.balance},
        "/v1/balance/transactions": {"GET": accounts.transactions},
        "/v1/reports/summary": {"GET": OwnReports(services, keys).summary},
        "/v1/reports/messages": {"GET": OwnExports(services, keys).messages},
        "/v1/inbound-messages": {"GET": OwnInbound(services, keys).show},
        "/v1/senders": {"GET": OwnSenders(services, keys).show, "PATCH": own_keys.change_sender},
        **OptOuts(services).of_callers(keys, OWN_OPT_OUTS),
        **AutoReplies(services).of_callers(keys, OWN_AUTO_REPLIES),
        **own_webhooks(services, keys),
        **own_keys.actions(),
    }


def _actions_of(services: Services, keys: Keys) -> Actions:
    """The calls of organisations and providers, and the probes."""
    messages, receipts, pushes = Messages(services, keys), Receipts(services), InboundPushes(services)
    probes = Probes(services, lambda: keys.are_known() and services.can_spend())
    actions: Actions = {
        **{path: {"POST": messages.submit(path)} for path in SUBMISSIONS},
        "/v1/messages/estimate": {"POST": Estimates(services, keys).estimate},
    }
    for path, of in own_actions(services, keys).items():
        actions.setdefault(path, {}).update(of)
    return {
        **actions,
        "/v1/providers/{name}/receipts/{token}": {"GET": receipts.take, "POST": receipts.take},
        "/v1/providers/{name}/inbound/{token}": {"GET": pushes.take, "POST": pushes.take},
        **probes.actions(),
    }


def create_app(services: Services, keys: Keys | None = None) -> web.Application:
    """The public API, to be served by `server.Server`. Call this on the loop that will serve it.

    `keys`: the API keys it knows; None: its own, closed with the application.
    """
    keys = keys or Keys(services.directory, services.trusted_proxies)
    uses = LastUses(keys.cache, services.note_key_uses)
    actions = _actions_of(services, keys)
    pages = Pages(lambda: [*_calls(actions), *_admin_calls(services.admin)])
    actions |= pages.actions()
    app, exchanges = web.Application(), Exchanges(services)
    route_calls(app.router, actions, exchanges, OWN_TIMES)
    if services.admin is not None:
        _route_admin(app, services.admin, exchanges)
    else:
        _refuse(app.router, exchanges, r"/v1/admin{tail:(/[\s\S]*)?}", _refuse_admin)
        _refuse(app.router, exchanges, "/metrics", _refuse_admin)
    _refuse(app.router, exchanges, _ANY, _refuse_path)

    async def own_keys(_: web.Application) -> AsyncIterator[None]:
        noting = asyncio.create_task(uses.run(), name="last uses of API keys")
        yield
        noting.cancel()
        await uses.flush()
        await keys.close()

    app.cleanup_ctx.append(own_keys)
    return app


def create_admin_app(
    services: AdminServices, attach: Callable[[AdminCallTable], None] = lambda table: None
) -> web.Application:
    """The admin calls, /metrics and the probes alone, to be served as `create_app` is.

    `attach` adds what else is answered at this address, such as the console."""
    app, exchanges = web.Application(), Exchanges(services)
    actions = Probes(services, lambda: False).actions()
    pages = Pages(lambda: [*_calls(actions), *_admin_calls(services)])
    actions |= pages.actions()
    route_calls(app.router, actions, exchanges)
    attach(_route_admin(app, services, exchanges))
    _refuse(app.router, exchanges, _ANY, _refuse_path)
    return app


def _calls(actions: Actions) -> list[Call]:
    return [
        Call(method, path, description_of(action))
        for path, of in actions.items()
        for method, action in of.items()
    ]


def _admin_calls(services: AdminServices | None) -> list[Call]:
    """None where the admin calls are not answered."""
    if services is None:
        return []
    metrics = Call("GET", "/metrics", description_of(Metrics.show), "read")
    return [
        *(Call(r.method, r.path, description_of(r.action), r.scope) for r in admin_routes(services)),
        metrics,
    ]


def _route_admin(app: web.Application, services: AdminServices, exchanges: Exchanges) -> AdminCallTable:
    calls = AdminCalls(services)
    actions: Actions = {}
    times: dict[str, float] = {}
    for route in admin_routes(services):
        actions.setdefault(route.path, {})[route.method] = calls.action(route)
        if route.timeout_s is not None:
            times[route.path] = route.timeout_s
    metrics: Actions = {"/metrics": {"GET": Metrics(services, calls).show}}
    route_calls(app.router, metrics | actions, exchanges, times)
    app.cleanup_ctx.append(calls.lifetime)
    return AdminCallTable(app, exchanges, calls, actions, times)


def route_calls(
    router: web.UrlDispatcher,
    paths: Actions,
    exchanges: Exchanges,
    times: Mapping[str, float] = _NO_TIMES,
    dress: Callable[[Handler], Handler] = lambda handler: handler,
) -> None:
    """Every method of every path has a handler, so that 405 is a problem too.

    `times`: of the paths with a deadline of their own, seconds. `dress`: what is done to each handler, for
    all its answers."""
    expect = _expectation(exchanges)
    for path, actions in paths.items():
        for method, action in actions.items():
            description = description_of(action)
            if description is not None and not description.any_query:
                action = asked_as_described(action, description.query)
            handler = dress(exchanges.guard(action, times.get(path), ends_with_caller=path in times))
            router.add_route(method, path, handler, expect_handler=expect)
            if method == "GET":
                router.add_route("HEAD", path, handler, expect_handler=expect)
        allowed = ", ".join([*actions, *(["HEAD"] if "GET" in actions else [])])
        _refuse(router, exchanges, path, _refuse_method(allowed), dress)


def refuse_paths(
    router: web.UrlDispatcher, exchanges: Exchanges, path: str, dress: Callable[[Handler], Handler]
) -> None:
    """Answer 404 at all paths under `path` that no route before this one takes."""
    _refuse(router, exchanges, f"{path}{_ANY}", _refuse_path, dress)


def _refuse(
    router: web.UrlDispatcher,
    exchanges: Exchanges,
    path: str,
    refusal: Action,
    dress: Callable[[Handler], Handler] = lambda handler: handler,
) -> None:
    """Answer what no route before this one takes."""
    router.add_route("*", path, dress(exchanges.guard(refusal)), expect_handler=_expectation(exchanges))


def _expectation(exchanges: Exchanges) -> Callable[[web.Request], Awaitable[web.StreamResponse | None]]:
    expected = exchanges.guard(_refuse_expectation)

    async def expect(request: web.Request) -> web.StreamResponse | None:
        if request.headers.get(hdrs.EXPECT, "").lower() != "100-continue":
            return await expected(request)
        if request.version >= HttpVersion11:
            await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            # The answer itself has not begun.
            request.writer.output_size = 0
        return None

    return expect


def _refuse_method(allowed: str) -> Action:
    async def refuse(_: web.Request) -> Response:
        raise MethodNotAllowed(allowed)

    return refuse


async def _refuse_admin(_: web.Request) -> Response:
    raise not_found(
        "The admin calls are not answered here: they have an address of their own, `[admin] listen`."
    )


async def _refuse_path(request: web.Request) -> Response:
    if request.path.rstrip("/") and request.path.endswith("/"):
        raise not_found("There is nothing at this path: no path here ends in a slash.")
    raise not_found("There is nothing at this path.")


async def _refuse_expectation(_: web.Request) -> Response:
    raise Refusal("expectation_failed", 417, "`Expect` must be 100-continue.", "Expect")
