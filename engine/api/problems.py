"""Errors as the caller sees them: problem details, RFC 9457."""

from __future__ import annotations

import math
from http import HTTPStatus

import msgspec

from engine.api.response import Response
from engine.errors import Refusal, TooMany, Unavailable

_encode = msgspec.json.Encoder().encode


class MethodNotAllowed(Refusal):
    """A 405. `allowed` are the methods of the path, with commas in between, for the header Allow."""

    def __init__(self, allowed: str) -> None:
        super().__init__("method_not_allowed", 405, f"The method of this path must be one of: {allowed}.")
        self.allowed = allowed


class Problem(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A problem document: what is wrong with a request (RFC 9457, section 3.1)."""

    # A name for the kind of problem, not an address to open.
    type: str
    # The same for every problem of this type.
    title: str
    # The HTTP status.
    status: int
    # Stable and machine-readable.
    code: str
    # One sentence about this occurrence: what is wrong and what is allowed.
    detail: str
    # The part of the request that is wrong.
    field: str | None = None
    request_id: str | None = None


def problem_of(refusal: Refusal, field: str | None = None, request_id: str | None = None) -> Problem:
    """The refusal as a problem; `field` replaces the refusal's own."""
    return Problem(
        type=f"urn:smsengine:problem:{refusal.code}",
        title=refusal.code.replace("_", " ").capitalize(),
        status=int(refusal.status),
        code=refusal.code,
        detail=refusal.detail,
        field=field if field is not None else refusal.field,
        request_id=request_id,
    )


def refused(refusal: Refusal, request_id: str, retry_after_s: float = 0) -> Response:
    """The whole answer to a refused request; `retry_after_s` 0: without Retry-After."""
    more = when_again(refusal)
    if refusal.status == HTTPStatus.UNAUTHORIZED:
        more["WWW-Authenticate"] = 'Bearer realm="smsengine"'
    if isinstance(refusal, MethodNotAllowed):
        more["Allow"] = refusal.allowed
    if retry_after_s:
        more["Retry-After"] = _seconds(retry_after_s)
    body = _encode(problem_of(refusal, request_id=request_id))
    response = Response(int(refusal.status), body, content_type="application/problem+json", more=more)
    response.code = refusal.code
    return response


def when_again(error: Refusal | Unavailable) -> dict[str, str]:
    """The headers that say when the same request may succeed; none for a refusal that stays one."""
    if isinstance(error, Unavailable):
        return {"Retry-After": _seconds(error.retry_after)}
    if isinstance(error, TooMany):
        return {"Retry-After": _seconds(error.retry_after_s)} | _rate_limit(error)
    return {}


def _seconds(wait_s: float) -> str:
    """Whole seconds, at least one."""
    return str(max(1, math.ceil(wait_s)))


def _rate_limit(refusal: TooMany) -> dict[str, str]:
    """The headers of draft-ietf-httpapi-ratelimit-headers-10: what the limit is, what is left of it, and in
    how many seconds there is more."""
    window = f";w={refusal.window_s}" if refusal.window_s else ""
    reset_s = max(1, math.ceil(refusal.retry_after_s))
    return {
        "RateLimit-Policy": f'"{refusal.limit}";q={math.floor(refusal.quota)}{window}',
        "RateLimit": f'"{refusal.limit}";r={math.floor(refusal.remaining)};t={reset_s}',
    }


def unavailable(
    error: Unavailable, request_id: str, code: str = "unavailable", *, to_operator: bool = False
) -> Response:
    """The whole answer when a part is away: 503 with Retry-After, whole seconds, at least one.

    Operators alone are told where the part is.
    """
    detail = error.detail if to_operator else error.public
    return refused(Refusal(code, 503, detail), request_id, max(1, error.retry_after))


def not_found(detail: str) -> Refusal:
    """A 404; `detail` is one sentence on what is not there."""
    return Refusal("not_found", 404, detail)
