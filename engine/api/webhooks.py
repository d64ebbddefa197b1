"""The calls on webhooks: of an organisation on its own, and of operators on those of any."""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, Iterator
from datetime import datetime

import msgspec
from aiohttp import hdrs, web

from engine.admin_keys import Scope
from engine.api.admin import organisation_id_of
from engine.api.admin_route import AdminRoute
from engine.api.auth import Keys
from engine.api.decoding import Shape, check_time, read_body
from engine.api.description import ID, TEXT, TIME, Parameter, described
from engine.api.guard import Action
from engine.api.known_organisations import check_exists
from engine.api.paging import NUMBER, NUMBER_MAX, asked, choice_asked, limit_asked
from engine.api.parameters import CURSOR, LIMIT
from engine.api.ports import AdminServices, CommonServices
from engine.api.problems import not_found
from engine.api.repeats import Repeats
from engine.api.response import Response, answer_of
from engine.api.webhook_ports import NewEndpoint
from engine.changes import describe
from engine.hosts.webhook_urls import ALLOWED
from engine.shards import shard_of
from engine.webhooks.events import EVENT_TYPES
from engine.webhooks.made import shown
from engine.webhooks.records import (
    TEST_EVENT,
    DeliveryState,
    ShownDelivery,
    ShownEndpoint,
    ShownMadeDelivery,
    WebhookEvent,
)

# What stands for the callback URLs of messages, in place of the id of an endpoint.
CALLBACKS = "callbacks"
# A replaced secret signs for so long when a rotation says nothing of it, seconds.
_OVERLAP_S = 86_400.0
_STATES: dict[str, DeliveryState | None] = {"any": None, "waiting": "waiting", "failed": "failed"}

# (request, whether it changes something) → the organisation that it is about.
Whose = Callable[[web.Request, bool], Awaitable[int]]


class _NewEndpoint(msgspec.Struct, forbid_unknown_fields=True):
    url: str
    events: list[str] | None = None


class _Change(msgspec.Struct, forbid_unknown_fields=True):
    events: list[str] | None


class _Rotation(msgspec.Struct, forbid_unknown_fields=True):
    overlap_s: float = _OVERLAP_S


class _Since(msgspec.Struct, forbid_unknown_fields=True):
    since: datetime


class _Nothing(msgspec.Struct, forbid_unknown_fields=True):
    pass


class _Made(msgspec.Struct):
    """An endpoint, with the secret that is shown this once."""

    id: int
    url: str | None
    created_at: datetime
    previous_secret_until: datetime | None
    events: tuple[str, ...] | None
    secret: str


class _Endpoints(msgspec.Struct):
    webhook_endpoints: list[ShownEndpoint]


class _Deliveries(msgspec.Struct):
    # Newest first.
    webhook_deliveries: list[ShownDelivery]
    # The `cursor` of the next page; null on the last.
    next: int | None


class _MadeDeliveries(msgspec.Struct):
    # Newest first.
    webhook_deliveries: list[ShownMadeDelivery]


class _Test(msgspec.Struct):
    event_id: str


class _Replayed(msgspec.Struct):
    replayed: int


_TYPES = "an array of types of events as strings, or null: all"
_NEW = Shape(_NewEndpoint, "an endpoint", {"url": ALLOWED, "events": _TYPES})
_CHANGE = Shape(_Change, "a change of an endpoint", {"events": _TYPES})
_EVENT_SCHEMA = {"minItems": 1, "items": {"enum": list(EVENT_TYPES)}}
_ROTATION = Shape(_Rotation, "a rotation", {"overlap_s": "a number of seconds"})
_SINCE = Shape(
    _Since, "a replay", {"since": "a time with its time zone, such as 2027-01-01T00:00:00Z, as a string"}
)
_NOTHING = Shape(_Nothing, "this call", {})


_ENDPOINT = {"endpoint_id": Parameter("The id of the endpoint.", TEXT, "webhook_endpoint")}


class Webhooks:
    """The actions on webhooks. Each raises Refusal 401, 403 and Unavailable."""

    def __init__(self, services: CommonServices, whose: Whose) -> None:
        self._book = services.webhooks.book
        self._queue = services.webhooks.queue
        self._shards = services.webhooks.shards
        self._body_bytes_max = services.body_bytes_max
        self._now_us = services.now_us
        self._whose = whose

    @described("list_webhook_endpoints", "List the endpoints.", scope="read", answers={200: _Endpoints})
    async def endpoints(self, request: web.Request) -> Response:
        """`GET /v1/webhook-endpoints`: 200 with all of them. Raises Refusal 404."""
        return answer_of(200, _Endpoints(await self._book.endpoints(await self._whose(request, False))))

    @described(
        "create_webhook_endpoint",
        "Make an endpoint; its secret is shown this once.",
        scope="send read|admin",
        body=_NEW,
        limits={"events": _EVENT_SCHEMA},
        examples={
            "of two types": {
                "url": "https://127.0.0.1:9/events",
                "events": ["message.delivered", "message.received"],
            },
        },
        answers={201: _Made},
        codes=("endpoint_exists", "too_many_endpoints"),
    )
    async def create(self, request: web.Request) -> Response:
        """`POST /v1/webhook-endpoints`: 201 with it and its secret. Repeated, it is 409 and makes nothing.

        Raises Refusal 400, 404, 409, 413, 422.
        """
        organisation_id = await self._whose(request, True)
        wanted = _NEW.decode(await read_body(request, self._body_bytes_max))
        return _made(201, await self._book.create(organisation_id, wanted.url, wanted.events))

    @described(
        "change_webhook_endpoint",
        "Set the types of the events that an endpoint is told of.",
        scope="send read|admin",
        path=_ENDPOINT,
        body=_CHANGE,
        limits={"events": _EVENT_SCHEMA},
        examples={"one type": {"events": ["message.delivered"]}, "all": {"events": None}},
        answers={200: ShownEndpoint},
    )
    async def change(self, request: web.Request) -> Response:
        """`PATCH /v1/webhook-endpoints/{id}`: 200 with it. Safe to repeat. Raises Refusal 400, 404, 413,
        422."""
        organisation_id = await self._whose(request, True)
        endpoint_id = _endpoint_id(request)
        wanted = _CHANGE.decode(await read_body(request, self._body_bytes_max))
        return answer_of(200, await self._book.set_events(organisation_id, endpoint_id, wanted.events))

    @described(
        "remove_webhook_endpoint",
        "Tell an endpoint nothing more.",
        scope="send read|admin",
        path=_ENDPOINT,
        answers={204: None},
    )
    async def remove(self, request: web.Request) -> Response:
        """`DELETE /v1/webhook-endpoints/{id}`: 204; it is told nothing more. Raises Refusal 404."""
        organisation_id = await self._whose(request, True)
        await self._book.remove(organisation_id, _endpoint_id(request))
        return Response(204)

    @described(
        "rotate_webhook_secret",
        "Make a new secret of an endpoint; the one before signs as well for a while.",
        more="`callbacks` in place of the id: the secret of what goes to callback URLs.",
        scope="send read|admin",
        path=_ENDPOINT,
        body=_ROTATION,
        is_body_optional=True,
        limits={"overlap_s": {"minimum": 0, "maximum": 2_592_000}},
        examples={"an hour": {"overlap_s": 3600}},
        answers={200: _Made},
    )
    async def rotate(self, request: web.Request) -> Response:
        """`POST /v1/webhook-endpoints/{id}/rotate`: 200 with it and a new secret; the one before signs as
        well until `previous_secret_until`, for `overlap_s` and three seconds at least. `callbacks` in place
        of the id: of what goes to callback URLs.

        Raises Refusal 400, 404, 413, 422.
        """
        organisation_id = await self._whose(request, True)
        callbacks = request.match_info["endpoint_id"] == CALLBACKS
        endpoint_id = None if callbacks else _endpoint_id(request)
        wanted = _ROTATION.decode_optional(await read_body(request, self._body_bytes_max))
        return _made(200, await self._book.rotate(organisation_id, endpoint_id, wanted.overlap_s))

    @described(
        "test_webhook_endpoint",
        "Send a test event to an endpoint.",
        scope="send read|admin",
        path=_ENDPOINT,
        body=_NOTHING,
        is_body_optional=True,
        answers={202: _Test},
    )
    async def test(self, request: web.Request) -> Response:
        """`POST /v1/webhook-endpoints/{id}/test`: 202 with the id of a test event that is on its way.

        Repeated, it sends another. Raises Refusal 400, 404, 413, 422.
        """
        organisation_id = await self._whose(request, True)
        endpoint_id = _endpoint_id(request)
        _NOTHING.decode_optional(await read_body(request, self._body_bytes_max))
        await self._book.check(organisation_id, endpoint_id)
        event = WebhookEvent(
            id=f"evt_{secrets.token_hex(16)}",
            organisation_id=organisation_id,
            type=TEST_EVENT,
            at_us=self._now_us(),
            data='{"message":"This is a test."}',
            endpoint_id=endpoint_id,
        )
        await self._queue.put(shard_of(organisation_id, self._shards), [event])
        describe(None, {"endpoint": endpoint_id, "event": event.id})
        return answer_of(202, _Test(event.id))

    @described(
        "list_webhook_deliveries",
        "List the deliveries that wait or have failed, newest first.",
        scope="read",
        query={"state": Parameter("Only those that wait, or have failed.", {"enum": list(_STATES)})}
        | LIMIT
        | CURSOR,
        answers={200: _Deliveries},
    )
    async def deliveries(self, request: web.Request) -> Response:
        """`GET /v1/webhook-deliveries`: 200 with a page of those that wait or have failed. Raises Refusal
        422."""
        organisation_id = await self._whose(request, False)
        limit = limit_asked(request)
        state = choice_asked(request, "state", _STATES)
        before = asked(request, "cursor", NUMBER_MAX, 1)
        found = await self._book.deliveries(organisation_id, state, before, limit + 1)
        page = found[:limit]
        return answer_of(200, _Deliveries(page, page[-1].id if len(found) > limit else None))

    @described(
        "list_made_webhook_deliveries",
        "List the last deliveries that an endpoint took, newest first.",
        more="The last 100, as far as there were any in seven days before the last; a second or so behind. "
        "`callbacks` in place of the id: what went to callback URLs.",
        scope="read",
        path=_ENDPOINT,
        answers={200: _MadeDeliveries},
    )
    async def made(self, request: web.Request) -> Response:
        """`GET /v1/webhook-endpoints/{id}/deliveries`: 200 with those that it took. Raises Refusal 404."""
        organisation_id = await self._whose(request, False)
        callbacks = request.match_info["endpoint_id"] == CALLBACKS
        number = 0 if callbacks else _endpoint_id(request)
        for endpoint in await self._book.endpoints(organisation_id):
            if endpoint.id == number or (callbacks and endpoint.url is None):
                found = await self._queue.made(shard_of(organisation_id, self._shards), endpoint.id)
                return answer_of(200, _MadeDeliveries(list(map(shown, found))))
        raise not_found("There is no endpoint with this id.")

    @described(
        "replay_webhook_delivery",
        "Make a delivery again, now.",
        scope="send read|admin",
        path={"delivery_id": Parameter("The id of the delivery.", ID, "webhook_delivery")},
        body=_NOTHING,
        is_body_optional=True,
        answers={200: ShownDelivery},
    )
    async def replay(self, request: web.Request) -> Response:
        """`POST /v1/webhook-deliveries/{id}/replay`: 200 with it; it is due now. Safe to repeat. Raises
        Refusal 400, 404, 413, 422."""
        organisation_id = await self._whose(request, True)
        _NOTHING.decode_optional(await read_body(request, self._body_bytes_max))
        delivery_id = _number(request, "delivery_id", "delivery")
        return answer_of(200, await self._book.replay(organisation_id, delivery_id))

    @described(
        "replay_webhook_deliveries",
        "Make all deliveries again that have failed since a time.",
        scope="send read|admin",
        body=_SINCE,
        limits={"since": TIME},
        examples={"since then": {"since": "2026-11-28T09:00:00Z"}},
        answers={200: _Replayed},
    )
    async def replay_since(self, request: web.Request) -> Response:
        """`POST /v1/webhook-deliveries/replay`: 200 with how many that failed since a time are due now. Safe
        to repeat. Raises Refusal 400, 413, 422."""
        organisation_id = await self._whose(request, True)
        wanted = _SINCE.decode(await read_body(request, self._body_bytes_max))
        check_time("since", wanted.since)
        return answer_of(200, _Replayed(await self._book.replay_since(organisation_id, wanted.since)))


def own_webhooks(services: CommonServices, keys: Keys) -> dict[str, dict[str, Action]]:
    """The calls of an organisation on its own webhooks, by path and method.

    To look takes a key with the scope `read`, to change something one with `read` and `send`, or `admin`: who
    makes an endpoint is told what becomes of messages.
    """

    async def whose(request: web.Request, changes: bool) -> int:
        authorization = request.headers.get(hdrs.AUTHORIZATION)
        if changes:
            return await keys.manager(authorization, request, "send", "read")
        return await keys.organisation(authorization, request)

    calls, found = Webhooks(services, whose), dict[str, dict[str, Action]]()
    repeats = Repeats(services.answers, services.body_bytes_max)
    for method, path, action, _ in _calls(calls):
        # What shows a secret is answered once.
        if method == "POST" and action not in (calls.create, calls.rotate):
            action = repeats.of_callers(keys, action)
        found.setdefault(f"/v1{path}", {})[method] = action
    return found


def admin_webhooks(services: AdminServices, organisation: str) -> Iterator[AdminRoute]:
    """The same calls of operators. `organisation`: the path of one."""

    async def whose(request: web.Request, changes: bool) -> int:
        organisation_id = organisation_id_of(request)
        await check_exists(services.directory, organisation_id)
        return organisation_id

    calls = Webhooks(services, whose)
    for method, path, action, outside in _calls(calls):
        scope: Scope = "read" if method == "GET" else "operate"
        secret = action in (calls.create, calls.rotate)
        yield AdminRoute(method, organisation + path, action, scope, outside, secret=secret)


def _calls(calls: Webhooks) -> Iterator[tuple[str, str, Action, bool]]:
    """(method, path, action, whether it changes something outside of PostgreSQL or in several
    transactions)."""
    endpoints, deliveries = "/webhook-endpoints", "/webhook-deliveries"
    one = f"{endpoints}/{{endpoint_id}}"
    yield "GET", endpoints, calls.endpoints, False
    yield "POST", endpoints, calls.create, False
    yield "PATCH", one, calls.change, False
    yield "DELETE", one, calls.remove, False
    yield "POST", f"{one}/rotate", calls.rotate, False
    yield "POST", f"{one}/test", calls.test, True
    yield "GET", f"{one}/deliveries", calls.made, False
    yield "GET", deliveries, calls.deliveries, False
    yield "POST", f"{deliveries}/replay", calls.replay_since, False
    yield "POST", f"{deliveries}/{{delivery_id}}/replay", calls.replay, False


def _made(status: int, made: NewEndpoint) -> Response:
    fields = {name: getattr(made.endpoint, name) for name in made.endpoint.__struct_fields__}
    return answer_of(status, _Made(**fields, secret=made.secret))


def _endpoint_id(request: web.Request) -> int:
    return _number(request, "endpoint_id", "endpoint")


def _number(request: web.Request, name: str, noun: str) -> int:
    """The number in the path. Raises Refusal 404."""
    digits = request.match_info[name]
    if not NUMBER.fullmatch(digits):
        raise not_found(f"There is no {noun} with this id.")
    return int(digits)
