"""Any octets on a connection to our API: headers, framing, several requests at once.

The first octet is the size of the pieces; an odd one is followed by a request that closes the connection.
`{key}` and `{admin}` stand for the keys of an organisation and of the operator.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import partial

from engine.api.server import Server
from tests.api.world import ADMIN_KEY
from tests.fuzz import api_body
from tests.fuzz.api_world import Wire, World, accepted_in, answers_in, check_answer, world
from tests.fuzz.target import Check, Target

_LAST = b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
_POST = b"POST /v1/messages HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\n"
_SENT = _POST + b"Content-Length: %d\r\n\r\n%b" % (len(api_body.GOOD), api_body.GOOD)
_CHUNKED = _POST + b"Transfer-Encoding: chunked\r\n\r\n%x;a=b\r\n%b\r\n0\r\nX: y\r\n\r\n" % (
    len(api_body.GOOD), api_body.GOOD,
)  # fmt: skip
_OTHERS = [
    b"GET /v1/balance HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\nX-Request-Id: a.b\r\n\r\n",
    b"GET /readyz HTTP/1.0\r\nConnection: keep-alive\r\n\r\nGET /healthz HTTP/1.0\r\n\r\n",
    b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n", b"CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n",
    b"GET http://x/healthz HTTP/1.1\r\nHost: y\r\nHost: z\r\n\r\n", b"\x16\x03\x01\x02\0\1\0\1\xfc\r\n\r\n",
    _POST + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    _POST + b"Content-Encoding: gzip\r\nContent-Length: 4\r\n\r\nabcd",
    _POST + b"Expect: 100-continue\r\nContent-Length: %d\r\n\r\n%b" % (len(api_body.GOOD), api_body.GOOD),
    _POST + b"Expect: x\r\nContent-Length: 0\r\n\r\n", _POST + b"Content-Length: 99999\r\n\r\n{",
    b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
    b"PUT /v1/admin/prices HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {admin}\r\nContent-Length: 0\r\n\r\n",
    b"GET /v1/%2e%2e/%00?a=%ff#b HTTP/1.1\r\nHost: \xff\r\nCookie: a=\"\\\r\n b\r\n\r\n",
]  # fmt: skip
WORDS = (
    b"\r\n", b"\r\n\r\n", b"\n", b"Content-Length: ", b"Transfer-Encoding: chunked\r\n",
    b"Expect: 100-continue\r\n",
    b"Content-Encoding: gzip\r\n", b"Content-Encoding: deflate\r\n", b"Content-Encoding: br\r\n",
    b"HTTP/1.1", b"HTTP/1.0",
    b"Authorization: Bearer {key}\r\n", b"Idempotency-Key: k\r\n", b"X-Request-Id: ",
    b"Connection: close\r\n",
    b"Upgrade: h2c\r\n", b"HEAD ", b"GET ", b"POST ", b"0\r\n\r\n", b" ", b"\t", b"\0", b"%00", b"%zz",
    b"//", b"?", b"#",
    b"Host: x\r\n", b"+1", b"0x1", b"-1", b", ", api_body.GOOD, _SENT, _LAST,
)  # fmt: skip


def seeds() -> list[bytes]:
    alone = [b"\1" + one for one in (_SENT, _CHUNKED, *_OTHERS)]
    together = [b"\1" + _SENT + one for one in _OTHERS] + [b"\7" + _SENT + _CHUNKED, b"\1" + _SENT * 5]
    return [*alone, *together, b"\0" + _SENT, b"\0" + _SENT[:-3], b"\0" + _CHUNKED[:-4]]


@contextlib.contextmanager
def opened() -> Iterator[Check]:
    with world() as running:
        yield partial(check, running)


def check(running: World, data: bytes) -> None:
    size, stream = (data[0], data[1:]) if data else (0, b"")
    stream = stream.replace(b"{key}", running.api_key.encode()).replace(b"{admin}", ADMIN_KEY.encode())
    running.desk.taken()
    octets = running.on.run(_talk(running.server, stream + _LAST * (size & 1), size >> 1))
    answers = answers_in(octets, bodiless=b"HEAD" in stream)
    for answer in answers:
        check_answer(answer)
        assert answer.status != 503, "503 for nothing"
    assert running.desk.taken() == accepted_in(answers), "what was admitted is not what was answered"


async def _talk(server: Server, stream: bytes, size: int) -> bytes:
    """What is answered to these octets."""
    wire = Wire(server)
    await wire.send(stream, size)
    octets = await wire.answered()
    await wire.close()
    return octets


TARGET = Target("api_octets", seeds, opened, WORDS, octets_max=2500)
