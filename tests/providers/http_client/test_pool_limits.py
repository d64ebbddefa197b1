"""The pooled client when there is no connection, no time left, or no more work."""

from __future__ import annotations

import asyncio
import socket
import struct
import time

import pytest

from engine.providers.http_client.pool import HttpPool
from tests.providers.scripted import OK, Outcomes, pool_to, serving, until

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def ok(body: bytes, writer: asyncio.StreamWriter) -> bytes:
    return OK


async def silent(body: bytes, writer: asyncio.StreamWriter) -> None:
    return None


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port: int = s.getsockname()[1]
        return port


async def test_the_time_out_is_kept() -> None:
    async with serving(silent) as server, pool_to(server.port, connections_max=50, timeout_s=3.0) as pool:
        requests = Outcomes(pool)
        begun_s = time.monotonic()
        for _ in range(50):
            requests.send()
        outcomes = await requests.ended()
        # Not before its time; a slow machine only makes it longer. (The wait for a connection is part
        # of the time and not of the latency.)
        assert time.monotonic() - begun_s >= 2.9
        assert {(outcome.kind, outcome.reason) for outcome in outcomes} == {("unanswered", "timeout")}


async def test_what_waits_too_long_for_a_connection_was_not_sent() -> None:
    async with serving(silent) as server, pool_to(server.port, connections_max=1, timeout_s=2.0) as pool:
        requests = Outcomes(pool)
        for _ in range(3):
            requests.send()
        outcomes = await requests.ended()
        assert [outcome.kind for outcome in outcomes] == ["unanswered", "not_sent", "not_sent"]
        assert {outcome.reason for outcome in outcomes[1:]} == {"no-connection"}
        assert len(server.bodies) == 1


async def test_the_queue_is_bounded() -> None:
    async with serving(silent) as server, pool_to(server.port, connections_max=1, waiting_max=2) as pool:
        requests = Outcomes(pool)
        for _ in range(4):
            requests.send()
        await requests.wait(lambda: len(requests.all) == 2)
        assert {(o.kind, o.reason) for o in requests.all} == {("not_sent", "busy")}
        assert pool.waiting + pool.in_flight == 2


async def test_a_server_that_is_away_is_told_at_once_and_left_alone_for_a_while() -> None:
    port = free_port()
    async with pool_to(port) as pool:
        requests = Outcomes(pool)
        for _ in range(500):
            requests.send()
        assert {(o.kind, o.reason, o.latency_us) for o in await requests.ended()} == {
            ("not_sent", "refused", 0)
        }
        attempts = pool._backoff.failures
        start = time.monotonic()
        for _ in range(500):
            requests.send()
        await requests.ended()
        # Without a pause there would be hundreds of attempts; the first pause is at least 25 ms.
        assert pool._backoff.failures <= attempts + 1 + (time.monotonic() - start) / 0.025


async def test_a_refusal_does_not_wait_for_the_sweep() -> None:
    pool = HttpPool("127.0.0.1", free_port(), connections_max=4, timeout_s=5)  # never started: no sweep
    requests = Outcomes(pool)
    for _ in range(10):
        requests.send()
    assert {(o.kind, o.reason) for o in await requests.ended()} == {("not_sent", "refused")}
    await pool.stop(0)


async def test_a_server_that_comes_back_is_found() -> None:
    port = free_port()
    async with pool_to(port) as pool:
        requests = Outcomes(pool)
        assert (await requests.one()).reason == "refused"

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"{}")
            writer.write(OK)

        server = await asyncio.start_server(serve, "127.0.0.1", port)
        async with asyncio.timeout(60):
            while (await requests.one()).kind != "answered":  # noqa: ASYNC110 - nobody signals it
                await asyncio.sleep(0.005)
        server.close()


async def test_idle_connections_are_closed() -> None:
    async with serving(ok) as server, pool_to(server.port, idle_s=0.05, timeout_s=1) as pool:
        requests = Outcomes(pool)
        for _ in range(4):
            requests.send()
        await requests.ended()
        await until(lambda: pool.connections == 0)
        assert (await requests.one()).status == 200


async def test_idle_connections_that_the_server_closes_are_noticed() -> None:
    async with serving(ok) as server, pool_to(server.port, idle_s=60) as pool:
        requests = Outcomes(pool)
        for _ in range(4):
            requests.send()
        await requests.ended()
        server.close_all()
        await until(lambda: pool.connections == 0)
        assert (await requests.one()).status == 200


async def test_a_write_that_an_idle_reset_connection_refuses_moves_to_the_next_connection() -> None:
    loop = asyncio.get_running_loop()

    async def answer_next(listener: socket.socket) -> socket.socket:
        sock, _ = await loop.sock_accept(listener)
        await loop.sock_recv(sock, 1000)
        await loop.sock_sendall(sock, OK)
        return sock

    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        async with pool_to(listener.getsockname()[1]) as pool:
            requests = Outcomes(pool)
            for _ in range(3):
                requests.send()
            stale = [await answer_next(listener) for _ in range(3)]
            await requests.ended()
            assert pool.connections == 3
            for sock in stale:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                sock.close()
            # No await since: the pool cannot have noticed. The kernel has, on loopback.
            requests.send()
            fresh = await asyncio.wait_for(answer_next(listener), 60)
            assert [outcome.kind for outcome in await requests.ended()] == ["answered"] * 4
            fresh.close()


async def test_a_request_into_a_close_under_way_is_unanswered() -> None:
    """The server's FIN and our request cross: it may or may not have been acted on."""
    async with serving(ok) as server, pool_to(server.port, connections_max=1) as pool:
        requests = Outcomes(pool)
        await requests.one()
        server.close_all()
        for _ in range(20):  # until the FIN is out, though unread by the pool
            requests.send()
        outcomes = await requests.ended()
        assert {(o.kind, o.reason) for o in outcomes[1:]} <= {
            ("unanswered", "closed"), ("unanswered", "reset"), ("answered", ""),
        }  # fmt: skip
        answered = sum(outcome.kind == "answered" for outcome in outcomes)
        assert len(server.bodies) == answered


async def test_stopping_waits_for_answers_and_ends_the_rest() -> None:
    go = asyncio.Event()

    async def on_go(body: bytes, writer: asyncio.StreamWriter) -> bytes | None:
        await go.wait()
        return OK if body == b"answered" else None

    async with serving(on_go) as server, pool_to(server.port, connections_max=2) as pool:
        requests = Outcomes(pool)
        for body in (b"answered", b"never", b"waits", b"waits"):
            requests.send(body)
        await until(lambda: len(server.bodies) == 2)
        stopping = asyncio.create_task(pool.stop(0.3))
        await requests.wait(lambda: len(requests.all) == 2)
        assert {(o.kind, o.reason) for o in requests.all} == {("not_sent", "stopped")}
        go.set()
        await stopping
        outcomes = await requests.ended()
        assert [o.kind for o in outcomes] == ["answered", "unanswered", "not_sent", "not_sent"]
        assert outcomes[1].reason == "stopped"
        assert (await requests.one()).reason == "stopped"
        await pool.stop(0.3)
        assert pool.connections == 0


async def test_stopping_does_not_wait_when_nothing_is_in_flight() -> None:
    async with serving(ok) as server, pool_to(server.port) as pool:
        await Outcomes(pool).one()
        async with asyncio.timeout(60):
            await pool.stop(600)


async def test_a_stop_that_is_canceled_still_ends_every_request() -> None:
    async with serving(silent) as server, pool_to(server.port) as pool:
        requests = Outcomes(pool)
        requests.send()
        await until(lambda: len(server.bodies) == 1)
        stopping = asyncio.create_task(pool.stop(60))
        await asyncio.sleep(0)
        stopping.cancel()
        assert (await requests.ended())[0].reason == "stopped"


async def test_an_address_that_does_not_exist_is_not_sent() -> None:
    pool = HttpPool("no-such-host.invalid", 80, connections_max=2, timeout_s=5)
    pool.start()
    outcome = await Outcomes(pool).one()
    assert (outcome.kind, outcome.reason) == ("not_sent", "unreachable")
    await pool.stop(1)
