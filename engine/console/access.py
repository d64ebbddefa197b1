"""Who may do what with a session: the cookie, the token against forged calls, and where a call comes from.

A browser sends the cookie with whatever another page makes it ask for. So a call that changes something must
come from a page of the console itself, as the browser says (`Sec-Fetch-Site`, or else `Origin`), and must
carry a token that only such a page can read. A caller that is no browser says neither, and has the token.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Callable

from aiohttp import hdrs, web

from engine.api.auth import PRESENTED
from engine.api.guard import Action, Handler
from engine.api.response import Response
from engine.console.records import Kind, Session, csrf_token_of
from engine.console.sessions import Sessions, no_session
from engine.errors import Refusal

PATH = "/console"
COOKIE = "smsengine_console"
CSRF_HEADER = "X-CSRF-Token"
_FETCH_SITE = "Sec-Fetch-Site"
_SAFE = ("GET", "HEAD")
# `secrets.token_urlsafe(32)`; what is longer is never looked up.
_ID = re.compile(r"[A-Za-z0-9_-]{43}")
_COOKIES = re.compile(rf"(?:^|;)\s*{COOKIE}=([^;]*)")
# On every answer of the console.
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
        "font-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
_KINDS: dict[Kind, str] = {"admin": "an admin key", "organisation": "an API key of an organisation"}


def dressed(handler: Handler) -> Handler:
    """The handler, with the headers of the console on each of its answers that does not say otherwise."""

    async def dress(request: web.Request) -> Response:
        response = await handler(request)
        response.add_headers(HEADERS)
        return response

    return dress


def session_id_of(request: web.Request) -> str:
    """The id in the cookie. Raises Refusal 401 when there is none, or when there are two that differ: a
    browser that was given one by somebody else sends both."""
    found = {
        value.strip()
        for header in request.headers.getall(hdrs.COOKIE, ())
        for value in _COOKIES.findall(header)
    }
    session_id = found.pop() if len(found) == 1 else ""
    if not _ID.fullmatch(session_id):
        raise no_session()
    return str(session_id)


def check_origin(request: web.Request) -> None:
    """Raise Refusal 403 for a call that a page of somebody else has made."""
    site = request.headers.get(_FETCH_SITE)
    if site is not None:
        is_own = site == "same-origin"
    else:
        origin = request.headers.get(hdrs.ORIGIN)
        is_own = origin is None or origin.partition("://")[2] == request.headers.get(hdrs.HOST)
    if not is_own:
        detail = "A page of another origin must not make this call."
        raise Refusal("foreign_origin", 403, detail, _FETCH_SITE if site is not None else "Origin")


def check_token(request: web.Request, session_id: str) -> None:
    """Raise Refusal 403 when the token of the session is not with the call."""
    given = request.headers.getall(CSRF_HEADER, ())
    right = csrf_token_of(session_id)
    if len(given) != 1 or not hmac.compare_digest(given[0].encode(errors="replace"), right.encode()):
        detail = f"`{CSRF_HEADER}` must be the token of the session: `csrf` in `GET {PATH}/session`."
        raise Refusal("csrf_token_wrong", 403, detail, CSRF_HEADER)


class Access:
    """Lets calls in that come with a session. One per process."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions

    async def session(self, request: web.Request) -> tuple[str, Session]:
        """(id, session) of a call; the key is `PRESENTED` with the request from then on. Raises Refusal 401,
        403, Unavailable."""
        if request.method not in _SAFE:
            check_origin(request)
        session_id = session_id_of(request)
        session = await self._sessions.found(session_id)
        if request.method not in _SAFE:
            check_token(request, session_id)
        request[PRESENTED] = session.presented()
        return session_id, session

    async def admit(self, request: web.Request, kind: Kind) -> None:
        """Let a call of sessions of this kind in. Raises as `session`, and Refusal 403 for another kind."""
        _, session = await self.session(request)
        if session.kind != kind:
            detail = f"This call needs {_KINDS[kind]}; the session is that of {_KINDS[session.kind]}."
            raise Refusal("scope_missing", 403, detail, "Cookie")

    def entered(self, kind: Kind) -> Callable[[Action], Action]:
        """What makes of an action one that sessions of this kind may call: the action finds the key and its
        scopes as if the call had brought the key."""

        def enter(action: Action) -> Action:
            async def entered(request: web.Request) -> Response:
                await self.admit(request, kind)
                return await action(request)

            return entered

        return enter
