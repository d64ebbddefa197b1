"""What every admin call that changes something brings: a good key, a body, and perhaps an Idempotency-Key."""

from __future__ import annotations

from aiohttp import hdrs, web

from engine.api.auth import AdminKey
from engine.api.decoding import read_body
from engine.api.guard import fingerprint, idempotency_key
from engine.records import IdempotentCall

_SCOPE = "admin"


async def posted(
    request: web.Request, admin_key: AdminKey, body_bytes_max: int
) -> tuple[bytes, IdempotentCall | None]:
    """(the body, at most so many octets; what makes the call one that is carried out once, if it has a key).

    Raises Refusal 400, 401, 413.
    """
    admin_key.check(request.headers.get(hdrs.AUTHORIZATION))
    key = idempotency_key(request)
    body = await read_body(request, body_bytes_max)
    if not key:
        return body, None
    return body, IdempotentCall(scope=_SCOPE, key=key, fingerprint=fingerprint(request, body))
