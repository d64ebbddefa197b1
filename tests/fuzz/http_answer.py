"""Carriers' HTTP answers: any octets in any pieces give one verdict, and no body of a doubtful length.

The first octet chooses the preset, the second is the size of the pieces, the third says whether the carrier
closes in good order at the end or resets. What our parser and h11, which others have written, both take
for an answer must be the same answer.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import partial

import h11

from engine.providers import build, presets
from engine.providers.http.provider import HttpProvider
from engine.providers.http_client.connection import Connection, HttpOutcome
from engine.providers.problems import Problems
from engine.providers.settings import HttpSettings
from engine.providers.simulated_numbers import SimulatedNumbers
from engine.records import Verdict
from tests.fuzz.target import Bench, Check, Target, Transport, bench, pieces
from tests.providers.carrier import message
from tests.providers.sink import Sink

BODIES = [
    b'{"id": "m-1", "code": "0"}', b'\xef\xbb\xbf{"id": "m-1"}', b'[{"id": "m-1"}]',
    b'{"sid": "SM1", "code": null}',
    b'{"code": 21611, "message": "queue", "status": 400}', b"0: Accepted for delivery", b"3: Queued",
    b"Sent.",
    b"Temporal failure, try again later.",
    b'{"return": {"status": 200}, "entries": [{"messageid": 85463238}]}',
    b'{"messages": [{"message-id": "A1", "status": "0"}, {"message-id": "A,2", "status": "0"}]}',
    b'{"messages": [{"status": "1"}]}', b"<html>busy</html>", b"", b'{"id": "caf\xe9"}',
    b"[" * 300 + b"]" * 300,
    b'<br />\n<b>Notice</b>:  x in <b>/a.php</b> on line <b>7</b><br />\n{"id": "m-1", "code": "0",}',
]  # fmt: skip
_HEADS = [
    b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n",
    b"HTTP/1.1 202 Accepted\r\ncontent-length:%d\r\nSet-Cookie: a=\x01\r\n\r\n",
    b"HTTP/1.1 201 Created\nContent-Length : %d\n\n",
    b"HTTP/1.0 200 OK\r\n\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 429 Too Many\r\nRetry-After: 3\r\nContent-Length: %d\r\n\r\n",
    b"HTTP/1.1 400 Bad\r\nContent-Length: %d\r\nContent-Length: %d\r\n\r\n",
    b"HTTP/1.1 503 Busy\r\nConnection: close\r\nContent-Type: text/html\r\n\r\n",
    b"HTTP/1.1 204 None\r\nX: %d\r\n\r\n",
]
_CHUNKED = (
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n10;x=y\r\n"
    + b'{"id": "m-1"}   '
    + b"\r\n0\r\nX: y\r\n\r\n"
)
WORDS = (
    b"HTTP/1.1 200 OK\r\n", b"HTTP/1.0 ", b"Content-Length: ", b"Transfer-Encoding: chunked\r\n", b"\r\n\r\n",
    b"\r\n", b"\n", b"0\r\n\r\n", b"Content-Length: 0\r\n", b"Connection: close\r\n", b"Retry-After: 9\r\n",
    b"Content-Encoding: gzip\r\n", b"identity", b"gzip, chunked", b'"id"', b'"sid"', b'"code"', b'"status"',
    b'"messages"', b'"message-id"', b'"entries"', b'"messageid"', b"HTTP/1.1 100 Continue\r\n\r\n", b"+5",
    b"0x10", b",}", b"\nWarning: x in a.php on line 1\n",
)  # fmt: skip
MESSAGE = message()


def seeds() -> list[bytes]:
    found = []
    for n, body in enumerate(BODIES):
        head = _HEADS[n % len(_HEADS)]
        lengths = (len(body),) * head.count(b"%d")
        found += [bytes([n, n % 3, n % 2]) + head % lengths + body]
        found += [bytes([n + 3, 0, 0]) + _HEADS[0] % len(body) + body]
    return [*found, b"\0\2\0" + _CHUNKED, b"\1\0\0" + _CHUNKED + _CHUNKED, b"\0\0\0" + _CHUNKED[:50]]


@contextlib.contextmanager
def opened() -> Iterator[Check]:
    providers = [_provider(name) for name in presets.names()]
    with bench() as on:
        yield partial(check, on, providers)


def _provider(preset: str) -> HttpProvider:
    settings = HttpSettings(
        name="acme", preset=preset, url="http://h", username="u", password="p", sender="Demo"
    )
    built = build(settings, Sink(), Problems())
    assert isinstance(built, SimulatedNumbers)
    assert isinstance(built.inner, HttpProvider)
    return built.inner


def check(on: Bench, providers: list[HttpProvider], data: bytes) -> None:
    if len(data) >= 3:
        on.run(_exchange(providers[data[0] % len(providers)], data[1], bool(data[2] & 1), data[3:]))


async def _exchange(provider: HttpProvider, size: int, resets: bool, stream: bytes) -> None:
    pool, transport = provider._pool, Transport()
    connection = Connection(pool, *pool._kept)
    connection.connection_made(transport)
    outcomes: list[HttpOutcome] = []
    verdicts: list[Verdict] = []

    def done(outcome: HttpOutcome) -> None:
        outcomes.append(outcome)
        provider._ended(verdicts.append, MESSAGE, outcome)

    pool.request(b"POST", b"/send", b"", b"{}", done)
    assert transport.written, "the request did not go out on the connection"
    for piece in pieces(stream, size):
        if transport.closed:
            break
        connection.data_received(piece)
    if not transport.closed and not resets:
        connection.eof_received()
    connection.connection_lost(ConnectionResetError() if resets else None)
    assert len(verdicts) == 1, f"verdicts: {verdicts}"
    assert not pool.connections, "the pool holds a connection that is gone"
    outcome = outcomes[0]
    assert outcome.kind != "not_sent"
    if outcome.kind == "answered":
        _same(outcome, stream, ended=not resets)
    elif verdicts[0].kind not in ("unknown", "temporary"):
        raise AssertionError(f"{verdicts[0].kind} without an answer")


def _same(outcome: HttpOutcome, stream: bytes, ended: bool) -> None:
    """h11 reads the same answer, or refuses it."""
    other = h11.Connection(h11.CLIENT)
    other.send(h11.Request(method="POST", target="/send", headers=[("Host", "h"), ("Content-Length", "0")]))
    other.send(h11.EndOfMessage())
    status, body = 0, bytearray()
    try:
        other.receive_data(stream)
        if ended:
            other.receive_data(b"")
        while True:
            event = other.next_event()
            if isinstance(event, h11.Response):
                status = event.status_code
                if any(name == b"content-encoding" for name, _ in event.headers):
                    return
            elif isinstance(event, h11.Data):
                body += event.data
            elif isinstance(event, h11.EndOfMessage):
                break
            elif not isinstance(event, h11.InformationalResponse):
                return
    except h11.RemoteProtocolError:
        return
    assert (outcome.status, outcome.body) == (status, bytes(body)), f"h11 reads {status} {bytes(body)!r}"


TARGET = Target("http_answer", seeds, opened, WORDS)
