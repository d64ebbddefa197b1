"""The operator's calls on admin keys, and on the records of changes."""

from __future__ import annotations

from datetime import datetime

import msgspec
from aiohttp import web

from engine.admin_keys import SCOPES, AdminKey, NewAdminKey, Scope
from engine.api.admin_call import posted
from engine.api.decoding import Shape, check_scopes, check_time, checked_networks, invalid
from engine.api.description import ID, TEXT, TIME, Parameter, described
from engine.api.key_networks import NETWORKS, NETWORKS_WORDS
from engine.api.paging import NUMBER, NUMBER_MAX, asked, limit_asked, time_asked
from engine.api.parameters import ADMIN_KEY, CURSOR, LIMIT
from engine.api.ports import AdminServices
from engine.api.problems import not_found
from engine.api.response import Response, answer_of
from engine.changes import Change, ChangeFilter


class _NewKey(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    scopes: list[Scope]
    expires_at: datetime | None = None
    networks: list[str] = []


class _Keys(msgspec.Struct):
    keys: list[AdminKey]


class _Page(msgspec.Struct):
    changes: list[Change]
    # The `cursor` of the next page; null on the last.
    next: int | None


_KEY = Shape(
    _NewKey,
    "an admin key",
    {
        "name": "a string of 1 to 200 characters",
        "scopes": f"an array of some of {', '.join(SCOPES)}",
        "expires_at": "a time with its time zone, such as 2027-01-01T00:00:00Z, or null for never",
        "networks": NETWORKS_WORDS,
    },
)


class AdminKeyCalls:
    """The actions on /v1/admin/admin-keys and /v1/admin/changes."""

    def __init__(self, services: AdminServices) -> None:
        self._keys = services.admin_keys
        self._changes = services.changes
        self._body_bytes_max = services.body_bytes_max

    @described(
        "create_admin_key",
        "Make an admin key, which is shown this once.",
        body=_KEY,
        limits={
            "name": {"minLength": 1, "maxLength": 200},
            "scopes": {"minItems": 1},
            "expires_at": TIME,
            "networks": NETWORKS,
        },
        examples={"to operate": {"name": "alice", "scopes": ["operate"], "expires_at": None}},
        answers={201: NewAdminKey},
        codes=("name_taken",),
        once=True,
    )
    async def create(self, request: web.Request) -> Response:
        """`POST /admin-keys`: 201 with a `admin_keys.NewAdminKey`, the only time that it is shown.

        Raises Refusal 400, 409, 413, 422, Unavailable.
        """
        body, once = await posted(request, self._body_bytes_max)
        wanted = _KEY.decode(body)
        check_scopes(wanted.scopes, SCOPES)
        check_time("expires_at", wanted.expires_at)
        networks = checked_networks(wanted.networks)
        made = await self._keys.create(wanted.name, wanted.scopes, wanted.expires_at, once, networks)
        return answer_of(201, made)

    @described("list_admin_keys", "List the newest thousand admin keys.", answers={200: _Keys})
    async def show_all(self, request: web.Request) -> Response:
        """`GET /admin-keys`: 200 with the newest thousand. Raises Unavailable."""
        return answer_of(200, _Keys(await self._keys.keys()))

    @described(
        "revoke_admin_key",
        "Revoke an admin key.",
        more="Also 204 when it was revoked before.",
        path=ADMIN_KEY,
        answers={204: None},
    )
    async def revoke(self, request: web.Request) -> Response:
        """`DELETE /admin-keys/{key_id}`: 204, also when it was revoked before.

        Raises Refusal 404, Unavailable.
        """
        digits = request.match_info["key_id"]
        if not NUMBER.fullmatch(digits):
            raise not_found("There is no admin key with this id.")
        await self._keys.revoke(int(digits))
        return Response(204)

    @described(
        "list_changes",
        "List who changed what, the newest first.",
        query={
            "key": Parameter("Only those made with the admin key of this name.", TEXT),
            "organisation": Parameter("Only those of the organisation with this id.", ID),
            "path": Parameter("Only those whose path begins so.", TEXT),
            "since": Parameter("Only those from this time on.", TIME),
            "until": Parameter("Only those before this time.", TIME),
        }
        | LIMIT
        | CURSOR,
        answers={200: _Page},
    )
    async def changes(self, request: web.Request) -> Response:
        """`GET /changes`: 200 with the page that the query asks for, the newest first.

        Raises Refusal 422, Unavailable.
        """
        query = request.query
        wanted = ChangeFilter(
            key=query.get("key") or None,
            organisation_id=asked(request, "organisation", 0, 1) or None,
            path=query.get("path") or None,
            since=time_asked(request, "since"),
            until=time_asked(request, "until"),
        )
        limit, before_id = limit_asked(request), asked(request, "cursor", NUMBER_MAX, 1)
        for name, text in (("key", wanted.key), ("path", wanted.path)):
            if text is not None and "\0" in text:
                raise invalid(f"`{name}` must not contain U+0000.", name)
        # One more than asked for tells whether there is another page.
        found = await self._changes.page(wanted, before_id, limit + 1)
        page = found[:limit]
        return answer_of(200, _Page(page, page[-1].id if len(found) > limit else None))
