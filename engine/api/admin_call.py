"""What all admin calls have in common: a good key with the scope that is needed, and a record of each change.

Of a change in PostgreSQL the record is written in its transaction (`engine.stores.postgres.changes`). Where
whoever carried the call out has written none, nothing had to be changed, and that is what the record written
here says. A route that is `outside` changes something elsewhere: a record is written before it and one
after it. Killed in between: see there.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import pwd
import socket
import struct
from collections.abc import AsyncIterator

import structlog
from aiohttp import hdrs, web

from engine.admin_keys import AdminCredential, Scope, allows
from engine.api.admin_route import AdminRoute
from engine.api.auth import PRESENTED, AdminKeys
from engine.api.client_address import LOOPBACK, TrustedProxies, check_network, is_unix
from engine.api.decoding import read_body
from engine.api.description import like
from engine.api.guard import LET_IN, REQUEST_ID, Action, check_query, fingerprint, idempotency_key
from engine.api.last_uses import LastUses
from engine.api.paging import NUMBER
from engine.api.ports import AdminServices
from engine.api.repeats import Repeats
from engine.api.response import Response
from engine.changes import UNDER_WAY, ChangeUnderWay, Outcome
from engine.errors import EngineError, Refusal
from engine.records import IdempotentCall

_SCOPE = "admin"
# So much of a path is recorded; none that anything answers to is longer.
_PATH_MAX = 500
# Process, user and group of the other side of a Unix socket: unix(7), SO_PEERCRED.
_PEER = struct.Struct("3i")

_log = structlog.get_logger(__name__)


class AdminCalls:
    """Stands before the actions of admin calls. One per process, on its loop."""

    def __init__(self, services: AdminServices) -> None:
        self.keys = AdminKeys(services.admin_key_sha256, services.admin_keys)
        self._uses = LastUses(self.keys.cache, services.note_admin_key_uses)
        self._changes = services.changes
        self._proxies = services.trusted_proxies
        self._repeats = Repeats(services.answers, services.body_bytes_max)

    async def lifetime(self, _: web.Application) -> AsyncIterator[None]:
        """For `Application.cleanup_ctx`: note when keys are used, and end in good order."""
        noting = asyncio.create_task(self._uses.run(), name="last uses of admin keys")
        yield
        noting.cancel()
        await self._uses.flush()
        await self.keys.cache.close()

    def action(self, route: AdminRoute) -> Action:
        """What answers the route: nothing of a request is read before its key was found good."""
        if route.method == "GET" or route.is_look:
            answer, repeats = route.action, None
        else:
            answer = self._recorded(route)
            repeats = self._repeats if route.method == "POST" and not route.secret else None

        async def action(request: web.Request) -> Response:
            request[_CALLER] = await self.caller(request, route.scope)
            check_query(request)
            return await (answer(request) if repeats is None else repeats.once(request, None, answer))

        return like(route.action, action)

    async def caller(self, request: web.Request, scope: Scope) -> AdminCredential:
        """Whose key the request brings. Raises Refusal 401, 403 when it lacks the scope, or is not good for
        calls from there, Unavailable."""
        presented = request.get(PRESENTED) or self.keys.presented(request.headers.get(hdrs.AUTHORIZATION))
        who = await self.keys.found(presented)
        if who.networks:
            check_network(who.networks, self._proxies.address(request))
        if not allows(who.scopes, scope):
            has = " and ".join(f"`{one}`" for one in who.scopes)
            detail = f"This call needs an admin key with the scope `{scope}`; this key has {has}."
            raise Refusal("scope_missing", 403, detail, "Authorization")
        request[LET_IN] = True
        return who

    def _recorded(self, route: AdminRoute) -> Action:
        carry_out = self._outside if route.outside else self._inside

        async def recorded(request: web.Request) -> Response:
            change = _change(route, request, _address(request, self._proxies))
            token = UNDER_WAY.set(change)
            try:
                return await carry_out(route.action, request, change)
            finally:
                UNDER_WAY.reset(token)

        return recorded

    async def _inside(self, action: Action, request: web.Request, change: ChangeUnderWay) -> Response:
        response = await action(request)
        if not change.is_written:
            await self._changes.add(change, "done")
        return response

    async def _outside(self, action: Action, request: web.Request, change: ChangeUnderWay) -> Response:
        begun_id = await self._changes.add(change, "begun")
        outcome: Outcome = "unknown"
        try:
            response = await action(request)
            outcome = "done"
        except Refusal:
            outcome = "refused"
            raise
        finally:
            try:
                await self._changes.add(change, outcome, begun_id)
            except EngineError as e:
                # The caller is answered what became of the change itself.
                _log.warning("the end of a change is not recorded", begun=begun_id, reason=str(e))
        return response


_CALLER = web.RequestKey("caller", AdminCredential)


def _change(route: AdminRoute, request: web.Request, address: str) -> ChangeUnderWay:
    who, organisation = request[_CALLER], request.match_info.get("organisation_id", "")
    return ChangeUnderWay(
        key_id=who.key_id,
        key=who.name,
        address=address,
        request_id=request.get(REQUEST_ID, ""),
        action=f"{route.method} {route.path}",
        # As it came, in ASCII: what is decoded may be no text that PostgreSQL can keep.
        path=request.rel_url.raw_path[:_PATH_MAX],
        organisation_id=int(organisation) if NUMBER.fullmatch(organisation) else None,
    )


def _address(request: web.Request, proxies: TrustedProxies) -> str:
    """The IP address of the client; of one that came over a Unix socket itself the user there."""
    address = proxies.address(request)
    if address != LOOPBACK or not is_unix(request):
        return address
    ours = request.get_extra_info("socket")
    with socket.socket(fileno=os.dup(ours.fileno())) as peer:
        _, uid, _ = _PEER.unpack(peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size))
    with contextlib.suppress(KeyError):
        return f"unix {pwd.getpwuid(uid).pw_name}"
    return f"unix {uid}"


async def posted(request: web.Request, body_bytes_max: int) -> tuple[bytes, IdempotentCall | None]:
    """(the body, at most so many octets; what makes the call one that is carried out once, if it has a key).

    Raises Refusal 400, 413.
    """
    key = idempotency_key(request)
    body = await read_body(request, body_bytes_max)
    if not key:
        return body, None
    return body, IdempotentCall(scope=_SCOPE, key=key, fingerprint=fingerprint(request, body))
