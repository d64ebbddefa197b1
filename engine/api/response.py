"""Answers as they go over the wire: one head, one body, one write.

aiohttp's own response assembles its headers step by step, for streams, cookies and
compression. This API has none of these, and assembling would be a fifth of the cost of a small
request. aiohttp's server uses three things of a response, which are overridden here: `prepare`,
`write_eof` and `keep_alive`.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from email.utils import formatdate
from functools import lru_cache
from http import HTTPStatus

import msgspec
from aiohttp import HttpVersion11, web
from aiohttp.abc import AbstractStreamWriter

_encode = msgspec.json.Encoder().encode
_WITHOUT_BODY = (HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED)


class Response(web.StreamResponse):
    """A whole answer. `Exchanges.guard` sets `request_id` before it is written."""

    def __init__(
        self,
        status: int,
        body: bytes = b"",
        *,
        content_type: str = "application/json",
        more: Mapping[str, str] | None = None,
    ) -> None:
        """`more` are further headers. They are not escaped: pass none that a caller wrote."""
        super().__init__(status=status)
        self._whole_body = body
        self._whole_type = content_type
        self._more = more
        self._keeps_alive = True
        self.request_id = ""
        # Of the problem that it is; "" for any other answer.
        self.code = ""

    @property
    def keep_alive(self) -> bool:
        """Whether the connection stays open after this answer; aiohttp's server asks it."""
        return self._keeps_alive

    @property
    def whole_body(self) -> bytes:
        """The body as it is sent."""
        return self._whole_body

    def add_headers(self, more: Mapping[str, str]) -> None:
        """Further headers, as `more` of the constructor; what the answer says itself stays."""
        self._more = {**more, **(self._more or {})}

    def more_lines(self) -> str:
        """The further headers, a line each."""
        return "".join(f"{name}: {value}\r\n" for name, value in (self._more or {}).items())

    def force_close(self) -> None:
        """Close the connection after this answer."""
        self._keeps_alive = False

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter:
        """Write everything, and wait while the client reads more slowly than we write."""
        if not request.keep_alive:
            self._keeps_alive = False
        octets = self.octets("keep-alive" if request.version < HttpVersion11 else "")
        if request.method == "HEAD":
            octets = octets[: octets.index(b"\r\n\r\n") + 4]
        writer = request.writer
        await writer.write_eof(octets)
        return writer

    def octets(self, connection: str = "") -> bytes:
        """Head and body, as they go over the wire now. `connection`: the value of that header while the
        connection stays open; "": without it."""
        body = self._whole_body
        head = _opening(self.status, self._whole_type)
        if self.status not in _WITHOUT_BODY:
            head += f"Content-Length: {len(body)}\r\n"
        head += self.more_lines()
        if not self._keeps_alive:
            connection = "close"
        if connection:
            head += f"Connection: {connection}\r\n"
        head += f"X-Request-Id: {self.request_id}\r\nDate: {date_at(int(time.time()))}\r\n\r\n"
        return head.encode() + body

    async def write_eof(self, data: bytes = b"") -> None:
        """Do nothing: `prepare` has written everything."""


def answer_of(status: int, record: object) -> Response:
    """`record`, anything that msgspec can encode, as a JSON answer with this HTTP status."""
    return Response(status, _encode(record))


def accepted_octets(body: bytes, request_id: str) -> bytes:
    """As `Response(202, body).octets()`: the most frequent answer, at a fraction of the cost."""
    date = date_at(int(time.time()))
    return f"{_ACCEPTED}{len(body)}\r\nX-Request-Id: {request_id}\r\nDate: {date}\r\n\r\n".encode() + body


@lru_cache(maxsize=256)
def _opening(status: int, content_type: str) -> str:
    line = f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\n"
    return line if status in _WITHOUT_BODY else f"{line}Content-Type: {content_type}\r\n"


@lru_cache(maxsize=1)
def date_at(second: int) -> str:
    """This second since 1970 as HTTP writes it (RFC 9110, section 5.6.7); formatted once a second."""
    return formatdate(second, usegmt=True)


_ACCEPTED = f"{_opening(202, 'application/json')}Content-Length: "
