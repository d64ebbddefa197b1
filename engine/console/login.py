"""The calls on /console/session: log in with a key, look who is logged in, log out."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

import msgspec
from aiohttp import hdrs, web

from engine.api.admin_call import AdminCalls
from engine.api.auth import PRESENTED, Keys
from engine.api.client_address import TrustedProxies
from engine.api.decoding import Shape, invalid, read_body
from engine.api.guard import Action
from engine.api.key_cache import Presented, unauthorised
from engine.api.ports import Directory
from engine.api.response import Response, answer_of
from engine.console.access import COOKIE, PATH, Access, check_origin, check_token, session_id_of
from engine.console.attempts import Attempts
from engine.console.records import Kind, Session, SessionFacts, csrf_token_of
from engine.console.sessions import AGE_S, Sessions
from engine.errors import Refusal

_BODY_BYTES_MAX = 4_096
# Attempts that fail are answered this long after they began, so that the time says nothing of why, seconds.
_FAILED_S = 0.25
_API_KEY = "smse_"


class _Login(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    key: str


_LOGIN = Shape(_Login, "a log-in", {"key": "an admin key, or an API key of an organisation"})


class SessionCalls:
    """The actions on /console/session."""

    def __init__(
        self,
        sessions: Sessions,
        admin: AdminCalls,
        keys: Keys,
        directory: Directory,
        proxies: TrustedProxies,
        *,
        clock_s: Callable[[], float] = time.monotonic,
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """`admin` and `keys` know the keys of operators and of organisations."""
        self._sessions = sessions
        self._access = Access(sessions)
        self._admin = admin
        self._keys = keys
        self._directory = directory
        self._proxies = proxies
        self._attempts = Attempts(clock_s)
        self._clock_s = clock_s
        self._pause = pause

    def actions(self) -> dict[str, dict[str, Action]]:
        """By path and method."""
        return {f"{PATH}/session": {"GET": self.show, "POST": self.open, "DELETE": self.close}}

    async def show(self, request: web.Request) -> Response:
        """`GET /console/session`: 200 with the `SessionFacts`. Raises Refusal 401, 403, Unavailable."""
        session_id, session = await self._access.session(request)
        return answer_of(200, await self._facts(request, session_id, session))

    async def open(self, request: web.Request) -> Response:
        """`POST /console/session`: 201 with the `SessionFacts` and a cookie. A session that the browser had
        ends, and its id is never used again. Raises Refusal 401, 403, 413, 422, TooMany, Unavailable."""
        check_origin(request)
        # What another page can send without asking is no JSON by its type (Fetch, "CORS-safelisted").
        if request.content_type != "application/json":
            raise invalid("`Content-Type` must be application/json.", "Content-Type")
        address = self._proxies.address(request)
        self._attempts.take(address)
        key = _LOGIN.decode(await read_body(request, _BODY_BYTES_MAX)).key
        kind, presented = await self._checked(request, key)
        self._attempts.give_back(address)
        session_id, session = await self._sessions.open(kind, presented.key_id, presented.digest())
        facts = await self._facts(request, session_id, session)
        await self._end_former(request)
        response = answer_of(201, facts)
        response.add_headers({"Set-Cookie": _cookie(session_id, AGE_S, request)})
        return response

    async def close(self, request: web.Request) -> Response:
        """`DELETE /console/session`: 204, also when the session has ended before. Raises Refusal 401, 403,
        Unavailable."""
        check_origin(request)
        session_id = session_id_of(request)
        check_token(request, session_id)
        await self._sessions.close(session_id)
        return Response(204, more={"Set-Cookie": _cookie("", 0, request)})

    async def _checked(self, request: web.Request, key: str) -> tuple[Kind, Presented]:
        """The key, found good. Raises Refusal 401 after `_FAILED_S`, whatever is wrong with it."""
        began_s = self._clock_s()
        try:
            return await self._found(request, key)
        except Refusal as e:
            if e.status != 401:
                raise
            await self._pause(max(0.0, began_s + _FAILED_S - self._clock_s()))
            detail = "`key` must be an admin key, or an API key of an organisation, that is in force."
            raise Refusal("unauthorised", 401, detail, "key") from None

    async def _found(self, request: web.Request, key: str) -> tuple[Kind, Presented]:
        """Raises Refusal 401, 403 for one that is not good from there, Unavailable."""
        authorization = f"Bearer {key}"
        is_own = key.startswith(_API_KEY)
        presented = Presented.by(authorization) if is_own else self._admin.keys.presented(authorization)
        if presented is None:
            raise unauthorised()
        request[PRESENTED] = presented
        if is_own:
            await self._keys.credential(None, request)
            return "organisation", presented
        await self._admin.caller(request, "read")
        return "admin", presented

    async def _facts(self, request: web.Request, session_id: str, session: Session) -> SessionFacts:
        """Raises Refusal 401 when the key is not good any more, 403, Unavailable."""
        csrf = csrf_token_of(session_id)
        ends_at = datetime.fromtimestamp(session.opened_at_us // 1_000_000 + AGE_S, UTC)
        if session.kind == "admin":
            who = await self._admin.caller(request, "read")
            return SessionFacts(kind="admin", name=who.name, scopes=who.scopes, csrf=csrf, ends_at=ends_at)
        credential = await self._keys.credential(None, request)
        organisation = await self._directory.organisation(credential.organisation_id)
        return SessionFacts(
            kind="organisation",
            name=organisation.name,
            scopes=tuple(credential.scopes),
            csrf=csrf,
            ends_at=ends_at,
            organisation_id=organisation.id,
        )

    async def _end_former(self, request: web.Request) -> None:
        try:
            former = session_id_of(request)
        except Refusal:
            return
        await self._sessions.close(former)


def _cookie(session_id: str, age_s: int, request: web.Request) -> str:
    """The header Set-Cookie. A page says by `Origin` that it came over TLS, also behind a proxy."""
    is_tls = request.secure or request.headers.get(hdrs.ORIGIN, "").startswith("https://")
    secure = "; Secure" if is_tls else ""
    return f"{COOKIE}={session_id}; Path={PATH}; Max-Age={age_s}; HttpOnly; SameSite=Strict{secure}"
