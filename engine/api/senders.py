"""Senders: what organisations may use, and what destinations take."""

from __future__ import annotations

import msgspec
from aiohttp import hdrs, web
from msgspec import UNSET, UnsetType

from engine.api.admin import organisation_id_of
from engine.api.auth import Keys
from engine.api.decoding import Shape, read_body
from engine.api.description import described
from engine.api.parameters import ORGANISATION
from engine.api.ports import AdminServices, CommonServices
from engine.api.response import Response, answer_of
from engine.intake.records import SENDER_KINDS, DestinationSheet, SenderKind, SenderRules


class _Change(msgspec.Struct, forbid_unknown_fields=True):
    # What is left out stays.
    senders: tuple[str, ...] | UnsetType | None = UNSET
    default: str | UnsetType | None = UNSET
    destinations: tuple[str, ...] | UnsetType | None = UNSET


class _NewRules(msgspec.Struct, forbid_unknown_fields=True):
    rules: dict[str, tuple[SenderKind, ...]]
    version: int | None = None


_CHANGE = Shape(
    _Change,
    "a change of senders",
    {
        "senders": "an array of sender ids, or null: any",
        "default": "a sender id as a string, or null: the provider's",
        "destinations": 'an array of prefixes such as "+49", or null: any',
    },
)
_RULES = Shape(
    _NewRules,
    "rules for destinations",
    {
        "rules": f'an object of arrays by prefix, such as {{"+1": ["short"]}}, of {", ".join(SENDER_KINDS)}',
        "version": "the version that the change is based on, a whole number",
    },
)


class OwnSenders:
    """The action on /v1/senders."""

    def __init__(self, services: CommonServices, keys: Keys) -> None:
        self._book = services.recipients.senders
        self._keys = keys

    @described(
        "get_senders",
        "Show which senders the organisation may use, and where it may send.",
        scope="read",
        answers={200: SenderRules},
    )
    async def show(self, request: web.Request) -> Response:
        """`GET /v1/senders`: 200 with what the caller may use. Raises Refusal 401, 403, Unavailable."""
        organisation_id = await self._keys.organisation(request.headers.get(hdrs.AUTHORIZATION), request)
        return answer_of(200, await self._book.of(organisation_id))


class SenderCalls:
    """The operator's actions on senders and destinations."""

    def __init__(self, services: AdminServices) -> None:
        self._book = services.recipients.senders
        self._body_bytes_max = services.body_bytes_max

    @described(
        "get_organisation_senders",
        "Show which senders an organisation may use, and where it may send.",
        path=ORGANISATION,
        answers={200: SenderRules},
    )
    async def show(self, request: web.Request) -> Response:
        """`GET /organisations/{id}/senders`: 200 with what it may use. Raises Refusal 401, 404,
        Unavailable."""
        return answer_of(200, await self._book.of(organisation_id_of(request)))

    @described(
        "change_senders",
        "Set which senders an organisation may use, and where it may send; what is left out stays.",
        path=ORGANISATION,
        body=_CHANGE,
        examples={
            "one sender": {"senders": ["ACME"], "default": "ACME"},
            "any": {"senders": None, "default": None},
        },
        answers={200: SenderRules},
        codes=("invalid_sender",),
    )
    async def change(self, request: web.Request) -> Response:
        """`PATCH /organisations/{id}/senders`: set some of it; 200 with all.

        Safe to repeat. Raises Refusal 400, 401, 404, 413, 422, Unavailable.
        """
        wanted = msgspec.structs.asdict(_CHANGE.decode(await read_body(request, self._body_bytes_max)))
        values = {field: value for field, value in wanted.items() if value is not UNSET}
        if values.get("default", "") is None:
            values["default"] = ""
        return answer_of(200, await self._book.change(organisation_id_of(request), values))

    @described(
        "get_destinations", "Show which kinds of senders destinations take.", answers={200: DestinationSheet}
    )
    async def show_destinations(self, request: web.Request) -> Response:
        """`GET /v1/admin/destinations`: 200 with the rules. Raises Refusal 401, Unavailable."""
        return answer_of(200, await self._book.destinations())

    @described(
        "replace_destinations",
        "Replace the rules for destinations in one step.",
        body=_RULES,
        examples={"one rule": {"rules": {"+1": ["short"]}}, "none": {"rules": {}}},
        answers={200: DestinationSheet},
        codes=("version_conflict",),
    )
    async def replace_destinations(self, request: web.Request) -> Response:
        """`PUT /v1/admin/destinations`: 200 with the rules that stand now.

        Safe to repeat: the same rules again change nothing, whatever `version` says. Raises
        Refusal 400, 401, 409, 413, 422, Unavailable.
        """
        wanted = _RULES.decode(await read_body(request, self._body_bytes_max))
        return answer_of(200, await self._book.replace_destinations(wanted.rules, wanted.version))
