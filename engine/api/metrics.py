"""`GET /metrics`: what the node counts, for Prometheus.

It needs a key, also from this machine: a proxy before the API often runs on the same machine, and then
every request of the world comes from here. The key is an admin key, or the metrics key, which is good for
this alone.
"""

from __future__ import annotations

import hmac

from aiohttp import hdrs, web

from engine import api_keys
from engine.api.admin_call import AdminCalls
from engine.api.description import Answer, described
from engine.api.guard import check_query
from engine.api.ports import AdminServices
from engine.api.response import Response


class Metrics:
    """The action on /metrics; whoever listens for operators can take it."""

    def __init__(self, services: AdminServices, calls: AdminCalls) -> None:
        self._scrape = services.scrape
        self._calls = calls
        self._key_sha256 = services.metrics_key_sha256

    @described(
        "get_metrics",
        "Show what the node counts, for Prometheus.",
        answers={200: Answer(str, content_type="text/plain")},
    )
    async def show(self, request: web.Request) -> Response:
        """`GET /metrics`: 200 with the text format of Prometheus, or with OpenMetrics when `Accept` has it.

        Raises Refusal 401, 403, 422, Unavailable.
        """
        authorization = request.headers.get(hdrs.AUTHORIZATION)
        token = api_keys.bearer(authorization or "") or ""
        if not token or not hmac.compare_digest(api_keys.digest(token), self._key_sha256):
            await self._calls.caller(request, "read")
        check_query(request)
        body, content_type = await self._scrape(request.headers.get(hdrs.ACCEPT, ""))
        return Response(200, body, content_type=content_type)
