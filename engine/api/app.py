"""The HTTP API: which action answers which call."""

from __future__ import annotations

from collections.abc import AsyncIterator

import msgspec
from aiohttp import HttpVersion11, hdrs, web

from engine.api.accounts import Accounts
from engine.api.admin import AUDIT_S_MAX, Admin
from engine.api.auth import Keys
from engine.api.dead_letters import DeadLetters
from engine.api.guard import Action, Exchanges
from engine.api.limits import OrganisationLimits
from engine.api.messages import SUBMISSIONS, Messages
from engine.api.metrics import Metrics
from engine.api.ports import Services
from engine.api.prices import PriceTables
from engine.api.problems import MethodNotAllowed, not_found
from engine.api.queues import QueuePauses
from engine.api.receipts import Receipts
from engine.api.response import Response, answer_of
from engine.api.routes import Providers, Routes
from engine.api.unbooked import REBUILD_S, UnbookedUsage
from engine.errors import Refusal

# Calls that keep a deadline of their own, and what is given them beyond the longest of those, seconds.
# They are of use to their caller alone, and end when that one hangs up.
_LONG = {"/v1/admin/audit": AUDIT_S_MAX + 10.0, "/v1/admin/losses/rebuild": REBUILD_S + 10.0}


class _Readiness(msgspec.Struct):
    status: str
    parts: dict[str, str]


class Probes:
    """The actions that a load balancer calls: /healthz and /readyz. They need no key."""

    def __init__(self, services: Services, keys: Keys) -> None:
        self._ready = services.ready
        self._can_spend = services.can_spend
        self._keys = keys
        self._draining = services.draining

    async def alive(self, _: web.Request) -> Response:
        """`GET /healthz`: 200 as long as this process answers anything, also while it drains."""
        return Response(200, b'{"status":"ok"}')

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
        if not away:
            return answer_of(200, _Readiness("ok", parts))
        if away == {"postgres"} and self._keys.are_known() and self._can_spend():
            return answer_of(200, _Readiness("limited", parts))
        return answer_of(503, _Readiness("unavailable", parts))


def create_app(services: Services, keys: Keys | None = None) -> web.Application:
    """The application, to be served by `server.Server`. Call this on the loop that will serve it.

    `keys`: the API keys it knows; None: its own, closed with the application.
    """
    keys = keys or Keys(services.directory)
    messages, accounts, unbooked = Messages(services, keys), Accounts(services, keys), UnbookedUsage(services)
    admin, prices, probes = Admin(services), PriceTables(services), Probes(services, keys)
    routes, providers, receipts = Routes(services), Providers(services), Receipts(services)
    actions: dict[str, dict[str, Action]] = {
        **{path: {"POST": messages.submit(path)} for path in SUBMISSIONS},
        "/v1/messages/{id}": {"GET": messages.show},
        "/v1/balance": {"GET": accounts.balance},
        "/v1/balance/transactions": {"GET": accounts.transactions},
        "/v1/providers/{name}/receipts/{token}": {"GET": receipts.take, "POST": receipts.take},
        "/metrics": {"GET": Metrics(services).show},
        "/healthz": {"GET": probes.alive},
        "/readyz": {"GET": probes.ready},
        "/v1/admin/organisations": {"GET": admin.organisations, "POST": admin.create_organisation},
        **_of_one_organisation(admin, OrganisationLimits(services)),
        "/v1/admin/unbooked": {"GET": unbooked.sums},
        "/v1/admin/unbooked/{organisation_id}/book": {"POST": unbooked.book},
        "/v1/admin/losses": {"GET": unbooked.losses},
        "/v1/admin/losses/rebuild": {"POST": unbooked.rebuild},
        "/v1/admin/prices": {"GET": prices.show, "PUT": prices.replace},
        "/v1/admin/routes": {"GET": routes.show, "PUT": routes.replace},
        "/v1/admin/providers": {"GET": providers.show_all},
        "/v1/admin/providers/{name}": {"GET": providers.show, "PUT": providers.change},
        "/v1/admin/providers/{name}/problems": {"GET": providers.problems},
        "/v1/admin/problems": {"GET": providers.all_problems},
        "/v1/admin/providers/{name}/pause": {"POST": providers.pause},
        "/v1/admin/providers/{name}/resume": {"POST": providers.resume},
        "/v1/admin/status": {"GET": admin.status},
        **_of_queues(admin, QueuePauses(services)),
        **_of_dead_letters(DeadLetters(services)),
        "/v1/admin/audit": {"GET": admin.audit},
    }
    app = web.Application()
    _route(app.router, actions, Exchanges(services))

    async def own_keys(_: web.Application) -> AsyncIterator[None]:
        yield
        await keys.close()

    app.cleanup_ctx.append(own_keys)
    return app


def _of_one_organisation(admin: Admin, limits: OrganisationLimits) -> dict[str, dict[str, Action]]:
    path = "/v1/admin/organisations/{organisation_id}"
    return {
        path: {"GET": limits.show_organisation, "PATCH": admin.change_organisation},
        f"{path}/limits": {"GET": limits.show, "PATCH": limits.change},
        f"{path}/pause": {"POST": limits.pause},
        f"{path}/resume": {"POST": limits.resume},
        f"{path}/keys": {"GET": admin.keys, "POST": admin.create_key},
        f"{path}/keys/{{key_id}}": {"DELETE": admin.revoke_key},
        f"{path}/balance": {"GET": admin.balance},
        f"{path}/transactions": {"GET": admin.transactions},
        f"{path}/top-ups": {"POST": admin.top_up},
    }


def _of_queues(admin: Admin, pauses: QueuePauses) -> dict[str, dict[str, Action]]:
    path = "/v1/admin/queues/{queue}"
    return {
        path: {"GET": admin.queue},
        f"{path}/pause": {"POST": pauses.pause},
        f"{path}/resume": {"POST": pauses.resume},
    }


def _of_dead_letters(letters: DeadLetters) -> dict[str, dict[str, Action]]:
    path = "/v1/admin/dead-letters"
    return {
        path: {"GET": letters.show_all},
        f"{path}/{{letter_id}}": {"GET": letters.show},
        f"{path}/{{letter_id}}/replay": {"POST": letters.replay},
        f"{path}/{{letter_id}}/drop": {"POST": letters.drop},
    }


def _route(router: web.UrlDispatcher, paths: dict[str, dict[str, Action]], exchanges: Exchanges) -> None:
    """Every method of every path has a handler, so that 404 and 405 are problems too."""
    expected = exchanges.guard(_refuse_expectation)

    async def expect(request: web.Request) -> web.StreamResponse | None:
        if request.headers.get(hdrs.EXPECT, "").lower() != "100-continue":
            return await expected(request)
        if request.version >= HttpVersion11:
            await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            # The answer itself has not begun.
            request.writer.output_size = 0
        return None

    for path, actions in paths.items():
        for method, action in actions.items():
            handler = exchanges.guard(action, _LONG.get(path), ends_with_caller=path in _LONG)
            router.add_route(method, path, handler, expect_handler=expect)
            if method == "GET":
                router.add_route("HEAD", path, handler, expect_handler=expect)
        allowed = ", ".join([*actions, *(["HEAD"] if "GET" in actions else [])])
        router.add_route("*", path, exchanges.guard(_refuse_method(allowed)), expect_handler=expect)
    # Also a path with a line end in it (%0A), which `.` would leave to aiohttp.
    router.add_route("*", r"/{tail:[\s\S]*}", exchanges.guard(_refuse_path), expect_handler=expect)


def _refuse_method(allowed: str) -> Action:
    async def refuse(_: web.Request) -> Response:
        raise MethodNotAllowed(allowed)

    return refuse


async def _refuse_path(request: web.Request) -> Response:
    if request.path.rstrip("/") and request.path.endswith("/"):
        raise not_found("There is nothing at this path: no path here ends in a slash.")
    raise not_found("There is nothing at this path.")


async def _refuse_expectation(_: web.Request) -> Response:
    raise Refusal("expectation_failed", 417, "`Expect` must be 100-continue.", "Expect")
