"""Reading answers: no sockets."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.providers.http_client.answer import HEAD_BYTES_MAX, AnswerReader

ANSWERS = [
    (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", 200, b"hello", True),
    (b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", 200, b"", True),
    (b"HTTP/1.1 204 No Content\r\n\r\n", 204, b"", True),
    (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello", 200, b"hello", False),
    (b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhello", 200, b"hello", False),
    (b"HTTP/1.1 429 No\r\nTransfer-Encoding: chunked\r\n\r\n"
     b"3\r\nhel\r\n2;x=y\r\nlo\r\n0\r\n\r\n", 429, b"hello", True),
    (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: <x>\r\n\r\n"
     b"HTTP/1.1 422 No\r\nContent-Length: 2\r\n\r\n{}", 422, b"{}", True),
]  # fmt: skip


def reader(body_bytes_max: int = 1000) -> AnswerReader:
    return AnswerReader(body_bytes_max)


@pytest.mark.parametrize(("wire", "status", "body", "reusable"), ANSWERS)
@given(cuts=st.lists(st.integers(0, 200), max_size=8))
def test_an_answer_is_the_same_however_it_is_cut(
    wire: bytes, status: int, body: bytes, reusable: bool, cuts: list[int]
) -> None:
    answer = reader()
    edges = [0, *sorted(min(cut, len(wire)) for cut in cuts), len(wire)]
    for start, end in pairwise(edges):
        assert not answer.complete or start == end == len(wire)
        if start < end:
            answer.feed(wire[start:end])
    assert (answer.complete, answer.fault) == (True, "")
    assert (answer.status, answer.body, answer.reusable) == (status, body, reusable)


def test_one_reader_reads_one_answer_after_another() -> None:
    answer = reader()
    for wire, status, body, reusable in ANSWERS:
        if reusable:
            answer.expect()
            assert not answer.begun
            answer.feed(wire)
            assert (answer.complete, answer.status, answer.body) == (True, status, body)


@pytest.mark.parametrize("excess", [b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", b"H", b"\0garbage"])
def test_bytes_after_the_answer_spoil_the_connection_not_the_answer(excess: bytes) -> None:
    answer = reader()
    answer.feed(b"HTTP/1.1 201 Created\r\nContent-Length: 2\r\n\r\nok" + excess)
    assert (answer.complete, answer.status, answer.body, answer.reusable) == (True, 201, b"ok", False)


@pytest.mark.parametrize(
    "wire",
    [
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
    ],
)
def test_what_is_not_an_answer_is_a_fault(wire: bytes) -> None:
    answer = reader()
    answer.feed(wire)
    assert not answer.complete
    assert answer.fault == "bad-answer"


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_over_the_bound_is_a_fault(chunked: bool) -> None:
    framing = b"Transfer-Encoding: chunked\r\n\r\n" if chunked else b"Content-Length: 11\r\n\r\n"
    piece = b"1\r\nx\r\n" if chunked else b"x"
    answer = reader(body_bytes_max=10)
    answer.feed(b"HTTP/1.1 200 OK\r\n" + framing)
    for _ in range(10):
        answer.feed(piece)
        assert answer.fault == ""
    answer.feed(piece)
    assert (answer.complete, answer.fault) == (False, "answer-too-large")


@pytest.mark.parametrize(
    "piece",
    [b"X-Filler: " + b"x" * 1000 + b"\r\n", b"HTTP/1.1 100 Continue\r\n\r\n"],
    ids=["fields", "interim"],
)
def test_a_head_without_end_is_a_fault(piece: bytes) -> None:
    answer = reader()
    fed = 0
    if piece.startswith(b"X"):
        answer.feed(b"HTTP/1.1 200 OK\r\n")
    while not answer.fault and fed < 2 * HEAD_BYTES_MAX:
        answer.feed(piece)
        fed += len(piece)
    assert answer.fault == "answer-too-large"


def test_a_close_ends_only_an_answer_that_gave_no_length() -> None:
    answer = reader()
    answer.feed(b"HTTP/1.1 200 OK\r\nServer: x\r\n\r\nall there is")
    assert not answer.complete
    answer.feed_eof()
    assert (answer.complete, answer.body, answer.reusable) == (True, b"all there is", False)
    for head in (b"Content-Length: 100", b"Transfer-Encoding: chunked", b"Serv"):
        cut = reader()
        cut.feed(b"HTTP/1.1 200 OK\r\n" + head + (b"\r\n\r\n" if b":" in head else b""))
        cut.feed_eof()
        assert not cut.complete
        assert cut.begun
