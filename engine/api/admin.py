"""The operator's calls: organisations, keys, top-ups, and the state of the engine."""

from __future__ import annotations

import msgspec
from aiohttp import web

from engine.api.admin_call import posted
from engine.api.decoding import Shape, check_scopes, check_time, checked_networks, read_body
from engine.api.description import TIME, YES_OR_NO, Answer, Parameter, described
from engine.api.paging import NUMBER, TransactionsPage, asked, choice_asked, limit_asked, transactions_page
from engine.api.parameters import AFTER, API_KEY, CURSOR, LIMIT, ORGANISATION, QUEUE
from engine.api.ports import AdminServices
from engine.api.problems import not_found
from engine.api.queues import queue_of
from engine.api.response import Response, answer_of
from engine.credit.laws import Audit
from engine.networks import NETWORKS_MAX
from engine.organisations import (
    API_SCOPES,
    ApiKey,
    ApiKeyWish,
    Balance,
    NewKey,
    NewOrganisation,
    Organisation,
    TopUp,
)
from engine.records import IdempotentCall
from engine.stores.status import QueueBacklog, Status

# How long an audit may take when the caller does not say, and at most, seconds.
_AUDIT_S = 120
AUDIT_S_MAX = 600


class _NewOrganisation(msgspec.Struct, forbid_unknown_fields=True):
    name: str


class _Change(msgspec.Struct, forbid_unknown_fields=True):
    low_balance: int | None


class _Rotation(msgspec.Struct, forbid_unknown_fields=True):
    overlap_s: float = 86_400.0


class _NewTopUp(msgspec.Struct, forbid_unknown_fields=True):
    units: int
    reference: str


class _Organisations(msgspec.Struct):
    organisations: list[Organisation]
    # The `after` of the next page; null on the last.
    next: int | None


class KeyList(msgspec.Struct):
    """The API keys of an organisation, the newest first."""

    keys: list[ApiKey]


NAME = {"minLength": 1, "maxLength": 200}
_ORGANISATION = Shape(_NewOrganisation, "an organisation", {"name": "a string of 1 to 200 characters"})
_CHANGE = Shape(
    _Change, "a change of an organisation", {"low_balance": "a whole number of units, or null for never"}
)
KEY_WISH = Shape(
    ApiKeyWish,
    "a key",
    {
        "name": "a string of at most 200 characters",
        "scopes": f"an array of some of {', '.join(API_SCOPES)}",
        "expires_at": "a time with its time zone, such as 2027-01-01T00:00:00Z, or null for never",
        "networks": "an array of networks, such as 203.0.113.0/24; empty for everywhere",
    },
)
KEY_LIMITS = {
    "name": {"maxLength": 200},
    "scopes": {"minItems": 1},
    "expires_at": TIME,
    "networks": {"maxItems": NETWORKS_MAX},
}
ROTATION = Shape(_Rotation, "a rotation", {"overlap_s": "a number of seconds, 86400 if absent"})
_TOP_UP = Shape(
    _NewTopUp,
    "a top-up",
    {"units": "a whole number of units", "reference": "a string of 1 to 200 characters"},
)


class Admin:
    """The actions on /v1/admin."""

    def __init__(self, services: AdminServices) -> None:
        self._services = services
        self._directory = services.directory
        self._keys = services.api_keys

    @described(
        "create_organisation",
        "Create an organisation with its first API key, which is shown this once.",
        body=_ORGANISATION,
        limits={"name": NAME},
        examples={"a name": {"name": "Acme Ltd"}},
        answers={
            201: Answer(NewOrganisation, example={"id": 2, "name": "Acme Ltd", "api_key": "smse_2_..."})
        },
        once=True,
    )
    async def create_organisation(self, request: web.Request) -> Response:
        """`POST /organisations`: 201 with a `organisations.NewOrganisation`, the only time its key is shown.

        Raises Refusal 400, 401, 409, 413, 422, Unavailable.
        """
        body, once = await self._posted(request)
        wanted = _ORGANISATION.decode(body)
        return answer_of(201, await self._directory.create_organisation(wanted.name, once))

    @described(
        "list_organisations", "List organisations, by id.", query=AFTER | LIMIT, answers={200: _Organisations}
    )
    async def organisations(self, request: web.Request) -> Response:
        """`GET /organisations`: 200 with the page that `?after=` and `?limit=` ask for, by id.

        Raises Refusal 401, 422, Unavailable.
        """
        after, limit = asked(request, "after", 0), limit_asked(request)
        # One more than asked for tells whether there is another page.
        found = await self._directory.organisations(after, limit + 1)
        page = found[:limit]
        return answer_of(200, _Organisations(page, page[-1].id if len(found) > limit else None))

    @described(
        "change_organisation",
        "Set the low-balance threshold of an organisation.",
        path=ORGANISATION,
        body=_CHANGE,
        limits={"low_balance": {"minimum": 1, "maximum": 4_000_000_000}},
        examples={"a threshold": {"low_balance": 500}, "none": {"low_balance": None}},
        answers={200: Organisation},
    )
    async def change_organisation(self, request: web.Request) -> Response:
        """`PATCH /organisations/{id}`: set its low-balance threshold; 200 with the organisation.

        Safe to repeat. Raises Refusal 400, 401, 404, 413, 422, Unavailable.
        """
        wanted = _CHANGE.decode(await read_body(request, self._services.body_bytes_max))
        organisation_id = organisation_id_of(request)
        return answer_of(200, await self._directory.set_low_balance(organisation_id, wanted.low_balance))

    @described(
        "create_api_key",
        "Make one more API key of an organisation, which is shown this once.",
        path=ORGANISATION,
        body=KEY_WISH,
        is_body_optional=True,
        limits=KEY_LIMITS,
        examples={"to send only": {"name": "shop", "scopes": ["send"], "expires_at": "2037-01-01T00:00:00Z"}},
        answers={201: Answer(NewKey, example={"id": 3, "api_key": "smse_3_..."})},
        once=True,
    )
    async def create_key(self, request: web.Request) -> Response:
        """`POST /organisations/{id}/keys`: 201 with a `organisations.NewKey`, the only time it is shown.

        Raises Refusal 400, 404, 409, 413, 422, Unavailable.
        """
        body, once = await self._posted(request)
        return answer_of(201, await self._keys.create(organisation_id_of(request), once, key_wish(body)))

    @described(
        "rotate_api_key",
        "Make an API key like another one, which ends after a while.",
        path=API_KEY,
        body=ROTATION,
        is_body_optional=True,
        limits={"overlap_s": {"minimum": 0, "maximum": 31_536_000}},
        examples={"an hour": {"overlap_s": 3600}},
        answers={201: Answer(NewKey, example={"id": 4, "api_key": "smse_4_..."})},
        codes=("key_over",),
        once=True,
    )
    async def rotate_key(self, request: web.Request) -> Response:
        """`POST /organisations/{id}/keys/{key_id}/rotate`: 201 with a `organisations.NewKey`, a key like this
        one, which is good for a day more, or as long as the body says.

        Raises Refusal 400, 404, 409, 413, 422, Unavailable.
        """
        body, once = await self._posted(request)
        wanted = ROTATION.decode_optional(body)
        organisation_id, key_id = organisation_id_of(request), _number(request, "key_id", "key")
        return answer_of(201, await self._keys.rotate(organisation_id, key_id, wanted.overlap_s, once))

    @described(
        "list_api_keys",
        "List the newest thousand API keys of an organisation.",
        path=ORGANISATION,
        answers={200: KeyList},
    )
    async def keys(self, request: web.Request) -> Response:
        """`GET /organisations/{id}/keys`: 200 with the newest thousand. Raises Refusal 401, 404,
        Unavailable."""
        return answer_of(200, KeyList(await self._keys.keys(organisation_id_of(request))))

    @described(
        "revoke_api_key",
        "Revoke an API key.",
        more="Also 204 when it was revoked before.",
        path=API_KEY,
        answers={204: None},
    )
    async def revoke_key(self, request: web.Request) -> Response:
        """`DELETE /organisations/{id}/keys/{key_id}`: 204, also when it was revoked before.

        Raises Refusal 401, 404, Unavailable.
        """
        organisation_id = organisation_id_of(request)
        await self._keys.revoke(organisation_id, _number(request, "key_id", "key"))
        return Response(204)

    @described(
        "get_organisation_balance",
        "Show what an organisation has paid in, held and available.",
        path=ORGANISATION,
        answers={200: Balance},
    )
    async def balance(self, request: web.Request) -> Response:
        """`GET /organisations/{id}/balance`: 200 with a `organisations.Balance`. Raises Refusal 401, 404,
        Unavailable."""
        return answer_of(200, await self._directory.balance(organisation_id_of(request)))

    @described(
        "list_organisation_transactions",
        "List what moved the balance of an organisation, newest first.",
        path=ORGANISATION,
        query=LIMIT | CURSOR,
        answers={200: TransactionsPage},
    )
    async def transactions(self, request: web.Request) -> Response:
        """`GET /organisations/{id}/transactions`: 200 with a `TransactionsPage`.

        Raises Refusal 401, 404, 422, Unavailable.
        """
        page = await transactions_page(request, self._services.transactions, organisation_id_of(request))
        return answer_of(200, page)

    @described(
        "top_up",
        "Add credit, once for each reference.",
        path=ORGANISATION,
        body=_TOP_UP,
        limits={"units": {"minimum": 1, "maximum": 10**15}, "reference": NAME},
        examples={"an invoice": {"units": 1000, "reference": "invoice-2041"}},
        answers={201: TopUp, 200: Answer(TopUp, "It was added before.")},
        codes=("reference_reused",),
        once=True,
    )
    async def top_up(self, request: web.Request) -> Response:
        """`POST /organisations/{id}/top-ups`: 201 with a `organisations.TopUp`, 200 when it was added before.

        Counts once per reference. Raises Refusal 400, 401, 404, 409, 413, 422, Unavailable.
        """
        body, once = await self._posted(request)
        wanted = _TOP_UP.decode(body)
        organisation_id = organisation_id_of(request)
        top_up, added = await self._directory.top_up(organisation_id, wanted.units, wanted.reference, once)
        return answer_of(201 if added else 200, top_up)

    @described(
        "get_status",
        "Show processes, queues, how fast they move, and how far behind the books are.",
        answers={200: Status},
    )
    async def status(self, request: web.Request) -> Response:
        """`GET /status`: 200 with processes, queues and lags, and what is not known. Raises Refusal 401."""
        return answer_of(200, await self._services.status())

    @described(
        "get_queue",
        "Show which organisations have a backlog in a queue, the longest first.",
        path=QUEUE,
        answers={200: QueueBacklog},
    )
    async def queue(self, request: web.Request) -> Response:
        """`GET /queues/{queue}`: 200 with who has a backlog in it, and its pause.

        Raises Refusal 401, 404, Unavailable.
        """
        return answer_of(200, await self._services.backlog(queue_of(request)))

    @described(
        "audit",
        "Say whether every unit is accounted for, whatever the verdict with 200.",
        query={
            "timeout": Parameter(
                "How long it may take, seconds; what is not judged by then is `not_checked`.",
                {"type": "integer", "minimum": 1, "maximum": AUDIT_S_MAX, "default": _AUDIT_S},
            ),
            "full": Parameter("Whether to sum everything, without regard to earlier audits.", YES_OR_NO),
        },
        answers={200: Audit},
    )
    async def audit(self, request: web.Request) -> Response:
        """`GET /audit`: 200 with its verdict, whatever that is; 503 only when nothing could be looked at.

        Raises Refusal 401, Unavailable.
        """
        timeout_s = asked(request, "timeout", _AUDIT_S, 1, AUDIT_S_MAX)
        full = choice_asked(request, "full", {"false": False, "true": True})
        return answer_of(200, await self._services.audit(full=full, timeout_s=float(timeout_s)))

    async def _posted(self, request: web.Request) -> tuple[bytes, IdempotentCall | None]:
        return await posted(request, self._services.body_bytes_max)


def key_wish(body: bytes) -> ApiKeyWish:
    """What a new API key is to be like. Raises Refusal 400, 422."""
    wish = KEY_WISH.decode_optional(body)
    check_scopes(wish.scopes, API_SCOPES)
    check_time("expires_at", wish.expires_at)
    return msgspec.structs.replace(wish, networks=checked_networks(wish.networks))


def organisation_id_of(request: web.Request) -> int:
    """The id in the path. Raises Refusal 404."""
    return _number(request, "organisation_id", "organisation")


def _number(request: web.Request, name: str, noun: str) -> int:
    digits = request.match_info[name]
    if not NUMBER.fullmatch(digits):
        raise not_found(f"There is no {noun} with this id.")
    return int(digits)
