"""What admin calls have in common: a good key, and perhaps an Idempotency-Key."""

from __future__ import annotations

from aiohttp import hdrs, web

from engine.api.auth import AdminKey
from engine.api.decoding import read_body
from engine.api.guard import Action, fingerprint, idempotency_key
from engine.api.ports import AdminServices
from engine.api.response import Response
from engine.records import IdempotentCall

_SCOPE = "admin"


class AdminCalls:
    """Stands before the actions of admin calls."""

    def __init__(self, services: AdminServices) -> None:
        self._key = AdminKey(services.admin_key_sha256)

    def guarded(self, action: Action) -> Action:
        """The action, for callers with a good key alone: anybody else gets a Refusal 401 before anything else
        of the request is read."""

        async def guarded(request: web.Request) -> Response:
            self._key.check(request.headers.get(hdrs.AUTHORIZATION))
            return await action(request)

        return guarded


async def posted(request: web.Request, body_bytes_max: int) -> tuple[bytes, IdempotentCall | None]:
    """(the body, at most so many octets; what makes the call one that is carried out once, if it has a key).

    Raises Refusal 400, 413.
    """
    key = idempotency_key(request)
    body = await read_body(request, body_bytes_max)
    if not key:
        return body, None
    return body, IdempotentCall(scope=_SCOPE, key=key, fingerprint=fingerprint(request, body))
