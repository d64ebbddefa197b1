"""Answers of servers that keep the protocol badly: the very octets, over real sockets and cut anywhere."""

from __future__ import annotations

import asyncio
import gzip
import zlib
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.providers.http_client.answer import BROKEN_OCTETS, AnswerReader
from tests.providers.scripted import Outcomes, pool_to, serving

BODY = b'{"id":"m-1"}'
LENGTH = b"Content-Length: 12\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n"
CHUNKS = b"5\r\n" + BODY[:5] + b"\r\n7\r\n" + BODY[5:] + b"\r\n0\r\n\r\n"

# Octets and whether the connection can be used again. Each has the status 200 and BODY.
BROKEN = {
    "LF alone": (b"HTTP/1.1 200 OK\nServer: x\nContent-Length: 12\n\n" + BODY, True),
    "LF alone at the end of the head": (b"HTTP/1.1 200 OK\r\n" + LENGTH + b"\n" + BODY, True),
    "CR CR LF": (b"HTTP/1.1 200 OK\r\r\nContent-Length: 12\r\r\n\r\r\n" + BODY, True),
    "blank before a colon": (b"HTTP/1.1 200 OK\r\nX-A : 1\r\n" + LENGTH + b"\r\n" + BODY, True),
    "blank before the colon of the length": (b"HTTP/1.1 200 OK\r\nContent-Length : 12\r\n\r\n" + BODY, True),
    "blank in a name": (b"HTTP/1.1 200 OK\r\nX A: 1\r\n" + LENGTH + b"\r\n" + BODY, True),
    "Latin-1 in a name": (b"HTTP/1.1 200 OK\r\nX\xe9: 1\r\n" + LENGTH + b"\r\n" + BODY, True),
    "control octet": (b"HTTP/1.1 200 OK\r\nSet-Cookie: a=\x01\x7f\r\n" + LENGTH + b"\r\n" + BODY, True),
    "NUL": (b"HTTP/1.1 200 OK\r\nSet-Cookie: a=\x00\r\n" + LENGTH + b"\r\n" + BODY, True),
    "CR in a value": (b"HTTP/1.1 200 OK\r\nSet-Cookie: a=\rb\r\n" + LENGTH + b"\r\n" + BODY, True),
    "value in two lines": (b"HTTP/1.1 200 OK\r\nX-A: 1,\r\n\t2\r\n" + LENGTH + b"\r\n" + BODY, True),
    "length in the second line": (b"HTTP/1.1 200 OK\r\nContent-Length:\r\n 12\r\n\r\n" + BODY, True),
    "line without a colon": (b"HTTP/1.1 200 OK\r\nWarning here\r\n" + LENGTH + b"\r\n" + BODY, True),
    "empty name": (b"HTTP/1.1 200 OK\r\n: x\r\n" + LENGTH + b"\r\n" + BODY, True),
    "two blanks": (b"HTTP/1.1  200  OK\r\n" + LENGTH + b"\r\n" + BODY, True),
    "version without a point": (b"HTTP/1 200 OK\r\n" + LENGTH + b"\r\n" + BODY, False),
    "length twice": (b"HTTP/1.1 200 OK\r\n" + 2 * LENGTH + b"\r\n" + BODY, True),
    "length as a list": (b"HTTP/1.1 200 OK\r\nContent-Length: 12, 12\r\n\r\n" + BODY, True),
    "length and chunks": (b"HTTP/1.1 200 OK\r\n" + LENGTH + CHUNKED + b"\r\n" + CHUNKS, False),
    "chunks and length": (b"HTTP/1.1 200 OK\r\n" + CHUNKED + LENGTH + b"\r\n" + CHUNKS, False),
    "identity and length": (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: identity\r\n" + LENGTH + b"\r\n" + BODY, False,
    ),
    "chunks with LF alone": (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + CHUNKS.replace(b"\r\n", b"\n"), True,
    ),
    "blanks beside the size of a chunk": (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + CHUNKS.replace(b"5\r", b"5  \r"), True,
    ),
    "trailer with a blank before the colon": (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + CHUNKS[:-2] + b"X : y\r\n\r\n", True,
    ),
    "interim answer with LF alone": (
        b"HTTP/1.1 100 Continue\n\nHTTP/1.1 103 Early\nLink: a\n\nHTTP/1.1 200 OK\n" + LENGTH + b"\n" + BODY,
        True,
    ),
    "HTTP/1.0": (b"HTTP/1.0 200 OK\n" + LENGTH + b"\n" + BODY, False),
    "HTTP/1.0, kept": (b"HTTP/1.0 200 OK\nConnection: Keep-Alive\n" + LENGTH + b"\n" + BODY, True),
    "to be closed": (b"HTTP/1.1 200\nconnection: x, Close\n" + LENGTH + b"\n" + BODY, False),
    "more after the body": (b"HTTP/1.1 200 OK\n" + LENGTH + b"\n" + BODY + b"\r\n", False),
}  # fmt: skip

# Octets that leave it doubtful where the answer ends, or that are none.
DOUBTFUL = {
    "two lengths": b"HTTP/1.1 200 OK\nContent-Length: 1\nContent-Length: 2\n\nab",
    "two lengths in a list": b"HTTP/1.1 200 OK\r\nContent-Length: 1, 2\r\n\r\nab",
    "length with a sign": b"HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\nab",
    "no length where one is named": b"HTTP/1.1 200 OK\r\nContent-Length:\r\n\r\nab",
    "length without a colon": b"HTTP/1.1 200 OK\r\nContent-Length 2\r\n\r\nab",
    "control octet in the length": b"HTTP/1.1 200 OK\r\nContent-Length: 2\x01\r\n\r\nab",
    "unknown coding": b"HTTP/1.1 200 OK\nTransfer-Encoding: cunked\n\n2\nab\n0\n\n",
    "chunked in the middle": b"HTTP/1.1 200 OK\nTransfer-Encoding: chunked, gzip\n\n2\nab\n0\n\n",
    "no size of a chunk": b"HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\nzz\nxy\n",
    "octets between chunks": b"HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n1\nab\n",
    "another protocol": b"HTTP/1.1 101 Switching\nUpgrade: x\n\n",
    "no HTTP": b"220 mail ready\n\n",
    "no status": b"HTTP/1.1 OK\n\n",
    "a status of four digits": b"HTTP/1.1 2000 OK\n\n",
}


@pytest.mark.parametrize("name", BROKEN)
async def test_what_curl_reads_is_read_and_shown(name: str) -> None:
    wire, reusable = BROKEN[name]

    async def script(body: bytes, writer: asyncio.StreamWriter) -> bytes:
        return wire

    async with serving(script) as server, pool_to(server.port, connections_max=1) as pool:
        outcomes = Outcomes(pool)
        for _ in range(2):
            outcome = await outcomes.one()
            assert (outcome.kind, outcome.status, outcome.body) == ("answered", 200, BODY)
            assert outcome.broken == wire[:BROKEN_OCTETS]
        assert server.connections == (1 if reusable else 2)


@pytest.mark.parametrize("name", DOUBTFUL)
async def test_what_leaves_the_end_doubtful_is_refused_and_shown(name: str) -> None:
    async def script(body: bytes, writer: asyncio.StreamWriter) -> bytes:
        return DOUBTFUL[name]

    async with serving(script) as server, pool_to(server.port) as pool:
        outcome = await Outcomes(pool).one()
    assert (outcome.kind, outcome.reason) == ("unanswered", "bad-answer")
    assert outcome.broken == DOUBTFUL[name]


@pytest.mark.parametrize("name", BROKEN)
@given(cuts=st.lists(st.integers(0, 200), max_size=8))
def test_a_broken_answer_is_the_same_however_it_is_cut(name: str, cuts: list[int]) -> None:
    wire, reusable = BROKEN[name]
    answer = AnswerReader(1000)
    edges = [0, *sorted(min(cut, len(wire)) for cut in cuts), len(wire)]
    for start, end in pairwise(edges):
        if start < end and not answer.complete:
            answer.feed(wire[start:end])
    assert (answer.complete, answer.fault, answer.status, answer.body) == (True, "", 200, BODY)
    assert answer.reusable in (reusable, name == "more after the body")


def test_a_reader_goes_on_after_a_broken_answer() -> None:
    answer = AnswerReader(1000)
    for wire, reusable in BROKEN.values():
        if reusable:
            for octets in (wire, b"HTTP/1.1 200 OK\r\n" + LENGTH + b"\r\n" + BODY):
                answer.expect()
                answer.feed(octets)
                assert (answer.complete, answer.body, answer.reusable) == (True, BODY, True)
            assert answer.broken == b""


def test_a_close_ends_a_broken_answer_without_a_length_and_no_other() -> None:
    for head, rest, whole in (
        (b"Server: x", BODY, True), (b"Transfer-Encoding: chunked", CHUNKS[:-2], True),
        (b"Content-Length: 13", BODY, False), (b"Transfer-Encoding: chunked", CHUNKS[:-5], False),
    ):  # fmt: skip
        answer = AnswerReader(1000)
        answer.feed(b"HTTP/1.1 200 OK\n" + head + b"\n\n" + rest)
        assert not answer.complete
        answer.feed_eof()
        assert (answer.complete, answer.begun) == (whole, True)
        assert answer.body == (BODY if whole else b"")


@pytest.mark.parametrize("head", [b"", b"Content-Length: 11\n", b"Transfer-Encoding: chunked\n"])
def test_a_broken_answer_has_the_same_bounds(head: bytes) -> None:
    answer = AnswerReader(body_bytes_max=10)
    answer.feed(b"HTTP/1.1 200 OK\n" + head + b"\n")
    for _ in range(11):
        assert answer.fault == ""
        answer.feed(b"1\nx\n" if b"chunked" in head else b"x")
    assert (answer.complete, answer.fault) == (False, "answer-too-large")


@pytest.mark.parametrize(
    "piece", [b"X-Filler: " + b"x" * 1000 + b"\n", b"HTTP/1.1 100 Continue\n\n", b"\n" * 1000]
)
def test_a_broken_head_without_end_is_a_fault(piece: bytes) -> None:
    answer = AnswerReader(1000)
    answer.feed(b"HTTP/1.1 200 OK\n" if piece.startswith(b"X") else b"HTTP/1.1 100 Continue\n\n")
    for _ in range(10_000):
        if answer.fault:
            break
        answer.feed(piece)
    assert answer.fault in ("answer-too-large", "bad-answer")


@given(st.binary(max_size=300), st.booleans())
def test_no_octets_are_too_strange(octets: bytes, as_http: bool) -> None:
    answer = AnswerReader(100)
    answer.feed((b"HTTP/1.1 200 OK\n" if as_http else b"") + octets)
    if not answer.complete and not answer.fault:
        answer.feed_eof()
    assert len(answer.body) <= 100


# -- packed bodies


def _raw_deflate(body: bytes) -> bytes:
    deflate = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return deflate.compress(body) + deflate.flush()


@pytest.mark.parametrize(
    ("coding", "packed"),
    [
        (b"gzip", gzip.compress(BODY)),
        (b"x-gzip", gzip.compress(BODY)),
        (b"", gzip.compress(BODY)),
        (b"GZIP", gzip.compress(BODY[:5]) + gzip.compress(BODY[5:])),
        (b"deflate", zlib.compress(BODY)),
        (b"Deflate", _raw_deflate(BODY)),
        (b"gzip", BODY),
        (b"deflate", BODY),
        (b"utf-8", BODY),
        (b"identity", BODY),
    ],
)
async def test_a_packed_body_is_unpacked_though_nobody_asked(coding: bytes, packed: bytes) -> None:
    said = b"Content-Encoding: %b\r\n" % coding if coding else b""

    async def script(body: bytes, writer: asyncio.StreamWriter) -> bytes:
        return b"HTTP/1.1 200 OK\r\n%bContent-Length: %d\r\n\r\n%b" % (said, len(packed), packed)

    async with serving(script) as server, pool_to(server.port) as pool:
        outcome = await Outcomes(pool).one()
    assert (outcome.kind, outcome.body, outcome.broken) == ("answered", BODY, b"")


@pytest.mark.parametrize("pack", [gzip.compress, zlib.compress])
async def test_a_bomb_is_not_unpacked(pack: object) -> None:
    assert callable(pack)
    packed = pack(bytes(50_000_000))

    async def script(body: bytes, writer: asyncio.StreamWriter) -> bytes:
        head = b"HTTP/1.1 200 OK\r\nContent-Encoding: deflate\r\nContent-Length: %d\r\n\r\n" % len(packed)
        return head + packed

    async with serving(script) as server, pool_to(server.port, body_bytes_max=60_000) as pool:
        outcome = await Outcomes(pool).one()
    assert (outcome.kind, outcome.reason) == ("unanswered", "answer-too-large")


def test_half_a_packed_body_is_left_as_it_came() -> None:
    packed = gzip.compress(BODY)[:-5]
    answer = AnswerReader(1000)
    answer.feed(
        b"HTTP/1.1 500 No\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(packed) + packed
    )
    assert (answer.complete, answer.status, answer.body) == (True, 500, packed)
