"""The operator's calls on one organisation: what limits it, and its pause."""

from __future__ import annotations

import msgspec
from aiohttp import web
from msgspec import UNSET, UnsetType

from engine.api.admin import organisation_id_of
from engine.api.admin_call import posted
from engine.api.decoding import Shape, read_body
from engine.api.description import described
from engine.api.parameters import ORGANISATION
from engine.api.ports import AdminServices
from engine.api.response import Response, answer_of
from engine.organisations import Limits, Organisation


class _Change(msgspec.Struct, forbid_unknown_fields=True):
    # What is left out stays; null takes it back.
    weight: float | UnsetType | None = UNSET
    backlog_max: int | UnsetType | None = UNSET
    rate_max: float | UnsetType | None = UNSET


class _Pause(msgspec.Struct, forbid_unknown_fields=True):
    reason: str = ""


class _Nothing(msgspec.Struct, forbid_unknown_fields=True):
    pass


class _Shown(msgspec.Struct):
    """What was set, null for nothing, and what holds then."""

    weight: float | None
    backlog_max: int | None
    rate_max: float | None
    default: Limits


_CHANGE = Shape(
    _Change,
    "a change of limits",
    {
        "weight": "a number from 0.1 to 100, or null: 1",
        "backlog_max": "a whole number of messages, or null: as the configuration says",
        "rate_max": "a number of messages a second, or null: no limit",
    },
)
_PAUSE = Shape(_Pause, "a pause", {"reason": "a string of 1 to 200 characters"})
_RESUMPTION = Shape(_Nothing, "an end of a pause", {})


class OrganisationLimits:
    """The actions on /v1/admin/organisations/{organisation_id} and its limits."""

    def __init__(self, services: AdminServices) -> None:
        self._directory = services.directory
        self._limits = services.limits
        self._body_bytes_max = services.body_bytes_max

    @described("get_organisation", "Show one organisation.", path=ORGANISATION, answers={200: Organisation})
    async def show_organisation(self, request: web.Request) -> Response:
        """`GET /organisations/{id}`: 200 with that one. Raises Refusal 401, 404, Unavailable."""
        return answer_of(200, await self._directory.organisation(organisation_id_of(request)))

    @described("get_limits", "Show what limits an organisation.", path=ORGANISATION, answers={200: _Shown})
    async def show(self, request: web.Request) -> Response:
        """`GET /organisations/{id}/limits`: 200 with its limits. Raises Refusal 401, 404, Unavailable."""
        return self._shown(await self._limits.limits(organisation_id_of(request)))

    @described(
        "change_limits",
        "Set some limits of an organisation; what is left out stays, null takes it back.",
        path=ORGANISATION,
        body=_CHANGE,
        limits={
            "weight": {"minimum": 0.1, "maximum": 100},
            "backlog_max": {"minimum": 1_000, "maximum": 1_000_000_000},
            "rate_max": {"minimum": 0.1, "maximum": 1_000_000},
        },
        examples={"two of them": {"weight": 2.0, "rate_max": 200.0}},
        answers={200: _Shown},
    )
    async def change(self, request: web.Request) -> Response:
        """`PATCH /organisations/{id}/limits`: set some of them; 200 with all.

        Safe to repeat. Raises Refusal 400, 401, 404, 413, 422, Unavailable.
        """
        wanted = msgspec.structs.asdict(_CHANGE.decode(await read_body(request, self._body_bytes_max)))
        values = {field: value for field, value in wanted.items() if value is not UNSET}
        return self._shown(await self._limits.change(organisation_id_of(request), values))

    @described(
        "pause_organisation",
        "Send nothing of an organisation; its messages are accepted and wait.",
        path=ORGANISATION,
        body=_PAUSE,
        is_body_optional=True,
        limits={"reason": {"maxLength": 200}},
        examples={"a reason": {"reason": "asked by phone"}},
        answers={200: Organisation},
        once=True,
    )
    async def pause(self, request: web.Request) -> Response:
        """`POST /organisations/{id}/pause`: 200 with it; nothing of it is sent any more.

        Safe to repeat. Raises Refusal 400, 401, 404, 409, 413, 422, Unavailable.
        """
        return await self._set_paused(request, _PAUSE)

    @described(
        "resume_organisation",
        "Let an organisation that is paused go on.",
        path=ORGANISATION,
        body=_RESUMPTION,
        is_body_optional=True,
        answers={200: Organisation},
        once=True,
    )
    async def resume(self, request: web.Request) -> Response:
        """`POST /organisations/{id}/resume`: 200 with it; it goes on. Raises as `pause` does."""
        return await self._set_paused(request, _RESUMPTION)

    async def _set_paused(self, request: web.Request, shape: Shape[_Pause] | Shape[_Nothing]) -> Response:
        body, once = await posted(request, self._body_bytes_max)
        organisation_id = organisation_id_of(request)
        wanted = shape.decode_optional(body)
        reason = wanted.reason if isinstance(wanted, _Pause) else ""
        await self._limits.set_paused(organisation_id, isinstance(wanted, _Pause), reason, once)
        return answer_of(200, await self._directory.organisation(organisation_id))

    def _shown(self, limits: Limits) -> Response:
        return answer_of(200, _Shown(**msgspec.structs.asdict(limits), default=self._limits.default))
