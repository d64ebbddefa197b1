"""Every call on a Redis link ends in its answer or in Unavailable, whatever moment the link dies.

A scripted server counts the bytes of the exchange and dies after each of them, in each way
that TCP knows. On both event loops: they disagree on what a write to a dead transport does.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, cast

import hiredis
import pytest
import uvloop

from engine.errors import Unavailable
from engine.stores.redis.link import RedisLink

LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
# How a server that will say nothing more leaves: orderly, by a reset, not at all, or talking nonsense.
WAYS = ("fin", "rst", "silence", "nonsense")
TIMEOUT_S = 0.4
# Beyond any deadline of a link here: a call that has not ended by then hangs.
HANGS_S = 20.0
HANDSHAKE = b"+OK\r\n+PONG\r\n"
TEXTS = [b"", b"one", b"*2\r\n", b"x" * 30]
REPLIES = b"".join(b"$%d\r\n%s\r\n" % (len(text), text) for text in TEXTS)


class Server(asyncio.Protocol):
    """One connection: answers until `said_max` bytes are written or `heard_max` read, then dies."""

    def __init__(self, way: str, said_max: int | None, heard_max: int | None) -> None:
        self._way = way
        self._left = said_max
        self._hear = heard_max
        self._reader = hiredis.Reader()
        self._dead = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        if self._left == 0 or self._hear == 0:
            self._die()

    def data_received(self, data: bytes) -> None:
        if self._dead:
            return
        if self._hear is not None:
            data = data[: self._hear]
            self._hear -= len(data)
        self._reader.feed(data)
        while (command := self._reader.gets()) is not False and not self._dead:
            self._say(self._answer(command))
        if self._hear == 0:
            self._die()

    def _answer(self, command: list[bytes]) -> bytes:
        if command[0] == b"CLIENT":
            return b"+OK\r\n"
        return b"+PONG\r\n" if command[0] == b"PING" else b"$%d\r\n%s\r\n" % (len(command[1]), command[1])

    def _say(self, answer: bytes) -> None:
        if self._left is None:
            self._transport.write(answer)
            return
        self._transport.write(answer[: self._left])
        self._left -= min(self._left, len(answer))
        if self._left == 0:
            self._die()

    def _die(self) -> None:
        self._dead = True
        if self._way == "fin":
            self._transport.close()
        elif self._way == "rst":
            # Reset at once, with what was written before it still on its way.
            linger = struct.pack("ii", 1, 0)
            self._transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            self._transport.abort()
        elif self._way == "nonsense":
            self._transport.write(b"$-77\r\n*3\r\n")


class Scene:
    """A link, and a server for it that dies once and is well from the next connection on."""

    def __init__(self, way: str, *, said_max: int | None = None, heard_max: int | None = None) -> None:
        self._faults: list[tuple[int | None, int | None]] = [(said_max, heard_max)]
        self._way = way

    async def __aenter__(self) -> RedisLink:
        def serve() -> Server:
            return Server(self._way, *(self._faults.pop() if self._faults else (None, None)))

        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(serve, "127.0.0.1", 0)
        port = self._server.sockets[0].getsockname()[1]
        self._link = RedisLink(f"redis://127.0.0.1:{port}", timeout_s=TIMEOUT_S, name="cut")
        return self._link

    async def __aexit__(self, *_: object) -> None:
        await self._link.close()
        self._server.close()


async def echoed(link: RedisLink, way: str = "") -> bool:
    """Whether a pipeline of echoes was answered; the answer must be right when there is one."""
    try:
        answers = await link.batch([("ECHO", text) for text in TEXTS])
        # Nonsense in the middle of a text is a text.
        assert answers == TEXTS or way == "nonsense"
    except Unavailable:
        return False
    return True


async def survives(way: str, said_max: int | None, heard_max: int | None) -> None:
    """Calls that share the connect, one that comes after it, and calls of the time after the death."""
    async with Scene(way, said_max=said_max, heard_max=heard_max) as link:
        await asyncio.gather(*(later(link, way, turns) for turns in (0, 0, 1, 30)))
        # One more may find out that the connection is dead, and on a slow machine a few may not be
        # answered in their short time; then the link makes another connection.
        for _ in range(100):
            if await echoed(link, way):
                return
            await asyncio.sleep(0.05)
        raise AssertionError("The link does not come back.")


async def later(link: RedisLink, way: str, turns: int) -> bool:
    for _ in range(turns):
        await asyncio.sleep(0)
    return await echoed(link, way)


def on(loop: str, scene: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run it on this loop; nothing may be left for the loop's own handler of errors."""
    unhandled: list[dict[str, Any]] = []

    async def watched() -> None:
        running = asyncio.get_running_loop()
        running.set_exception_handler(lambda _, context: unhandled.append(context))
        async with asyncio.timeout(HANGS_S):
            await scene()

    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        runner.run(watched())
    assert unhandled == []


async def side_by_side(scenes: list[Awaitable[None]]) -> None:
    await asyncio.gather(*scenes)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("loop", LOOPS)
def test_a_server_that_dies_after_any_byte_it_said(loop: str, way: str) -> None:
    cuts = range(len(HANDSHAKE) + len(REPLIES) + 8)
    on(loop, lambda: side_by_side([survives(way, cut, None) for cut in cuts]))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("loop", LOOPS)
def test_a_server_that_dies_after_any_byte_it_heard(loop: str, way: str) -> None:
    on(loop, lambda: side_by_side([survives(way, None, cut) for cut in range(0, 260, 2)]))


@pytest.mark.parametrize("loop", LOOPS)
def test_a_link_that_dies_right_after_its_handshake_refuses_the_batch(loop: str) -> None:
    """Nothing was written of it, and no event of that connection comes any more."""

    async def scene() -> None:
        for way in ("fin", "rst"):
            async with Scene(way, said_max=len(HANDSHAKE)) as link:
                await link.start()
                wire = link._wire
                assert wire is not None
                wire.fail("died before the first batch.")
                with pytest.raises(Unavailable):
                    await wire.post(b"*1\r\n$4\r\nPING\r\n", 1, asyncio.get_running_loop().time() + 1)

    on(loop, scene)


@pytest.mark.parametrize("loop", LOOPS)
def test_a_link_that_is_closed_at_any_turn_of_a_call(loop: str) -> None:
    async def closed_after(turns: int) -> None:
        async with Scene("fin") as link:
            calls = [asyncio.create_task(echoed(link)) for _ in range(3)]
            for _ in range(turns):
                await asyncio.sleep(0)
            await link.close()
            await asyncio.gather(*calls)
            with pytest.raises(Unavailable, match="closed"):
                await link.call("PING")

    on(loop, lambda: side_by_side([closed_after(turns) for turns in range(60)]))


@pytest.mark.parametrize("loop", LOOPS)
def test_a_call_waits_for_a_connection_and_for_room_no_longer_than_its_own_time(loop: str) -> None:
    async def scene() -> None:
        # Nobody answers the handshake: the connect has 30 seconds, the call its own.
        async with Scene("silence", said_max=0) as link:
            link._timeout_s = 30.0
            with pytest.raises(Unavailable, match="in time"):
                await link.call("PING", timeout_s=0.05)
        # A long call has filled the write buffer.
        async with Scene("fin") as link:
            await link.start()
            wire = link._wire
            assert wire is not None
            wire.pause_writing()
            with pytest.raises(Unavailable, match="in time"):
                await link.call("PING", timeout_s=0.05)
            wire.resume_writing()
            assert await link.call("PING") == b"PONG"

    on(loop, scene)


@pytest.mark.parametrize("loop", LOOPS)
def test_a_caller_canceled_while_the_link_closes_stays_canceled(loop: str) -> None:
    async def scene() -> None:
        async with Scene("silence", said_max=0) as link:
            call = asyncio.create_task(link.call("PING"))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            call.cancel()
            link._closed = True
            with pytest.raises(asyncio.CancelledError):
                await call

    on(loop, scene)


@pytest.mark.parametrize("loop", LOOPS)
def test_calls_without_any_time_left_end_in_unavailable_each(loop: str) -> None:
    """The first of them sets the timer that the second one looks at."""

    async def scene() -> None:
        async with Scene("fin") as link:
            await link.start()
            calls = (link.batch([("ECHO", b"late")], timeout_s=0.0) for _ in range(2))
            outcomes = await asyncio.gather(*calls, return_exceptions=True)
            assert [type(outcome) for outcome in outcomes] == [Unavailable, Unavailable]

    on(loop, scene)
