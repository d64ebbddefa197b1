"""`/openapi.json` and `/docs`: what the API says about itself, to anybody.

Both are made at the first request for one of them, in a thread, and kept as octets. A fault in them is no
fault of the calls that they describe.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

import msgspec
from aiohttp import hdrs, web

from engine.api.description import Answer, described
from engine.api.guard import Action
from engine.api.openapi import Call, document
from engine.api.reference_page import CONTENT_SECURITY_POLICY, page
from engine.api.response import Response


class _Kept(NamedTuple):
    body: bytes
    content_type: str
    headers: dict[str, str]


class Pages:
    """The actions on /openapi.json and /docs. They need no key."""

    def __init__(self, calls: Callable[[], Sequence[Call]]) -> None:
        """`calls`: all calls that are answered here."""
        self._calls = calls
        self._made: asyncio.Future[dict[str, _Kept]] | None = None

    @described(
        "get_openapi",
        "Show this document.",
        answers={200: Answer(dict), 304: Answer(None, "It is that of the caller's If-None-Match still.")},
        any_query=True,
    )
    async def openapi(self, request: web.Request) -> Response:
        """`GET /openapi.json`: 200 with the OpenAPI document, 304 when the caller has it already."""
        return await self._shown(request, "openapi")

    @described(
        "get_docs",
        "Show this document as a page for people.",
        answers={
            200: Answer(str, content_type="text/html"),
            304: Answer(None, "It is that of the caller's If-None-Match still."),
        },
        any_query=True,
    )
    async def docs(self, request: web.Request) -> Response:
        """`GET /docs`: 200 with a page for people, 304 when the caller has it already."""
        return await self._shown(request, "docs")

    def actions(self) -> dict[str, dict[str, Action]]:
        """By path and method."""
        return {"/openapi.json": {"GET": self.openapi}, "/docs": {"GET": self.docs}}

    async def _shown(self, request: web.Request, name: str) -> Response:
        if self._made is None:
            self._made = asyncio.ensure_future(asyncio.to_thread(self._make))
        # Whoever gives up waiting takes it from nobody else.
        kept = (await asyncio.shield(self._made))[name]
        if request.headers.get(hdrs.IF_NONE_MATCH) == kept.headers["ETag"]:
            return Response(304, more=kept.headers)
        return Response(200, kept.body, content_type=kept.content_type, more=kept.headers)

    def _make(self) -> dict[str, _Kept]:
        made = document(self._calls())
        policy = {"Content-Security-Policy": CONTENT_SECURITY_POLICY}
        return {
            "openapi": _kept(msgspec.json.encode(made), "application/json", {}),
            "docs": _kept(page(made).encode(), "text/html; charset=utf-8", policy),
        }


def _kept(body: bytes, content_type: str, more: dict[str, str]) -> _Kept:
    tag = hashlib.blake2b(body, digest_size=12).hexdigest()
    headers = {"ETag": f'"{tag}"', "Cache-Control": "no-cache", "X-Content-Type-Options": "nosniff", **more}
    return _Kept(body, content_type, headers)
