"""A console of the tests' own, and a client of it that is no browser: it sends what a test says."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from http.cookies import Morsel, SimpleCookie
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import msgspec

from engine.api.app import create_admin_app
from engine.api.ports import AdminServices
from engine.api.server import Server
from engine.console.access import COOKIE, CSRF_HEADER
from engine.console.app import console
from engine.console.sessions import SessionStore
from engine.stores.postgres.directory import Directory
from engine.stores.redis.console_sessions import RedisConsoleSessions
from engine.stores.redis.link import RedisLink
from tests.api.world import services_with

PAGES = {
    "index.html": "<!doctype html><title>console</title>",
    "app.js": "export const answer = 42\n" * 100,
    "pages/live.js": "export const live = true\n",
    "style.css": "body { margin: 0 }\n",
}


class Reply(NamedTuple):
    status: int
    headers: Mapping[str, str]
    octets: bytes

    @property
    def body(self) -> Any:
        return msgspec.json.decode(self.octets)

    @property
    def cookie(self) -> Morsel[str]:
        """The one that it sets."""
        return SimpleCookie(self.headers["Set-Cookie"])[COOKIE]


class LoggedIn(NamedTuple):
    """What a browser has after a log-in."""

    cookie: str
    csrf: str
    facts: dict[str, Any]

    def headers(self, csrf: str | None = None) -> dict[str, str]:
        """Those that it sends. `csrf`: another token; "": none."""
        token = self.csrf if csrf is None else csrf
        return {"Cookie": f"{COOKIE}={self.cookie}"} | ({CSRF_HEADER: token} if token else {})


class Console:
    """One that runs."""

    def __init__(
        self, port: int, client: aiohttp.ClientSession, services: AdminServices, server: Server
    ) -> None:
        self.port = port
        self.server = server
        self.client = client
        self.services = services

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    async def ask(
        self, method: str, path: str, body: object = None, headers: Mapping[str, str] | None = None
    ) -> Reply:
        """One call; a body is sent as JSON unless `headers` name another type."""
        data = body if body is None or isinstance(body, bytes) else msgspec.json.encode(body)
        given = {"Content-Type": "application/json", **(headers or {})}
        url = self.url(path)
        async with self.client.request(method, url, data=data, headers=given) as answer:
            return Reply(answer.status, answer.headers, await answer.read())

    async def log_in(self, key: str, headers: Mapping[str, str] | None = None) -> LoggedIn:
        reply = await self.ask("POST", "/console/session", {"key": key}, headers)
        assert reply.status == 201, reply
        return LoggedIn(reply.cookie.value, reply.body["csrf"], reply.body)

    def open_connections(self) -> int:
        """How many the server has."""
        assert self.server._connections is not None
        return self.server._connections.open

    async def raw(self, request: bytes) -> bytes:
        """The octets of the answer to these octets."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(request)
        answer = await reader.read()
        writer.close()
        return answer


def redis_sessions(link: RedisLink, **changes: int) -> RedisConsoleSessions:
    return RedisConsoleSessions(link, **({"idle_s": 3_600, "age_s": 43_200, "per_key_max": 20} | changes))


@asynccontextmanager
async def open_console(
    directory: Directory,
    link: RedisLink,
    pages: Path,
    store: SessionStore | None = None,
    **changes: Any,
) -> AsyncIterator[Console]:
    """A console on a free port, while the block runs. `changes`: of what the admin calls use."""
    services = (await services_with(directory)).admin
    assert services is not None
    services = replace(services, **changes)
    listener = socket.create_server(("127.0.0.1", 0))
    app = create_admin_app(services, console(services, store or redis_sessions(link), pages))
    server = Server(app, listener)
    await server.start()
    jar = aiohttp.DummyCookieJar()
    async with aiohttp.ClientSession(cookie_jar=jar, timeout=aiohttp.ClientTimeout(total=120)) as client:
        try:
            yield Console(listener.getsockname()[1], client, services, server)
        finally:
            await client.close()
            services.draining.set()
            await server.stop(5)
