"""Reads one HTTP/1.1 answer after another from the bytes of one connection.

Wire format: RFC 9112, parsed by llhttp through httptools in strict mode. What counts
as an answer: a final status with its whole body, ended by Content-Length, by the last
chunk, or, when the head names neither, by the server's close (6.3). Interim answers
(1xx) are skipped. No I/O and no clock here.
"""

from __future__ import annotations

import httptools

# An answer's head may have this many bytes, interim answers included.
HEAD_BYTES_MAX = 64 * 1024

_PARSE_ERRORS = (httptools.HttpParserError, httptools.HttpParserUpgrade)


class AnswerReader:
    """Call `expect` before each answer, then `feed` until it is `complete` or has a `fault`.

    `keep`: names of the headers whose values are kept, in lower case.
    """

    __slots__ = (
        "_body", "_body_bytes", "_body_bytes_max", "_framed", "_head_bytes", "_in_body", "_keep",
        "_keep_lengths", "_parser", "complete", "fault", "headers", "reusable", "status",
    )  # fmt: skip

    def __init__(self, body_bytes_max: int, keep: frozenset[bytes] = frozenset()) -> None:
        self._body_bytes_max = body_bytes_max
        self._keep = keep
        # Checked first: nearly all headers that are not kept have another length.
        self._keep_lengths = frozenset(len(name) for name in keep)
        self._parser: httptools.HttpResponseParser | None = httptools.HttpResponseParser(self)
        self.expect()

    def expect(self) -> None:
        """A new request has been sent: forget the last answer."""
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
    def begun(self) -> bool:
        """Whether any byte of the answer has come."""
        return self._in_body or self._head_bytes > 0

    def feed(self, data: bytes) -> None:
        """Read more bytes of the connection; sets `complete`, or `fault` to a stable word."""
        parser = self._parser
        assert parser is not None
        try:
            parser.feed_data(data)
        except _PARSE_ERRORS:
            self.reusable = False
            if not self.complete:
                self.fault = "bad-answer"
            return
        if self.complete:
            return
        if self._body_bytes > self._body_bytes_max:
            self.fault = "answer-too-large"
        elif not self._in_body:
            self._head_bytes += len(data)
            if self._head_bytes > HEAD_BYTES_MAX:
                self.fault = "answer-too-large"

    def feed_eof(self) -> None:
        """The server has closed its side in good order."""
        self.reusable = False
        if self._in_body and not self._framed and self._body_bytes <= self._body_bytes_max:
            self._finish(reusable=False)

    def _finish(self, reusable: bool) -> None:
        assert self._parser is not None
        self.status = self._parser.get_status_code()
        self.reusable = reusable
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
            self._finish(self._parser.should_keep_alive())
