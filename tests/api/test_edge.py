"""The edge and aiohttp give the same answers, octet for octet, whatever comes and in whatever pieces."""

from __future__ import annotations

import asyncio
import gzip
import re
import socket
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.api import server, stalled_writes
from engine.api.edge.heads import head_of
from engine.api.response import Response, accepted_octets
from engine.api.stalled_writes import StalledWrites
from engine.organisations import NewOrganisation
from engine.stores.postgres.api_key_book import ApiKeyBook
from engine.stores.postgres.directory import Directory
from tests.api.world import BODY_BYTES_MAX, DRAFT, Api, DeskIngest, services_with, serving, until

ONE, BATCH = "/v1/messages", "/v1/messages/batch"
BODY = msgspec.json.encode(DRAFT)
BODIES = msgspec.json.encode({"messages": [DRAFT, {"to": 7}, DRAFT]})
# Ends a connection that is still open, so that both ways can be compared to their end.
END = b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
KEY = b"<key>"


def post(*lines: str, body: bytes = BODY, path: str = ONE, key: bool = True, length: bool = True) -> bytes:
    """A request; `lines` are further headers. KEY stands for the API key."""
    head = [f"POST {path} HTTP/1.1", "Host: x"]
    head += ["Authorization: Bearer <key>"] if key else []
    head += [f"Content-Length: {len(body)}"] if length else []
    return "\r\n".join([*head, *lines, "", ""]).encode("latin-1") + body


CHUNKED = b"%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY)
GET = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
SAME = {
    "one": post(),
    "a batch": post(path=BATCH, body=BODIES),
    "a batch of refused ones": post(path=BATCH, body=b'{"messages":[{},1]}'),
    "an empty batch": post(path=BATCH, body=b'{"messages":[]}'),
    "no json": post(body=b"{"),
    "a refused one": post(body=b'{"to":"7","text":"x"}'),
    "too dear": post(body=msgspec.json.encode(DRAFT | {"text": "too dear"})),
    "no body": post(body=b""),
    "no length": post(body=b"", length=False),
    "a mark in front": post(body=b"\xef\xbb\xbf" + BODY),
    "that closes": post("Connection: close") + post(),
    "that stays": post("connection: Keep-Alive") + post(),
    "an option of the connection": post("Connection: keep-alive, x") + post(),
    "an upgrade": post("Connection: Upgrade", "Upgrade: websocket"),
    "an old version": post().replace(b"HTTP/1.1", b"HTTP/1.0"),
    "an unknown version": post().replace(b"HTTP/1.1", b"HTTP/1.7"),
    "no key": post(key=False),
    "an empty key": post("Authorization: ", key=False),
    "a wrong key": post().replace(KEY, b"smse_1_" + b"A" * 43),
    "two keys": post("Authorization: Bearer x"),
    "no key and no body": post(key=False)[: -len(BODY)],
    "chunks": post("Transfer-Encoding: chunked", body=CHUNKED, length=False),
    "chunks and a length": post("Transfer-Encoding: chunked", body=CHUNKED),
    "gzip": post("Content-Encoding: gzip", body=gzip.compress(BODY, mtime=0)),
    "an encoding that says nothing": post("Content-Encoding: identity"),
    "an expectation": post("Expect: 100-continue"),
    "another expectation": post("Expect: a miracle"),
    "two lengths": post(f"Content-Length: {len(BODY)}"),
    "no number": post("Content-Length: x", length=False),
    "a negative length": post("Content-Length: -1", length=False),
    "a sum": post(f"Content-Length: +{len(BODY)}", length=False),
    "a list of lengths": post(f"Content-Length: {len(BODY)}, {len(BODY)}", length=False),
    "zeros in front": post(f"Content-Length: 000{len(BODY)}", length=False),
    "a huge length": post(f"Content-Length: {'9' * 20}", length=False),
    "too large": post(body=b" " * (BODY_BYTES_MAX + 1)),
    "a key of a repetition": post("Idempotency-Key: a b") * 2,
    "the same key, another body": post("Idempotency-Key: a") + post("Idempotency-Key: a", body=b"[]"),
    "an empty key of a repetition": post("Idempotency-Key:"),
    "two of these": post("Idempotency-Key: a", "Idempotency-Key: b"),
    "the same twice": post("Idempotency-Key: c", "Idempotency-Key: c"),
    "a key that is not ASCII": post("Idempotency-Key: caf\u00e9"),
    "a key with a tab": post("Idempotency-Key: a\tb"),
    "an id": post("X-Request-Id: mine"),
    "an id of a refused one": post("X-Request-Id: mine", body=b"{"),
    "no id": post("X-Request-Id: not mine"),
    "an empty id": post("X-Request-Id:"),
    "no host": post().replace(b"Host: x\r\n", b""),
    "an empty host": post().replace(b"Host: x", b"Host:"),
    "two hosts": post("Host: y"),
    "two agents": post("User-Agent: a", "User-Agent: b"),
    "two of another": post("Accept: a", "Accept: b"),
    "a query": post(path=ONE + "?a=b"),
    "another path": post(path=ONE + "/"),
    "an escaped path": post(path="/v1/%6Dessages"),
    "an absolute path": post(path="http://x" + ONE),
    "another method": post().replace(b"POST", b"PUT"),
    "a small method": post().replace(b"POST", b"post"),
    "a blank in front": b" " + post(),
    "lines in front": b"\r\n\r\n" + post(),
    "lines between": post() + b"\r\n" + post(),
    "two blanks": post().replace(b"POST ", b"POST  "),
    "a fold": post("X: a\r\n b"),
    "blanks around": post("Idempotency-Key: \t a \t "),
    "a blank before the colon": post("X : a"),
    "no colon": post("X"),
    "no name": post(": a"),
    "a name that is none": post("X(: a"),
    "an underscore": post("X_Y: a"),
    "a zero octet": post("X: a\x00b"),
    "a bare return": post("X: a\rb"),
    "a bare line feed": post("X: a\nY: b"),
    "not ASCII": post("X: caf\u00e9"),
    "an octet of control": post("X: a\x07b"),
    "a long head": post("X: " + "x" * 8000),
    "a header that is too long": post("X: " + "x" * 9000),
    "many headers": post(*[f"X-{i}: {i}" for i in range(100)]),
    "too many headers": post(*[f"X-{i}: {i}" for i in range(200)]),
    "a trailer": post("Trailer: x", "TE: trailers"),
    "many": post() * 30,
    "mixed": post() + GET + post(path=BATCH, body=BODIES) + GET + GET + post(),
    "mixed, a call first": GET + post() + GET,
    "a bad one among good ones": post() + post(body=b"{") + post(key=False) + post(),
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\r\n\r\n",
}  # fmt: skip


class Both:
    """The same API twice: with the edge in front, and without it."""

    def __init__(self, edge: Api, aiohttp: Api) -> None:
        self.edge = edge
        self.aiohttp = aiohttp

    async def differ(self, pieces: list[bytes]) -> tuple[bytes, bytes]:
        """The answers of both to the octets in these pieces, without what may differ."""
        edge, aiohttp = await asyncio.gather(answers(self.edge, pieces), answers(self.aiohttp, pieces))
        return edge, aiohttp


async def answers(api: Api, pieces: Iterable[bytes]) -> bytes:
    """What a new connection is answered, until it closes."""
    ingest = api.ingest
    assert isinstance(ingest, DeskIngest)
    ingest.answers.clear()
    reader, writer = await asyncio.open_connection("127.0.0.1", api.port)
    try:
        for piece in pieces:
            writer.write(piece.replace(KEY, api.api_key.encode()))
            # The server is on this loop: some turns of it, and it has read the piece by itself.
            for _ in range(4):
                await asyncio.sleep(0)
        async with asyncio.timeout(60):
            whole = await reader.read()
    except ConnectionError:
        # A server that does not read to the end may cut the connection off.
        whole = b"cut off"
    finally:
        writer.close()
    return alike(whole)


def alike(whole: bytes) -> bytes:
    for pattern in (
        rb"\r\nDate: [^\r]*",
        rb"(?<=\r\nX-Request-Id: )[0-9a-f]{12}-[0-9a-f]+|(?<=\r\nX-Request-Id: )[0-9a-f]{16}",
        rb'(?<="request_id":")[0-9a-f]{12}-[0-9a-f]+|(?<="request_id":")[0-9a-f]{16}',
        rb"0190a0b0-?0000-?7000-?8000-?[0-9]{12}",
        rb"\r\nContent-Length: [0-9]+",
    ):
        whole = re.sub(pattern, b"", whole)
    return whole


@pytest.fixture(scope="session")
async def both(directory: Directory, acme: NewOrganisation) -> AsyncIterator[Both]:
    async with (
        serving(await services_with(directory), acme.api_key, edge=True) as with_edge,
        serving(await services_with(directory), acme.api_key, edge=False) as without,
    ):
        yield Both(with_edge, without)


@pytest.mark.parametrize("name", SAME)
async def test_a_request_is_answered_alike(both: Both, name: str) -> None:
    edge, aiohttp = await both.differ([SAME[name] + END])
    assert edge == aiohttp
    assert edge.startswith(b"HTTP/1.1 ")


@pytest.mark.parametrize(
    "name", ["one", "a batch", "mixed", "no key", "chunks", "an id", "no json", "lines between"]
)
async def test_it_does_not_matter_in_which_pieces_a_request_comes(both: Both, name: str) -> None:
    whole = SAME[name].replace(KEY, both.edge.api_key.encode()) + END
    expected = await answers(both.aiohttp, [whole])
    for size in (1, 7, 60, 200):
        pieces = [whole[at : at + size] for at in range(0, len(whole), size)]
        assert await answers(both.edge, pieces) == expected, size


@pytest.mark.parametrize("name", ["one", "a batch", "a wrong key", "too large", "a key of a repetition"])
async def test_a_body_behind_its_head_is_answered_alike(both: Both, name: str) -> None:
    head, end, body = SAME[name].partition(b"\r\n\r\n")
    edge, aiohttp = await both.differ([head + end, body[:5], body[5:] + END])
    assert edge == aiohttp


LINES = [
    *("Connection: close", "Connection: keep-alive", "Expect: 100-continue", "Content-Length: 5"),
    *("Content-Length: 0", "Transfer-Encoding: chunked", "Host: y", "Idempotency-Key: a", "X-Request-Id: a"),
    *(
        "Authorization: Bearer <key>",
        "X: y",
        "Content-Encoding: gzip",
        "Upgrade: h2c",
        "Accept: */*",
        ": ",
        "",
    ),
]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    line=st.sampled_from(
        [f"POST {ONE} HTTP/1.1", f"POST {BATCH} HTTP/1.1", f"POST {ONE} HTTP/1.0", "GET / HTTP/1.1"]
    ),
    lines=st.lists(
        st.sampled_from(LINES) | st.text(st.characters(max_codepoint=255), max_size=12), max_size=5
    ),
    plain=st.booleans(),
    body=st.sampled_from([BODY, BODIES, b"", b"{", b"0\r\n\r\n"]),
    cut=st.integers(min_value=0, max_value=300),
)
async def test_no_head_is_read_in_two_ways(
    both: Both, line: str, lines: list[str], plain: bool, body: bytes, cut: int
) -> None:
    given_lines = (
        ["Host: x", "Authorization: Bearer <key>", f"Content-Length: {len(body)}"] if plain else ["Host: x"]
    )
    whole = "\r\n".join([line, *given_lines, *lines, "", ""]).encode("latin-1") + body + END
    whole = whole.replace(KEY, both.edge.api_key.encode())
    head, end, behind = whole.partition(b"\r\n\r\n")
    found = head_of(head + end)
    # aiohttp answers nothing of a piece whose end is no HTTP, so pieces make a difference there.
    size = len(head + end) + (min(found.length, len(behind)) if found is not None else 0)
    edge = await answers(both.edge, [whole[:cut], whole[cut:]])
    assert edge in [await answers(both.aiohttp, [whole[:at], whole[at:]]) for at in (0, cut, size)]


def test_the_answer_that_is_written_most_is_as_all_others() -> None:
    response = Response(202, b"{}")
    response.request_id = "a-1"
    assert re.sub(rb"Date: [^\r]*", b"", accepted_octets(b"{}", "a-1")) == re.sub(
        rb"Date: [^\r]*", b"", response.octets()
    )


@asynccontextmanager
async def connected(api: Api) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", api.port)
    try:
        async with asyncio.timeout(60):
            yield reader, writer
    finally:
        writer.close()


async def answer_of(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    """The head and the body of the next answer."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = re.search(rb"Content-Length: ([0-9]+)", head)
    assert length
    return head, await reader.readexactly(int(length[1]))


def served_by_edge(api: Api) -> int:
    """How many connections the edge has."""
    front = api.server._front
    return len(front._parts.connections)  # type: ignore[union-attr]


async def test_a_connection_comes_back_from_aiohttp_when_its_call_is_over(both: Both) -> None:
    api = both.edge
    ours = post().replace(KEY, api.api_key.encode())
    before = served_by_edge(api)
    async with connected(api) as (reader, writer):
        for request, at_edge in ((ours, 1), (GET, 0), (GET, 0), (ours, 1), (GET, 0), (ours, 1)):
            writer.write(request)
            head, _ = await answer_of(reader)
            assert head.startswith(b"HTTP/1.1 202" if request is ours else b"HTTP/1.1 200")
            assert served_by_edge(api) == before + at_edge
    await until(lambda: served_by_edge(api) == before)


async def test_a_message_waits_for_the_call_before_it_and_a_call_for_the_message(
    directory: Directory, acme: NewOrganisation
) -> None:
    ingest, slow = DeskIngest(), asyncio.Event()

    async def ready() -> dict[str, str]:
        await slow.wait()
        return {"redis": "ok", "postgres": "ok"}

    async with serving(await services_with(directory, ingest=ingest, ready=ready), acme.api_key) as api:
        call = b"GET /readyz HTTP/1.1\r\nHost: x\r\nX-Request-Id: call\r\n\r\n"
        first, second = (
            post(f"X-Request-Id: {name}").replace(KEY, api.api_key.encode()) for name in ("first", "second")
        )
        async with connected(api) as (reader, writer):
            ingest.gate.clear()
            writer.write(first)
            await ingest.entered.wait()
            writer.write(call + second)
            ingest.gate.set()
            assert b"X-Request-Id: first" in (await answer_of(reader))[0]
            assert len(ingest.accepted) == 1
            slow.set()
            assert b"X-Request-Id: call" in (await answer_of(reader))[0]
            assert b"X-Request-Id: second" in (await answer_of(reader))[0]


async def test_what_was_admitted_stays_so_when_its_client_leaves(
    directory: Directory, acme: NewOrganisation
) -> None:
    ingest = DeskIngest()
    ingest.gate.clear()
    async with serving(await services_with(directory, ingest=ingest), acme.api_key) as api:
        async with connected(api) as (_, writer):
            writer.write(post().replace(KEY, api.api_key.encode()))
            await ingest.entered.wait()
        # The connection is known until its request has ended.
        assert served_by_edge(api) == 1
        ingest.gate.set()
        await until(lambda: served_by_edge(api) == 0)
        assert len(ingest.accepted) == 1


async def test_a_client_that_does_not_read_is_not_read_either(
    directory: Directory, acme: NewOrganisation
) -> None:
    """Its answers would fill the memory of the process, and its requests too."""
    ingest = DeskIngest()
    async with serving(await services_with(directory, ingest=ingest), acme.api_key) as api:
        reader, writer = await asyncio.open_connection("127.0.0.1", api.port, limit=2**12)
        request = post().replace(KEY, api.api_key.encode())
        count = 60_000
        # As long as it takes on a machine with much else to do: a hang is all that it is against.
        async with asyncio.timeout(300):
            writer.write(request * count)
            drained = asyncio.create_task(writer.drain())
            seen = -1
            # Until it stands still.
            while seen != len(ingest.accepted):
                seen = len(ingest.accepted)
                await asyncio.sleep(0.2)
            assert seen < count
            assert not drained.done()
            accepted, end = 0, b""
            while accepted < count:
                octets = await reader.read(2**16)
                assert octets, "the connection ends before the last answer"
                accepted += (end + octets).count(b"HTTP/1.1 202 ")
                end = octets[-12:]
            await drained
        writer.close()
        assert len(ingest.accepted) == count


@pytest.mark.parametrize("at_edge", [True, False])
async def test_a_client_that_reads_nothing_is_cut(
    directory: Directory, acme: NewOrganisation, monkeypatch: pytest.MonkeyPatch, at_edge: bool
) -> None:
    monkeypatch.setattr(stalled_writes, "STALL_S", 0.1)
    async with serving(await services_with(directory), acme.api_key) as api:
        request = GET.replace(b"/healthz", b"/openapi.json")
        if at_edge:
            request = post().replace(KEY, api.api_key.encode())
        with socket.socket() as client:
            # Little fits on the way to the client.
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
            client.setblocking(False)
            loop = asyncio.get_running_loop()
            await loop.sock_connect(client, ("127.0.0.1", api.port))
            async with asyncio.timeout(300):
                with pytest.raises(OSError):
                    await loop.sock_sendall(client, request * 400_000)
        await until(lambda: served_by_edge(api) == 0)


async def test_a_client_that_takes_something_between_two_looks_is_not_cut(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(stalled_writes, "STALL_S", 0.0)

    class Draining(asyncio.Transport):
        """What waits for a client, and whether the connection was cut."""

        waiting = [500, 400, 1, 1]
        is_cut = False

        def get_write_buffer_size(self) -> int:
            return self.waiting.pop(0) if len(self.waiting) > 1 else self.waiting[0]

        def abort(self) -> None:
            self.is_cut = True

    transport = Draining()
    StalledWrites().begin(transport)
    await until(lambda: transport.is_cut)
    assert transport.waiting == [1]


async def test_a_silent_client_is_given_up(
    directory: Directory, acme: NewOrganisation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "FIRST_REQUEST_S", 0.05)
    monkeypatch.setattr(server, "KEEP_ALIVE_S", 0.05)
    async with serving(await services_with(directory), acme.api_key) as api:
        request = post().replace(KEY, api.api_key.encode())
        assert (await api.raw(request)).startswith(b"HTTP/1.1 202")
        assert (await api.raw(request + request[:30])).startswith(b"HTTP/1.1 202")


async def test_connections_make_room_for_new_ones_and_those_at_work_and_those_with_a_key_stay(
    directory: Directory, acme: NewOrganisation
) -> None:
    ingest = DeskIngest()
    services = await services_with(directory, ingest=ingest)
    async with serving(services, acme.api_key, connections_max=16) as api, AsyncExitStack() as stack:

        async def connect() -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
            return await stack.enter_async_context(connected(api))

        request = post().replace(KEY, api.api_key.encode())
        balance = b"GET /v1/balance HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer <key>\r\n\r\n"
        balance = balance.replace(KEY, api.api_key.encode())
        nowhere = balance.replace(b"balance", b"nothing")
        # Those that idle: the last request with a key at the edge, at aiohttp, without one at both.
        idle = [await connect() for _ in range(5)]
        no_key = (post(key=False), b"401")
        calls = [((request, b"202"),), ((balance, b"200"),), ((request, b"202"), (GET, b"200"))]
        calls += [((nowhere, b"404"), (GET, b"200"), no_key), (no_key, (balance, b"200"), (request, b"202"))]
        for (reader, writer), sent in zip(idle, calls, strict=True):
            for octets, status in sent:
                writer.write(octets)
                assert (await answer_of(reader))[0].startswith(b"HTTP/1.1 " + status)
        ingest.gate.clear()
        ingest.entered.clear()
        at_work = [await connect() for _ in range(9)]
        for _, writer in at_work:
            writer.write(request)
        await ingest.entered.wait()
        silent = [await connect() for _ in range(40)]
        # The silent ones while they are more than a quarter, then those without a key.
        async with asyncio.timeout(60):
            for reader, _ in [idle[2], idle[3], *silent[:36]]:
                assert await reader.read() == b""
        ingest.gate.set()
        for _, writer in [idle[0], idle[1], idle[4], silent[-1]]:
            writer.write(request)
        for reader, _ in [*at_work, idle[0], idle[1], idle[4], silent[-1]]:
            assert (await answer_of(reader))[0].startswith(b"HTTP/1.1 202")


async def test_a_body_that_is_late_is_awaited_by_aiohttp_for_the_rest_of_its_time(
    directory: Directory, acme: NewOrganisation
) -> None:
    async with serving(await services_with(directory, timeout_s=1.5), acme.api_key) as api:
        request = post().replace(KEY, api.api_key.encode())
        async with connected(api) as (reader, writer):
            writer.write(request[:-5])
            await until(lambda: served_by_edge(api) == 1)
            await until(lambda: served_by_edge(api) == 0)
            writer.write(request[-5:])
            assert (await answer_of(reader))[0].startswith(b"HTTP/1.1 202")


async def test_a_revoked_key_is_refused_although_its_head_is_remembered(directory: Directory) -> None:
    made = await directory.create_organisation("Revoked on its connection")
    async with serving(await services_with(directory), made.api_key) as api:
        request = post().replace(KEY, made.api_key.encode())
        async with connected(api) as (reader, writer):
            for _ in range(3):
                writer.write(request)
                assert (await answer_of(reader))[0].startswith(b"HTTP/1.1 202")
            await ApiKeyBook(directory.pool).revoke(made.id, int(made.api_key.split("_")[1]))
            async with asyncio.timeout(60):
                while True:
                    writer.write(request)
                    head, body = await answer_of(reader)
                    if head.startswith(b"HTTP/1.1 401"):
                        break
                    await asyncio.sleep(0.02)
            assert b"unauthorised" in body


async def test_a_server_that_ends_answers_the_message_whose_body_is_on_its_way(
    directory: Directory, acme: NewOrganisation
) -> None:
    services = await services_with(directory)
    async with serving(services, acme.api_key) as api:
        request = post().replace(KEY, api.api_key.encode())
        async with connected(api) as (idle, _), connected(api) as (reader, writer):
            # From here on its key is known.
            writer.write(request + request[:-5])
            await answer_of(reader)
            services.draining.set()
            stopping = asyncio.create_task(api.server.stop(5))
            await asyncio.sleep(0)
            writer.write(request[-5:])
            head, _ = await answer_of(reader)
            assert head.startswith(b"HTTP/1.1 202")
            assert b"Connection: close" in head
            assert await reader.read() == b""
            assert await idle.read() == b""
            await stopping


async def test_a_request_that_does_not_end_is_given_up_when_the_server_ends(
    directory: Directory, acme: NewOrganisation
) -> None:
    ingest = DeskIngest()
    ingest.gate.clear()
    async with serving(await services_with(directory, ingest=ingest), acme.api_key) as api:
        async with connected(api) as (reader, writer):
            writer.write(post().replace(KEY, api.api_key.encode()))
            await ingest.entered.wait()
            await api.server.stop(0.05)
            assert served_by_edge(api) == 0
            assert await reader.read() == b""
        ingest.gate.set()
        assert ingest.accepted == []


@pytest.mark.parametrize("name", SAME)
def test_a_head_is_plain_or_it_is_not_ours(name: str) -> None:
    head, end, _ = SAME[name].partition(b"\r\n\r\n")
    found = head_of(head + end)
    plain = {"one", "a batch", "no json", "no body", "that closes", "that stays", "no key", "an id", "many"}
    if name in plain:
        assert found is not None
    if found is not None:
        assert found.length == len(SAME[name].partition(b"\r\n\r\n")[2][: found.length]) or "body" in name
