"""`GET /metrics`: what the node counts, for Prometheus.

It needs a key, also from this machine: a proxy before the API often runs on the same machine, and then
every request of the world comes from here. The key is the admin key, or the metrics key, which is good for
this alone.
"""

from __future__ import annotations

import hmac

from aiohttp import hdrs, web

from engine import api_keys
from engine.api.auth import AdminKey
from engine.api.ports import AdminServices
from engine.api.response import Response


class Metrics:
    """The action on /metrics; whoever listens for operators can take it."""

    def __init__(self, services: AdminServices) -> None:
        self._scrape = services.scrape
        self._admin_key = AdminKey(services.admin_key_sha256)
        self._key_sha256 = services.metrics_key_sha256

    async def show(self, request: web.Request) -> Response:
        """`GET /metrics`: 200 with the text format of Prometheus, or with OpenMetrics when `Accept` has it.

        Raises Refusal 401.
        """
        authorization = request.headers.get(hdrs.AUTHORIZATION)
        token = api_keys.bearer(authorization or "") or ""
        if not token or not hmac.compare_digest(api_keys.digest(token), self._key_sha256):
            self._admin_key.check(authorization)
        body, content_type = await self._scrape(request.headers.get(hdrs.ACCEPT, ""))
        return Response(200, body, content_type=content_type)
