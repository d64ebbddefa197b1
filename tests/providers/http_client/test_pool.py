"""The pooled client against a server that does everything wrong, over real sockets."""

from __future__ import annotations

import asyncio
import random

import pytest

from engine.providers.http_client.pool import HttpOutcome, HttpPool
from tests.providers.scripted import OK, Outcomes, pool_to, reset, serving, until

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def ok(body: bytes, writer: asyncio.StreamWriter) -> bytes:
    return OK


async def test_a_request_is_one_post_with_host_and_length() -> None:
    async with serving(ok) as server, pool_to(server.port) as pool:
        outcome = await Outcomes(pool).one(b'{"id":"1"}')
        assert (outcome.kind, outcome.status, outcome.body) == ("answered", 200, b"ok")
        assert 0 < outcome.latency_us < 5_000_000
        assert server.bodies == [b'{"id":"1"}']
        assert server.heads == [
            b"POST /send HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nX-Test: yes\r\nContent-Length: 10\r\n\r\n"
            % server.port
        ]


async def test_connections_are_reused_and_never_more_than_allowed() -> None:
    async with serving(ok) as server, pool_to(server.port, connections_max=3) as pool:
        requests = Outcomes(pool)
        for _ in range(200):
            requests.send()
        assert {outcome.status for outcome in await requests.ended()} == {200}
        assert server.connections == 3
        for _ in range(20):
            await requests.one()
        assert server.connections == 3
        assert (pool.in_flight, pool.waiting) == (0, 0)


async def test_one_after_another_needs_one_connection() -> None:
    async with serving(ok) as server, pool_to(server.port) as pool:
        for _ in range(50):
            assert (await Outcomes(pool).one()).status == 200
        assert server.connections == 1


async def test_a_connection_that_the_server_closes_after_the_answer_is_replaced() -> None:
    async def last(body: bytes, writer: asyncio.StreamWriter) -> bytes:
        return b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok"

    async with serving(last) as server, pool_to(server.port) as pool:
        for _ in range(5):
            assert (await Outcomes(pool).one()).body == b"ok"
        assert server.connections == 5


async def test_an_answer_without_length_ends_with_the_connection() -> None:
    async def unframed(body: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n\r\nuntil the end")
        writer.close()

    async with serving(unframed) as server, pool_to(server.port) as pool:
        outcome = await Outcomes(pool).one()
        assert (outcome.kind, outcome.body) == ("answered", b"until the end")


async def test_a_chunked_answer_may_come_in_pieces() -> None:
    async def pieces(body: bytes, writer: asyncio.StreamWriter) -> None:
        for piece in (
            b"HTTP/1.1 200 OK\r\nTransfer-Enc",
            b"oding: chunked\r\n\r\n2\r\no",
            b"k\r\n0\r\n",
            b"\r\n",
        ):
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0.005)

    async with serving(pieces) as server, pool_to(server.port) as pool:
        requests = Outcomes(pool)
        assert (await requests.one()).body == (await requests.one()).body == b"ok"
        assert server.connections == 1


@pytest.mark.parametrize(
    ("sent", "ending", "reason"),
    [
        (b"", "close", "closed"),
        (b"", "reset", "reset"),
        (b"HTTP/1.1 200 OK\r\nContent-Le", "close", "cut-short"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nonly part", "close", "cut-short"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nonly part", "reset", "cut-short"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nonly", "close", "cut-short"),
        (b"220 mail.example.com ESMTP\r\n", "stay", "bad-answer"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2000\r\n\r\n" + b"x" * 2000, "stay", "answer-too-large"),
        (b"", "stay", "timeout"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nonly part", "stay", "timeout"),
    ],
)
async def test_without_a_whole_answer_the_outcome_is_unanswered(
    sent: bytes, ending: str, reason: str
) -> None:
    async def broken(body: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(sent)
        await writer.drain()
        if ending == "close":
            writer.close()
        elif ending == "reset":
            # What has not been read when the reset comes is lost.
            await until(lambda: not sent or any(c._answer.begun for c in made[0]._connections))
            reset(writer)

    made: list[HttpPool] = []
    async with serving(broken) as server, pool_to(server.port, timeout_s=0.4, body_bytes_max=1000) as pool:
        made.append(pool)
        outcome = await Outcomes(pool).one()
        assert (outcome.kind, outcome.reason) == ("unanswered", reason)
        assert outcome.latency_us > 0
        await until(lambda: pool.connections == 0)


async def test_a_late_answer_goes_to_nobody_else() -> None:
    """The first answer comes after its time-out; the second request must not be given it."""
    late = asyncio.Event()

    async def first_is_late(body: bytes, writer: asyncio.StreamWriter) -> bytes:
        if body == b"1":
            await late.wait()
        return b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n" + body

    async with (
        serving(first_is_late) as server,
        pool_to(server.port, connections_max=1, timeout_s=0.3) as pool,
    ):
        requests = Outcomes(pool)
        assert (await requests.one(b"1")).reason == "timeout"
        late.set()
        assert (await requests.one(b"2")).body == b"2"
        assert server.connections == 2


async def test_an_answer_that_comes_unasked_is_given_to_nobody() -> None:
    """An idle connection is sent an answer, as a server does that gives up on it (408)."""
    writers: list[asyncio.StreamWriter] = []

    async def remember(body: bytes, writer: asyncio.StreamWriter) -> bytes:
        writers.append(writer)
        return b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n" + body

    async with serving(remember) as server, pool_to(server.port, connections_max=1, idle_s=60) as pool:
        requests = Outcomes(pool)
        assert (await requests.one(b"1")).body == b"1"
        writers[0].write(b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n")
        await until(lambda: pool.connections == 0)
        assert (await requests.one(b"2")).body == b"2"


async def test_an_answer_nobody_asked_for_ends_the_connection() -> None:
    async def twice(body: bytes, writer: asyncio.StreamWriter) -> bytes:
        return b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n%b" % body + OK

    async with serving(twice) as server, pool_to(server.port, connections_max=1) as pool:
        requests = Outcomes(pool)
        for body in (b"1", b"2", b"3"):
            requests.send(body)
        assert [outcome.body for outcome in await requests.ended()] == [b"1", b"2", b"3"]
        assert server.connections == 3


async def test_a_callback_that_fails_costs_no_other_its_outcome() -> None:
    loop = asyncio.get_running_loop()
    reported: list[dict[str, object]] = []
    loop.set_exception_handler(lambda _, context: reported.append(context))
    try:
        async with serving(ok) as server, pool_to(server.port, connections_max=1) as pool:

            def fails(outcome: HttpOutcome) -> None:
                raise ValueError("the caller's own")

            requests = Outcomes(pool)
            pool.request(b"POST", b"/send", b"", b"{}", fails)
            for _ in range(5):
                requests.send()
            assert {o.status for o in await requests.ended()} == {200}
            assert server.connections == 1
            assert [str(context["exception"]) for context in reported] == ["the caller's own"]
    finally:
        loop.set_exception_handler(None)


async def test_a_callback_may_send_the_next_request() -> None:
    async with serving(ok) as server, pool_to(server.port, connections_max=1) as pool:
        ended = asyncio.get_running_loop().create_future()
        left = 100

        def done(outcome: HttpOutcome) -> None:
            nonlocal left
            assert outcome.status == 200
            left -= 1
            if left:
                pool.request(b"POST", b"/send", b"", b"{}", done)
            else:
                ended.set_result(None)

        pool.request(b"POST", b"/send", b"", b"{}", done)
        await asyncio.wait_for(ended, 60)
        assert server.connections == 1


@pytest.mark.parametrize("seed", range(3))
async def test_every_request_has_one_outcome_in_a_storm(seed: int) -> None:
    """Answers of all kinds, closes, resets, silence; bodies tell whose answer it is."""
    rng = random.Random(seed)

    async def storm(body: bytes, writer: asyncio.StreamWriter) -> bytes | None:
        draw = rng.random()
        await asyncio.sleep(rng.choice([0, 0, 0.001, 0.01]))
        answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
        if draw < 0.75:
            return answer
        if draw < 0.80:
            writer.write(answer)
            writer.close()
        elif draw < 0.85:
            reset(writer)
        elif draw < 0.90:
            writer.write(answer[: rng.randrange(len(answer))])
            writer.close()
        elif draw < 0.95:
            return b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (
                len(body),
                body,
            )
        elif draw < 0.97:
            return b"nonsense\r\n\r\n"
        return None

    async with serving(storm) as server, pool_to(server.port, connections_max=20, timeout_s=1.0) as pool:
        requests = Outcomes(pool)
        for number in range(2000):
            requests.send(b"%d" % number)
            if number % 40 == 39:
                await asyncio.sleep(0.005)
        outcomes = await requests.ended()
        for number, outcome in enumerate(outcomes):
            if outcome.kind == "answered":
                assert outcome.body == b"%d" % number
        assert {"answered", "unanswered"} <= {outcome.kind for outcome in outcomes}
        written = {int(body) for body in server.bodies}
        assert len(written) == len(server.bodies)
        for number, outcome in enumerate(outcomes):
            assert outcome.kind != "not_sent" or number not in written
        assert pool.in_flight == pool.waiting == 0
