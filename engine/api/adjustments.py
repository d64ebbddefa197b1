"""The operator's call that gives an organisation units, or takes some, with a reason."""

from __future__ import annotations

import msgspec
from aiohttp import web

from engine.api.admin import NAME, organisation_id_of
from engine.api.admin_call import posted
from engine.api.decoding import Shape
from engine.api.description import Answer, described
from engine.api.parameters import ORGANISATION
from engine.api.ports import AdminServices
from engine.api.response import Response, answer_of
from engine.organisations import Adjustment


class _NewAdjustment(msgspec.Struct, forbid_unknown_fields=True):
    units: int
    reference: str
    reason: str


_ADJUSTMENT = Shape(
    _NewAdjustment,
    "an adjustment",
    {
        "units": "a whole number of units, below 0 to take them",
        "reference": "a string of 1 to 200 characters; each counts once",
        "reason": "a string of 1 to 200 characters",
    },
)


class AdjustmentCalls:
    """The action on /v1/admin/organisations/{organisation_id}/adjustments."""

    def __init__(self, services: AdminServices) -> None:
        self._adjust = services.adjust
        self._body_bytes_max = services.body_bytes_max

    @described(
        "adjust_credit",
        "Give an organisation units, or take some, with a reason; once for each reference.",
        path=ORGANISATION,
        body=_ADJUSTMENT,
        limits={"units": {"minimum": -(10**15), "maximum": 10**15}, "reference": NAME, "reason": NAME},
        examples={"to take some": {"units": -20, "reference": "claim-17", "reason": "sent twice by mistake"}},
        answers={201: Adjustment, 200: Answer(Adjustment, "It was made before.")},
        codes=("reference_reused", "units_missing"),
        once=True,
    )
    async def adjust(self, request: web.Request) -> Response:
        """`POST /organisations/{id}/adjustments`: 201 with an `organisations.Adjustment`, 200 when repeated.

        Raises Refusal 400, 404, 409, 413, 422, Unavailable.
        """
        body, once = await posted(request, self._body_bytes_max)
        wanted = _ADJUSTMENT.decode(body)
        made, added = await self._adjust(
            organisation_id_of(request), wanted.units, wanted.reference, wanted.reason, once
        )
        return answer_of(201 if added else 200, made)
