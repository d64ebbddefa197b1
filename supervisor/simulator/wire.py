"""Answers of the simulator as bytes: HTTP/1.1 (RFC 9112), problems as RFC 9457."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from http import HTTPStatus
from typing import Any, Final

import msgspec

JSON = b"application/json"
PROBLEM = b"application/problem+json"
TEXT = b"text/plain; charset=utf-8"

# Stand for an answer: the connection is reset, or closed, without one.
RESET: Final = b"\0reset"
CLOSE: Final = b"\0close"


def answer(status: HTTPStatus, kind: bytes, body: bytes, *, headers: bytes = b"") -> bytes:
    """A whole answer. `kind` is its media type; `headers` are further lines, each with its CRLF."""
    return b"HTTP/1.1 %d %b\r\nContent-Type: %b\r\nContent-Length: %d\r\n%b\r\n%b" % (
        status, status.phrase.encode(), kind, len(body), headers, body,
    )  # fmt: skip


def json_answer(value: Any, status: HTTPStatus = HTTPStatus.OK, *, headers: bytes = b"") -> bytes:
    """A whole answer with `value` as its JSON body."""
    return answer(status, JSON, msgspec.json.encode(value), headers=headers)


def problem(status: HTTPStatus, detail: str, field: str | None = None, *, headers: bytes = b"") -> bytes:
    """A refusal: `detail` is one plain sentence, `field` names the part of the request that is wrong."""
    members: dict[str, Any] = {
        "type": "about:blank", "title": status.phrase, "status": int(status), "detail": detail,
    }  # fmt: skip
    if field is not None:
        members["field"] = field
    return answer(status, PROBLEM, msgspec.json.encode(members), headers=headers)


class Listing:
    """An answer whose body comes in pieces, so that its length is not known at its start."""

    def __init__(self, kind: bytes, pieces: Iterable[bytes]) -> None:
        self.kind = kind
        self.pieces = pieces

    def chunked(self) -> Iterator[bytes]:
        """The answer in pieces, with chunked transfer coding (RFC 9112, 7.1)."""
        yield b"HTTP/1.1 200 OK\r\nContent-Type: %b\r\nTransfer-Encoding: chunked\r\n\r\n" % self.kind
        for piece in self.pieces:
            if piece:
                yield b"%x\r\n%b\r\n" % (len(piece), piece)
        yield b"0\r\n\r\n"

    def whole(self) -> bytes:
        """The answer in one piece, for HTTP/1.0, which knows no chunks."""
        return answer(HTTPStatus.OK, self.kind, b"".join(self.pieces))
