"""Serves the application on a listening socket that other processes may share."""

from __future__ import annotations

import asyncio
import secrets
import socket
from http import HTTPStatus
from typing import Any

import structlog
from aiohttp import web

from engine.api.problems import refused
from engine.errors import Refusal

_OPTIONS: dict[str, Any] = {
    # Activity is recorded per message, not per request; lines for each would cost more than the request.
    "access_log": None,
    # Longer than usual load balancers keep their side, so that they are the ones to close.
    "keepalive_timeout": 75.0,
    # How long the rest of a body that was refused is still read, so that the caller reads why.
    "lingering_time": 2.0,
}

_log = structlog.get_logger(__name__)


class _Connection(web.RequestHandler):
    """One client's connection; what is not HTTP is told so in our own words."""

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """For what never became a request of the application, or broke in writing its answer."""
        if request.writer.output_size > 0:
            raise ConnectionError("An answer has begun already; the connection is given up.")
        request_id = secrets.token_hex(8)
        if status == HTTPStatus.BAD_REQUEST:
            refusal = Refusal(
                "invalid_request", 400, "The request must be HTTP/1.1 with headers of at most 8 KiB."
            )
        else:
            _log.error("answer failed", request_id=request_id, error=type(exc).__qualname__)
            refusal = Refusal("internal", status, "The engine failed on this request.")
        response = refused(refusal, request_id)
        response.request_id = request_id
        response.force_close()
        return response


class _Connections(web.Server):
    def __call__(self) -> web.RequestHandler:
        return _Connection(self, loop=asyncio.get_running_loop(), **_OPTIONS)


class Server:
    """The application on one socket. Started once; to stop again changes nothing."""

    def __init__(self, app: web.Application, listener: socket.socket) -> None:
        self._runner = web.AppRunner(app, access_log=None)
        self._listener = listener
        self._connections: _Connections | None = None
        self._listening: asyncio.Server | None = None

    async def start(self) -> None:
        """Accept connections from now on."""
        await self._runner.setup()
        served = self._runner.server
        assert served is not None
        self._connections = _Connections(served.request_handler, request_factory=served.request_factory)
        loop = asyncio.get_running_loop()
        self._listening = await loop.create_server(self._connections, sock=self._listener)

    async def stop(self, timeout_s: float) -> None:
        """Accept nothing more, close idle connections, let requests under way end.

        Those that have not ended after `timeout_s` are canceled: their callers see the
        connection close and must try again with the same Idempotency-Key. Other
        processes go on accepting from a shared socket.
        """
        listening, self._listening = self._listening, None
        if listening is not None and self._connections is not None:
            listening.close()
            self._connections.pre_shutdown()
            await self._connections.shutdown(timeout_s)
        await self._runner.cleanup()
