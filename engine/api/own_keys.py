"""The API keys of an organisation, and its default sender, as it looks after them itself.

It takes a key with the scope `admin`. What an operator decides stays an operator's: credit, limits,
allowed senders, destinations.
"""

from __future__ import annotations

import msgspec
from aiohttp import hdrs, web

from engine.api.admin import KEY_LIMITS, KEY_WISH, ROTATION, KeyList, key_wish
from engine.api.auth import Keys
from engine.api.decoding import Shape, read_body
from engine.api.description import ID, Answer, Parameter, described
from engine.api.guard import Action
from engine.api.key_networks import EXAMPLES, NETWORKS, NETWORKS_CHANGE, key_id_of, networks_of
from engine.api.ports import CommonServices
from engine.api.response import Response, answer_of
from engine.intake.records import SenderRules
from engine.organisations import ApiKey, NewKey

_KEY = {"key_id": Parameter("The id of the API key.", ID, "api_key")}


class _Default(msgspec.Struct, forbid_unknown_fields=True):
    default: str | None


_DEFAULT = Shape(
    _Default, "a change of senders", {"default": "a sender id as a string, or null: the provider's"}
)


class OwnKeys:
    """The actions on /v1/keys, and the one that changes /v1/senders. Each raises Refusal 401, 403 and
    Unavailable."""

    def __init__(self, services: CommonServices, keys: Keys) -> None:
        self._book = services.api_keys
        self._senders = services.recipients.senders
        self._body_bytes_max = services.body_bytes_max
        self._keys = keys

    def actions(self) -> dict[str, dict[str, Action]]:
        """By path and method."""
        one = "/v1/keys/{key_id}"
        return {
            "/v1/keys": {"GET": self.show_all, "POST": self.create},
            one: {"PATCH": self.change, "DELETE": self.revoke},
            f"{one}/rotate": {"POST": self.rotate},
        }

    async def _organisation(self, request: web.Request) -> int:
        return await self._keys.manager(request.headers.get(hdrs.AUTHORIZATION), request)

    @described(
        "list_own_keys",
        "List the organisation's newest thousand API keys.",
        scope="admin",
        answers={200: KeyList},
    )
    async def show_all(self, request: web.Request) -> Response:
        """`GET /v1/keys`: 200 with the newest thousand, revoked ones too."""
        return answer_of(200, KeyList(await self._book.keys(await self._organisation(request))))

    @described(
        "create_own_key",
        "Make one more API key of the organisation, which is shown this once.",
        more="Repeated, it makes another.",
        scope="admin",
        body=KEY_WISH,
        is_body_optional=True,
        limits=KEY_LIMITS,
        examples={"to send only": {"name": "shop", "scopes": ["send"], "expires_at": "2037-01-01T00:00:00Z"}},
        answers={201: Answer(NewKey, example={"id": 3, "api_key": "smse_3_..."})},
    )
    async def create(self, request: web.Request) -> Response:
        """`POST /v1/keys`: 201 with the key, the only time it is shown. Raises Refusal 400, 413, 422."""
        organisation_id = await self._organisation(request)
        wish = key_wish(await read_body(request, self._body_bytes_max))
        return answer_of(201, await self._book.create(organisation_id, None, wish))

    @described(
        "rotate_own_key",
        "Make an API key like another one of the organisation, which ends after a while.",
        more="Repeated, it makes another.",
        scope="admin",
        path=_KEY,
        body=ROTATION,
        is_body_optional=True,
        limits={"overlap_s": {"minimum": 0, "maximum": 31_536_000}},
        examples={"an hour": {"overlap_s": 3600}},
        answers={201: Answer(NewKey, example={"id": 4, "api_key": "smse_4_..."})},
        codes=("key_over",),
    )
    async def rotate(self, request: web.Request) -> Response:
        """`POST /v1/keys/{id}/rotate`: 201 with a key like that one. Raises Refusal 400, 404, 409, 413,
        422."""
        organisation_id, key_id = await self._organisation(request), key_id_of(request)
        wanted = ROTATION.decode_optional(await read_body(request, self._body_bytes_max))
        return answer_of(201, await self._book.rotate(organisation_id, key_id, wanted.overlap_s))

    @described(
        "change_own_key",
        "Set the networks that an API key of the organisation may be used from.",
        scope="admin",
        path=_KEY,
        body=NETWORKS_CHANGE,
        limits={"networks": NETWORKS},
        examples=EXAMPLES,
        answers={200: ApiKey},
        codes=("key_over",),
    )
    async def change(self, request: web.Request) -> Response:
        """`PATCH /v1/keys/{id}`: 200 with the key. Safe to repeat. Raises Refusal 400, 404, 409, 413, 422."""
        organisation_id = await self._organisation(request)
        networks = await networks_of(request, self._body_bytes_max)
        return answer_of(200, await self._book.set_networks(organisation_id, key_id_of(request), networks))

    @described(
        "revoke_own_key",
        "Revoke an API key of the organisation.",
        more="Also 204 when it was revoked before. A key may revoke itself.",
        scope="admin",
        path=_KEY,
        answers={204: None},
    )
    async def revoke(self, request: web.Request) -> Response:
        """`DELETE /v1/keys/{id}`: 204, also when it was revoked before. Raises Refusal 404."""
        await self._book.revoke(await self._organisation(request), key_id_of(request))
        return Response(204)

    @described(
        "change_default_sender",
        "Set the sender of messages that name none.",
        more="It is one of those that the organisation may use; which these are is up to the operator.",
        scope="admin",
        body=_DEFAULT,
        examples={"the provider's": {"default": None}},
        answers={200: SenderRules},
        codes=("invalid_sender",),
    )
    async def change_sender(self, request: web.Request) -> Response:
        """`PATCH /v1/senders`: 200 with what the organisation may use. Safe to repeat. Raises Refusal
        400, 413, 422."""
        organisation_id = await self._organisation(request)
        wanted = _DEFAULT.decode(await read_body(request, self._body_bytes_max))
        return answer_of(200, await self._senders.change(organisation_id, {"default": wanted.default or ""}))
