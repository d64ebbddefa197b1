"""The admin call that a plan of capacity begins with: the busiest minutes that were recorded."""

from __future__ import annotations

from aiohttp import web

from engine.api.description import Parameter, described
from engine.api.paging import asked
from engine.api.ports import AdminServices
from engine.api.response import Response, answer_of
from engine.capacity.traffic import Traffic

# How long it may take, seconds: a year of minutes is read.
TRAFFIC_S = 60.0
_DAYS, _DAYS_MAX = 30, 3660


class TrafficReport:
    """The action on /v1/admin/traffic."""

    def __init__(self, services: AdminServices) -> None:
        self._traffic = services.traffic

    @described(
        "get_traffic",
        "Show the busiest minute of each queue.",
        query={
            "days": Parameter(
                "Of the last so many days.",
                {"type": "integer", "minimum": 1, "maximum": _DAYS_MAX, "default": _DAYS},
            )
        },
        answers={200: Traffic},
    )
    async def show(self, request: web.Request) -> Response:
        """`GET /traffic?days=30`: 200 with a `capacity.traffic.Traffic` of the last so many days.

        Raises Refusal 401, 403, 422, Unavailable.
        """
        days = asked(request, "days", _DAYS, 1, _DAYS_MAX)
        return answer_of(200, await self._traffic(days))
