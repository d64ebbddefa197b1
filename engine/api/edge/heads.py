"""Rule: what the head of a request says, when it is a plain one of a call that submits messages.

A head is plain when nobody can read it in two ways: HTTP/1.1, one `Host`, one `Content-Length`, every header
once, in printable ASCII, and none that asks for more than an answer (`Expect`, `Upgrade`, encodings). All
others are aiohttp's to read and to answer, and also what only a few clients send. So a head that is read here
means what it means there.

A client on a connection that it keeps sends the same octets each time, so heads are remembered whole, with
the key that they present. A head is only remembered once its key was found good: guesses push nobody out.
A guess is not compared with what is remembered, because its keyed hash is another (SipHash, PEP 456), so how
long the look-up takes says nothing of a secret.
"""

from __future__ import annotations

import re
from typing import Protocol

from engine.api.client_address import TrustedProxies
from engine.api.key_cache import Presented
from engine.api.messages import SUBMISSIONS, Submission

# Longer heads are aiohttp's, octets.
HEAD_MAX = 4096
_BODY_DIGITS_MAX = 12
# What is remembered at most: twice so many heads, of so many octets each.
_REMEMBERED_MAX = 4096
_REMEMBERED_OCTETS_MAX = 1024

_HEADERS_MAX = 64

_PATHS = {f"POST {path} HTTP/1.1\r\n".encode(): path for path in SUBMISSIONS}
_LINES = tuple(_PATHS)
_FIELD = re.compile(rb"(?m)^([A-Za-z0-9-]+):[ \t]*([\t\x20-\x7e]*)\r\n")
# With one of these a request may be more than a head and so many octets.
_MORE = frozenset(
    {b"content-encoding", b"expect", b"te", b"trailer", b"transfer-encoding", b"upgrade", b"http2-settings"}
)
_CLOSES = {b"": False, b"keep-alive": False, b"close": True}


class Head:
    """What a plain head says."""

    __slots__ = (
        "closes",
        "forwarded",
        "idempotency_key",
        "is_remembered",
        "length",
        "octets",
        "path",
        "presented",
        "request_id",
        "submission",
        "x_forwarded_for",
    )

    def __init__(self, octets: bytes, path: str, fields: dict[bytes, bytes]) -> None:
        """`fields`: by name, in lower case; with `host`, and `content-length` of digits."""
        self.octets = octets
        self.path = path
        self.submission: Submission = SUBMISSIONS[path]
        # Of the body, octets.
        self.length = int(fields[b"content-length"])
        # Whether the client wants the connection to end with the answer.
        self.closes = _CLOSES[fields.get(b"connection", b"").lower()]
        # None: there is no such header.
        self.request_id = _text(fields.get(b"x-request-id"))
        self.idempotency_key = _text(fields.get(b"idempotency-key"))
        self.forwarded = _text(fields.get(b"forwarded"))
        self.x_forwarded_for = _text(fields.get(b"x-forwarded-for"))
        authorization = _text(fields.get(b"authorization"))
        self.presented = None if authorization is None else Presented.by(authorization)
        self.is_remembered = False


def head_of(octets: bytes) -> Head | None:
    """The head in these octets, which end with its empty line; None when it is not a plain one."""
    line = octets[: octets.find(b"\n") + 1]
    path = _PATHS.get(line)
    found = _FIELD.findall(octets)
    # A line that is no plain field is not found, so there are more lines than fields.
    if path is None or len(found) + 2 != octets.count(b"\n") or len(found) > _HEADERS_MAX:
        return None
    fields = {name.lower(): value.rstrip(b" \t") for name, value in found}
    length = fields.get(b"content-length", b"")
    if (
        len(fields) != len(found)
        or not fields.get(b"host")
        or not (length.isdigit() and len(length) <= _BODY_DIGITS_MAX)
        or fields.get(b"connection", b"").lower() not in _CLOSES
        or not _MORE.isdisjoint(fields)
    ):
        return None
    return Head(octets, path, fields)


class Peer(Protocol):
    """A connection, as far as it matters here."""

    # Its `peername`; None: nobody knows it.
    peer: object


class Origin:
    """Where a request with a plain head comes from: the port `auth.Source`."""

    __slots__ = ("_connection", "_head")

    def __init__(self, head: Head, connection: Peer) -> None:
        self._head = head
        self._connection = connection

    def address(self, proxies: TrustedProxies) -> str:
        """Its address: see `TrustedProxies.client`."""
        peer, head = self._connection.peer, self._head
        values = ([] if value is None else [value] for value in (head.forwarded, head.x_forwarded_for))
        return proxies.client(str(peer[0]) if isinstance(peer, tuple) else "", *values)


def may_be_one(octets: bytes) -> bool:
    """Whether these first octets of a request may be of a call that submits messages."""
    return octets.startswith(_LINES) or any(line.startswith(octets) for line in _LINES)


class Heads:
    """The heads that came lately, by their octets."""

    def __init__(self) -> None:
        # Those of the older generation are forgotten when the younger one is full.
        self._young: dict[bytes, Head] = {}
        self._old: dict[bytes, Head] = {}

    def of(self, octets: bytes) -> Head | None:
        """As `head_of`, remembered or read anew."""
        head = self._young.get(octets)
        if head is None:
            head = self._old.get(octets)
            if head is None:
                return head_of(octets)
            self._keep(head)
        return head

    def remember(self, head: Head) -> None:
        """Remember a head whose key is good, unless it is one that comes once."""
        once = head.request_id is not None or head.idempotency_key is not None
        if not once and len(head.octets) <= _REMEMBERED_OCTETS_MAX:
            head.is_remembered = True
            self._keep(head)

    def _keep(self, head: Head) -> None:
        if len(self._young) >= _REMEMBERED_MAX:
            self._old, self._young = self._young, {}
        self._young[head.octets] = head


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode("ascii")
