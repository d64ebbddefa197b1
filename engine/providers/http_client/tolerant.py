"""Reads one HTTP answer that the strict parser has refused, as tolerantly as curl does.

Providers' servers are often written by hand. What is read here although RFC 9112 forbids it:
- lines that end with LF alone, or with more than one CR before it;
- a blank before the colon (5.1), control octets in a value, values that go on in the next
  line (5.2), lines without a colon, which are passed over;
- any blanks around the status, no word after it;
- the same Content-Length several times; Content-Length beside chunked, which then counts (6.3).

What makes the length of the body doubtful is a fault: lengths that differ or are no numbers, an
unknown Transfer-Encoding, chunks with something else between them.

The answer is read from its first octet again. The reader holds at most the largest head and the
largest body. No I/O and no clock here.
"""

from __future__ import annotations

import re
from typing import Literal, NamedTuple

# An answer's head may have this many bytes, interim answers included.
HEAD_BYTES_MAX = 64 * 1024

_HEAD_END = re.compile(rb"\n\r*\n")
_STATUS_LINE = re.compile(rb"HTTP/(\d)(?:\.(\d))?[ \t]+([1-9]\d\d)(?!\d)")
_CHUNK_SIZE = re.compile(rb"[ \t]*([0-9A-Fa-f]{1,8})[ \t]*(?:;.*)?", re.DOTALL)
_FRAMING_FIELDS = (b"content-length", b"transfer-encoding")
# Codings that stand before "chunked" and are undone as those of the content are.
_PACKINGS = (b"gzip", b"x-gzip", b"deflate")
_NO_BODY = (204, 304)

Framing = Literal["length", "chunked", "close"]


class Doubtful(ValueError):
    """It cannot be told where the answer ends."""


class _Head(NamedTuple):
    """A head, read."""

    status: int
    framing: Framing
    # For "length".
    length: int
    reusable: bool
    # Values by name in lower case; of a name given twice the last.
    fields: dict[bytes, bytes]


class TolerantReader:
    """`feed` it until it is `complete` or has a `fault`; then it is of no further use."""

    __slots__ = ("_body_bytes_max", "_buffer", "_head", "_head_bytes", "_left", "_searched",
                 "_trailers", "body", "complete", "fault")  # fmt: skip

    def __init__(self, body_bytes_max: int) -> None:
        self._body_bytes_max = body_bytes_max
        self._buffer = bytearray()
        self._searched = 0
        self._head_bytes = 0
        self._head: _Head | None = None
        # Octets of the body, or of the present chunk, that are still to come; -1: a line with a size comes.
        self._left = -1
        self._trailers = False
        self.body = bytearray()
        self.complete = False
        # A stable word, "" as long as all is well.
        self.fault = ""

    @property
    def status(self) -> int:
        """The final status; 0 before the head has come."""
        return self._head.status if self._head else 0

    @property
    def fields(self) -> dict[bytes, bytes]:
        """The header's values by name in lower case."""
        return self._head.fields if self._head else {}

    @property
    def reusable(self) -> bool:
        """Whether the next request may use the connection: asked once `complete`."""
        return self._head is not None and self._head.reusable and not self._buffer

    def feed(self, data: bytes | bytearray) -> None:
        """Read more octets; sets `complete` or `fault`."""
        self._buffer += data
        try:
            while self._head is None and self._read_head():
                pass
            if self._head is not None:
                self._read_body(self._head.framing)
        except Doubtful:
            self.fault = "bad-answer"
        if len(self.body) > self._body_bytes_max or self._head_bytes > HEAD_BYTES_MAX:
            self.complete, self.fault = False, "answer-too-large"

    def feed_eof(self) -> None:
        """The server has closed its side in good order: some answers end with that."""
        if not self.fault and self._head is not None and (self._head.framing == "close" or self._trailers):
            self.complete = True

    def _read_head(self) -> bool:
        """Whether a head was taken out of the buffer; `_head` stays None for an interim answer."""
        buffer = self._buffer
        before = len(buffer) - len(buffer.lstrip(b"\r\n"))
        del buffer[:before]
        self._head_bytes += before
        end = _HEAD_END.search(buffer, self._searched)
        if end is None:
            self._searched = max(0, buffer.rfind(b"\n"))
            if not b"HTTP/".startswith(bytes(buffer[:5])) or len(buffer) > HEAD_BYTES_MAX:
                raise Doubtful
            return False
        lines = bytes(buffer[: end.start()])
        del buffer[: end.end()]
        self._searched = 0
        self._head_bytes += end.end()
        head = _head(lines)
        if head.status == 101:
            raise Doubtful  # another protocol begins, which nobody asked for
        if head.status >= 200:
            self._head = head
            self._left = head.length if head.framing == "length" else -1
        return True

    def _read_body(self, framing: Framing) -> None:
        if framing == "chunked":
            while not self.complete and self._read_chunk():
                pass
        else:
            taken = len(self._buffer) if framing == "close" else self._left
            self._take(taken)
            self.complete = framing == "length" and self._left == 0

    def _take(self, octets: int) -> None:
        piece = self._buffer[:octets]
        del self._buffer[:octets]
        self._left -= len(piece)
        # One more than the bound is enough to see that it is too large.
        self.body += piece[: self._body_bytes_max + 1 - len(self.body)]

    def _read_chunk(self) -> bool:
        """Whether there was enough in the buffer for a step."""
        if self._left > 0:
            self._take(self._left)
            return self._left == 0
        end = self._buffer.find(b"\n")
        if end < 0:
            if len(self._buffer) > HEAD_BYTES_MAX:
                raise Doubtful
            return False
        line = bytes(self._buffer[:end]).rstrip(b"\r")
        del self._buffer[: end + 1]
        if self._trailers:
            self._head_bytes += end + 1
            self.complete = not line
        elif self._left == 0:
            if line.strip():
                raise Doubtful
            self._left = -1
        else:
            size = _CHUNK_SIZE.fullmatch(line)
            if size is None:
                raise Doubtful
            self._left = int(size[1], 16)
            self._trailers = self._left == 0
        return True


def _head(lines: bytes) -> _Head:
    """Raises Doubtful when it does not say where the answer ends, or is none."""
    first, *rest = [line.rstrip(b"\r") for line in lines.split(b"\n")]
    status_line = _STATUS_LINE.match(first)
    if status_line is None:
        raise Doubtful
    fields: dict[bytes, bytes] = {}
    framing: dict[bytes, list[bytes]] = {name: [] for name in (*_FRAMING_FIELDS, b"connection")}
    for name, value in _fields(rest):
        fields[name] = value
        if name in framing:
            framing[name] += [word.strip().lower() for word in value.split(b",")]
    status = int(status_line[3])
    kind, length = _framing(status, framing[b"content-length"], framing[b"transfer-encoding"])
    keeps = b"close" not in framing[b"connection"] and (
        status_line[1] + (status_line[2] or b"0") > b"10" or b"keep-alive" in framing[b"connection"]
    )
    both = bool(framing[b"content-length"] and framing[b"transfer-encoding"])
    return _Head(status, kind, length, keeps and not both and kind != "close", fields)


def _fields(lines: list[bytes]) -> list[tuple[bytes, bytes]]:
    whole: list[bytes] = []
    for line in lines:
        if line[:1] in (b" ", b"\t") and whole:
            whole[-1] += b" " + line.strip()
        else:
            whole.append(line.strip())
    found = []
    for line in whole:
        name, colon, value = line.partition(b":")
        name = name.rstrip().lower()
        if colon:
            found.append((name, value.strip()))
        elif name.startswith(_FRAMING_FIELDS):
            raise Doubtful
    return found


def _framing(status: int, lengths: list[bytes], codings: list[bytes]) -> tuple[Framing, int]:
    if status < 200 or status in _NO_BODY:
        return "length", 0
    codings = [coding for coding in codings if coding != b"identity"]
    if codings:
        *before, last = codings
        if not all(coding in (*_PACKINGS, b"chunked") for coding in codings):
            raise Doubtful
        if last == b"chunked":
            return "chunked", 0
        if b"chunked" in before:
            raise Doubtful
        return "close", 0
    if not lengths:
        return "close", 0
    if not all(length.isdigit() and len(length) < 16 for length in lengths):
        raise Doubtful
    values = {int(length) for length in lengths}
    if len(values) > 1:
        raise Doubtful
    return "length", values.pop()
