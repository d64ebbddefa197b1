"""Requests to our API: any body, any call, framed as it should be, on one connection.

The first octet chooses the call, the second has flags, the third is the size of the pieces of the body; then
comes the body.
"""

from __future__ import annotations

import contextlib
from codecs import BOM_UTF8
from collections.abc import Iterator

from tests.api.world import ADMIN_KEY
from tests.fuzz import api_body, pushed_receipt
from tests.fuzz.api_world import BODY_OCTETS_MAX, Wire, World, accepted_in, answers_in, check_answer, world
from tests.fuzz.target import Check, Target, pieces
from tests.providers.carrier import TOKEN

CHUNKED, NO_KEY, IDEMPOTENT, GZIP, EXPECT, JSON, HEAD, FULL = (1 << n for n in range(8))
MESSAGE, BATCH = ("POST", "/v1/messages"), ("POST", "/v1/messages/batch")
_OPERATORS = (
    ("POST", "/v1/admin/organisations"), ("PATCH", "/v1/admin/organisations/1"),
    ("POST", "/v1/admin/organisations/1/keys"), ("POST", "/v1/admin/organisations/1/top-ups"),
    ("PUT", "/v1/admin/prices"), ("PUT", "/v1/admin/routes"), ("PUT", "/v1/admin/providers/first"),
    ("POST", "/v1/admin/providers/first/pause"), ("DELETE", "/v1/admin/organisations/1/keys/9"),
    ("GET", "/v1/admin/organisations/1/transactions"), ("GET", "/v1/admin/status"), ("GET", "/v1/balance"),
    ("GET", "/v1/balance/transactions?limit=0x1"),
    ("GET", "/v1/messages/0190a0b0-0000-7000-8000-000000000000"),
    ("OPTIONS", "/nowhere"), ("GET", "/readyz"),
)  # fmt: skip
# First octets below these are a message, a batch, a receipt; the rest is shared by the other calls.
_MESSAGES, _BATCHES, _RECEIPTS = 90, 160, 224


def seeds() -> list[bytes]:
    found = [bytes([0, JSON, 0]) + one for one in api_body.MESSAGES]
    found += [
        bytes([0, flag, n]) + api_body.GOOD for n, flag in enumerate((CHUNKED, NO_KEY, IDEMPOTENT, GZIP))
    ]
    found += [
        bytes([0, flag, 3]) + api_body.GOOD for flag in (EXPECT, EXPECT | CHUNKED, HEAD, CHUNKED | GZIP)
    ]
    found += [bytes([_MESSAGES, 0, 0]) + b'{"messages": [%b]}' % one for one in api_body.MESSAGES]
    found += [bytes([_BATCHES + one[0], one[1] << 5 & JSON | FULL * (n % 2), 0]) + one[2:]
              for n, one in enumerate(pushed_receipt.seeds())]  # fmt: skip
    found += [bytes([_RECEIPTS + n, 0, 0]) + one for n, one in enumerate(api_body.OPERATORS[:4])]
    found += [bytes([_RECEIPTS + 4 + n, 0, 0]) + one for n, one in enumerate(api_body.OPERATORS[4:6])]
    return [*found, *(bytes([_RECEIPTS + n, 0, 0]) for n in range(len(_OPERATORS)))]


class _Client:
    """One connection, made anew when the last answer has closed it."""

    def __init__(self, to: World) -> None:
        self._world = to
        self._wire: Wire | None = None

    def check(self, data: bytes) -> None:
        if len(data) >= 3:
            self._world.on.run(self._kept(data))

    async def _kept(self, data: bytes) -> None:
        try:
            await self._exchange(data[0], data[1], data[2], data[3:])
        except BaseException:
            self._wire = None
            raise

    async def _exchange(self, call: int, flags: int, size: int, body: bytes) -> None:
        desk, sink = self._world.desk, self._world.sink
        desk.taken()
        sink.receipts.clear()
        sink.keeps = not flags & FULL
        receipts = _BATCHES <= call < _RECEIPTS
        query, body = _parted(body) if receipts else (b"", body)
        method, path = _call(call, query)
        head = self._head(method, path, flags, body)
        octets = await self._asked(head, b"".join(_chunks(body, flags)), size)
        answers = answers_in(octets, bodiless=flags & HEAD != 0)
        assert len(answers) == 1, f"{len(answers)} answers"
        check_answer(answers[0])
        wrong_body = b'"code":"invalid_body"' in answers[0].body
        assert answers[0].closes or not (wrong_body and not receipts), (
            "the connection ends, and nobody says so"
        )
        # A body that was not read is found to be wrong only after the answer.
        if answers[0].closes or flags & GZIP:
            await self.close()
        assert desk.taken() == accepted_in(answers), "what was admitted is not what was answered"
        if answers[0].status == 503:
            assert receipts
            assert not sink.keeps, "503 for nothing"
        if receipts and not flags & (HEAD | GZIP):
            self._receipts(answers[0].status, call, query, flags, body)

    def _head(self, method: str, path: bytes, flags: int, body: bytes) -> bytes:
        key = ADMIN_KEY if path.startswith(b"/v1/admin") else self._world.api_key
        lines = [f"{'HEAD' if flags & HEAD else method} ".encode() + path + b" HTTP/1.1", b"Host: x"]
        lines += [] if flags & NO_KEY else [f"Authorization: Bearer {key}".encode()]
        lines += [b"Idempotency-Key: k"] if flags & IDEMPOTENT else []
        lines += [b"Content-Encoding: gzip"] if flags & GZIP else []
        lines += [b"Expect: 100-continue"] if flags & EXPECT else []
        lines += [b"Content-Type: application/json"] if flags & JSON else []
        lines += [b"Transfer-Encoding: chunked" if flags & CHUNKED else b"Content-Length: %d" % len(body)]
        return b"\r\n".join(lines) + b"\r\n\r\n"

    async def _asked(self, head: bytes, body: bytes, size: int) -> bytes:
        """The octets of the answer. The head comes in one piece: `api_octets` has heads in pieces."""
        if self._wire is None:
            self._wire = Wire(self._world.server)
        await self._wire.send(head, 0)
        await self._wire.send(body, size)
        return await self._wire.answered()

    def _receipts(self, status: int, call: int, query: bytes, flags: int, body: bytes) -> None:
        """A receipt is answered 2xx only when it was kept, and is refused only when it cannot be read."""
        name, method = _receipt_call(call)
        if len(body) > BODY_OCTETS_MAX:
            return
        kind, sink = "application/json" if flags & JSON else "application/octet-stream", self._world.sink
        # A byte order mark is passed over before anything reads the body.
        body = body.removeprefix(BOM_UTF8)
        wanted, refusal = pushed_receipt.READERS[name].read(method, query.decode(), kind, body, 77)
        assert len(sink.receipts) == (len(wanted) if sink.keeps else 0)
        if wanted and not sink.keeps:
            assert status == 503, f"{status} for what was not kept"
        elif refusal is not None:
            assert status == refusal.status, f"{status} for what is refused"
        else:
            assert status < 300, f"{status} for what was kept"

    async def close(self) -> None:
        if self._wire is not None:
            wire, self._wire = self._wire, None
            await wire.close()


def _call(call: int, query: bytes) -> tuple[str, bytes]:
    if call >= _RECEIPTS:
        method, path = _OPERATORS[(call - _RECEIPTS) % len(_OPERATORS)]
        return method, path.encode()
    if call >= _BATCHES:
        name, method = _receipt_call(call)
        return method, f"/v1/providers/{name}/receipts/{TOKEN}".encode() + b"?" * bool(query) + query
    method, path = BATCH if call >= _MESSAGES else MESSAGE
    return method, path.encode()


def _receipt_call(call: int) -> tuple[str, str]:
    names = pushed_receipt.NAMES
    return names[(call - _BATCHES) % len(names)], "GET" if (call - _BATCHES) // len(names) % 2 else "POST"


def _parted(data: bytes) -> tuple[bytes, bytes]:
    """The query, of what may stand in a request line, and the body."""
    query, _, body = data.partition(b"\n")
    return bytes(c for c in query if 0x21 <= c <= 0x7E and c != 0x23), body


def _chunks(body: bytes, flags: int) -> Iterator[bytes]:
    if not flags & CHUNKED:
        yield body
        return
    for part in pieces(body, 100):
        if part:
            yield b"%x\r\n%b\r\n" % (len(part), part)
    yield b"0\r\n\r\n"


@contextlib.contextmanager
def opened() -> Iterator[Check]:
    with world() as running:
        client = _Client(running)
        yield client.check
        running.on.run(client.close())


TARGET = Target("api_request", seeds, opened, (*api_body.WORDS, *pushed_receipt.WORDS), octets_max=2500)
