"""Connecting to a name of which one address swallows what is sent to it; real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator

import pytest

from engine.hosts import resolving
from engine.hosts.connecting import connect
from engine.providers.http_client.pool import HttpOutcome, HttpPool
from tests.providers.scripted import OK, ScriptedServer
from tests.providers.smpp.scripted_smsc import ScriptedSmsc, provider_to

NAME = "carrier.example"


@contextlib.contextmanager
def silent_address(port: int) -> Iterator[None]:
    """An address at which no connection comes about and none is refused: its backlog is full."""
    with contextlib.ExitStack() as stack:
        hole = stack.enter_context(socket.socket())
        hole.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        hole.bind(("127.0.0.2", port))
        hole.listen(0)
        for _ in range(4):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(("127.0.0.2", port))
        yield


def name_of(monkeypatch: pytest.MonkeyPatch, *addresses: str) -> None:
    """From now on NAME has these addresses, in this order."""

    def found(host: str, port: int, **_: object) -> list[tuple[object, ...]]:
        assert host == NAME
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in addresses]

    monkeypatch.setattr(resolving.socket, "getaddrinfo", found)


async def test_the_next_address_is_tried_when_one_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    async def script(body: bytes, writer: asyncio.StreamWriter) -> bytes:
        return OK

    server = ScriptedServer(script)
    listener = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    with silent_address(port):
        name_of(monkeypatch, "127.0.0.2", "127.0.0.1")
        pool = HttpPool(NAME, port, connections_max=1, timeout_s=10.0)
        pool.start()
        got: asyncio.Future[HttpOutcome] = asyncio.get_running_loop().create_future()
        pool.request(b"GET", b"/", b"", b"", got.set_result)
        assert (await got).kind == "answered"
        await pool.stop(0.1)
    listener.close()
    server.close_all()


async def test_a_carrier_is_bound_at_the_address_that_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    carrier = ScriptedSmsc()
    await carrier.listen()
    with silent_address(carrier.port):
        name_of(monkeypatch, "127.0.0.2", "127.0.0.1")
        async with provider_to(carrier.port, host=NAME) as (_, verdicts):
            assert (await verdicts.one()).kind == "accepted"
    carrier.close()


async def test_no_address_that_answers_is_an_os_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    name_of(monkeypatch, "127.0.0.2", "127.0.0.1")
    with pytest.raises(OSError, match="onnect"):
        await connect(asyncio.Protocol, NAME, port)
