"""Reads one HTTP/1.1 answer after another from the bytes of one connection.

Wire format: RFC 9112, parsed by llhttp through httptools in strict mode; what that refuses is
read again, tolerantly (`tolerant`). What counts as an answer: a final status with its whole body,
ended by Content-Length, by the last chunk, or, when the head names neither, by the server's close
(6.3). Interim answers (1xx) are skipped. A packed body is unpacked (`content_coding`). No I/O
and no clock here.
"""

from __future__ import annotations

import httptools

from engine.providers.http_client.content_coding import TooLarge, is_packed, unpacked
from engine.providers.http_client.tolerant import HEAD_BYTES_MAX, TolerantReader

# Of an answer that breaks the protocol, so many octets are kept to be shown.
BROKEN_OCTETS = 400

_CONTENT_ENCODING = b"content-encoding"
_PARSE_ERRORS = (httptools.HttpParserError, httptools.HttpParserUpgrade)


class AnswerReader:
    """Call `expect` before each answer, then `feed` until it is `complete` or has a `fault`.

    `keep`: names of the headers whose values are kept, in lower case.
    """

    __slots__ = (
        "_body", "_body_bytes", "_body_bytes_max", "_framed", "_head_bytes", "_in_body", "_keep",
        "_keep_lengths", "_parser", "_raw", "_spoiled", "_tolerant", "complete", "fault", "headers",
        "reusable", "status",
    )  # fmt: skip

    def __init__(self, body_bytes_max: int, keep: frozenset[bytes] = frozenset()) -> None:
        self._body_bytes_max = body_bytes_max
        self._keep = keep = keep | {_CONTENT_ENCODING}
        # Checked first: nearly all headers that are not kept have another length.
        self._keep_lengths = frozenset(len(name) for name in keep)
        self._parser: httptools.HttpResponseParser | None = None
        # The strict parser has refused something and is of no further use.
        self._spoiled = True
        self.expect()

    def expect(self) -> None:
        """A new request has been sent: forget the last answer."""
        if self._spoiled:
            self._parser = httptools.HttpResponseParser(self)
            self._spoiled = False
        # The answer as it came, until it is complete.
        self._raw: bytes | bytearray = b""
        self._tolerant: TolerantReader | None = None
        self._body: bytes | bytearray = b""
        self._body_bytes = 0
        self._head_bytes = 0
        self._framed = False
        self._in_body = False
        self.status = 0
        self.headers: dict[bytes, bytes] = {}
        self.complete = False
        # False when octets have come that the next request could take for its answer.
        self.reusable = True
        self.fault = ""

    def close(self) -> None:
        """Let go of the parser. It holds methods of this reader, a circle that would keep both in memory."""
        self._parser = None

    @property
    def body(self) -> bytes:
        """The body read so far; the whole of it once `complete`."""
        return bytes(self._body)

    @property
    def broken(self) -> bytes:
        """The first BROKEN_OCTETS octets of an answer that breaks the protocol; b"" for any other."""
        return bytes(self._raw[:BROKEN_OCTETS]) if self._tolerant is not None else b""

    @property
    def begun(self) -> bool:
        """Whether any byte of the answer has come."""
        return self._in_body or self._head_bytes > 0

    def feed(self, data: bytes) -> None:
        """Read more bytes of the connection; sets `complete`, or `fault` to a stable word."""
        parser = self._parser
        assert parser is not None
        if self._tolerant is not None:
            self._read_again(self._tolerant, data)
            return
        if not self._raw:
            self._raw = data
        elif not self.complete:
            # As with the body, a buffer is only made for a second piece.
            self._raw = bytearray(self._raw) if isinstance(self._raw, bytes) else self._raw
            self._raw += data
            # Chunks of one octet each come in six.
            if len(self._raw) > HEAD_BYTES_MAX + 8 * self._body_bytes_max:
                self.fault = "answer-too-large"
                return
        try:
            parser.feed_data(data)
        except _PARSE_ERRORS:
            self._spoiled = True
            self.reusable = False
            if not self.complete and not self.fault:
                self._tolerant = TolerantReader(self._body_bytes_max)
                self._read_again(self._tolerant, self._raw)
            return
        if self.complete or self.fault:
            return
        if self._body_bytes > self._body_bytes_max:
            self.fault = "answer-too-large"
        elif not self._in_body:
            self._head_bytes += len(data)
            if self._head_bytes > HEAD_BYTES_MAX:
                self.fault = "answer-too-large"

    def feed_eof(self) -> None:
        """The server has closed its side in good order."""
        if self._tolerant is not None:
            self._tolerant.feed_eof()
            self._read_again(self._tolerant, b"")
        elif self._in_body and not self._framed and self._body_bytes <= self._body_bytes_max:
            assert self._parser is not None
            self._finish(self._parser.get_status_code(), reusable=False)
        self.reusable = False

    def _read_again(self, tolerant: TolerantReader, data: bytes | bytearray) -> None:
        """Let the tolerant reader have `data`, and take over what it has found."""
        self._in_body = True
        if data:
            tolerant.feed(data)
        self.fault = tolerant.fault
        if not tolerant.complete or self.complete:
            return
        self.headers = {name: value for name, value in tolerant.fields.items() if name in self._keep}
        self._body = bytes(tolerant.body)
        self._finish(tolerant.status, tolerant.reusable)

    def _finish(self, status: int, reusable: bool) -> None:
        """The last step. A body that would be too large once it is unpacked is a fault."""
        self.status = status
        self.reusable = reusable
        # Nearly no answer has one of the headers that are kept, or begins with the first octet of gzip.
        if (self.headers or self._body[:1] == b"\x1f") and is_packed(
            self._body, self.headers.get(_CONTENT_ENCODING, b"")
        ):
            try:
                self._body = unpacked(bytes(self._body), self._body_bytes_max)
            except TooLarge:
                self.reusable = False
                self.fault = "answer-too-large"
                return
        self.complete = True

    # -- httptools

    def on_message_begin(self) -> None:
        """Called by httptools. A second answer to one request spoils the connection."""
        if self.complete:
            self.reusable = False

    def on_header(self, name: bytes, value: bytes) -> None:
        """Called by httptools for each header, and for each trailer after the body."""
        if len(name) in (14, 17) and name.lower() in (b"content-length", b"transfer-encoding"):
            self._framed = True
        elif len(name) in self._keep_lengths and not self._in_body and name.lower() in self._keep:
            self.headers[name.lower()] = value

    def on_headers_complete(self) -> None:
        """Called by httptools between head and body."""
        self._in_body = True

    def on_body(self, body: bytes) -> None:
        """Called by httptools for each piece of the body; pieces beyond the largest body are dropped."""
        if self.complete:
            return
        self._body_bytes += len(body)
        if self._body_bytes > self._body_bytes_max:
            return
        if not self._body:
            self._body = body
        else:
            # The first piece is nearly always the whole body; a buffer is only made for a second one.
            if isinstance(self._body, bytes):
                self._body = bytearray(self._body)
            self._body += body

    def on_message_complete(self) -> None:
        """Called by httptools at the end of an answer; an interim one (1xx) is passed over."""
        assert self._parser is not None
        if self.complete or self._body_bytes > self._body_bytes_max:
            return
        if self._parser.get_status_code() < 200:
            self._in_body = self._framed = False
            self.headers = {}
        else:
            # Asked now: the parser forgets it when the message ends.
            self._finish(self._parser.get_status_code(), self._parser.should_keep_alive())
