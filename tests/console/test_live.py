"""The live status: once for all who look, and none of them holds anything up."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest

from engine.console import live
from engine.console.live import VIEWERS_MAX, Live
from engine.errors import Unavailable
from engine.organisations import NewOrganisation
from engine.stores.postgres.directory import Directory
from engine.stores.redis.link import RedisLink
from tests.api.world import ADMIN_KEY
from tests.api.world import until as until_in
from tests.console.world import Console, LoggedIn, open_console


async def until(holds: Callable[[], bool]) -> None:
    """Wait for a state, however slow the machine is."""
    await until_in(holds, timeout_s=60)


class Source:
    """A status that is there when a test says so, and knows how often it was asked for."""

    def __init__(self) -> None:
        self.asked = 0
        self.answers: asyncio.Queue[object] = asyncio.Queue()

    async def status(self) -> object:
        self.asked += 1
        answer = await self.answers.get()
        if isinstance(answer, Exception):
            raise answer
        return answer


@asynccontextmanager
async def look(console: Console, who: LoggedIn) -> AsyncIterator[aiohttp.ClientResponse]:
    """One who looks, and has read the beginning of the answer."""
    url, headers = console.url("/console/live"), who.headers(csrf="")
    async with console.client.get(url, headers=headers) as answer:
        assert answer.status == 200, await answer.read()
        assert await next_part(answer) == b"retry: 2000"
        yield answer


async def next_part(answer: aiohttp.ClientResponse) -> bytes:
    """The next event or comment; b"" at the end of an answer that is whole."""
    return (await answer.content.readuntil(b"\n\n")).strip()


async def ends(answer: aiohttp.ClientResponse) -> None:
    while await next_part(answer):
        pass


async def test_ten_viewers_cost_what_one_costs() -> None:
    source, draining = Source(), asyncio.Event()
    one_live = Live(source.status, draining, each_s=0)
    with ExitStack() as held:
        viewers = [held.enter_context(one_live.viewer()) for _ in range(10)]
        for number in range(3):
            source.answers.put_nowait({"number": number})
            events = await asyncio.gather(*(viewer.next() for viewer in viewers))
            assert set(events) == {b'event: status\ndata: {"number":%d}\n\n' % number}
    assert source.asked <= 4, "one for each event, and the one that is under way"
    draining.set()


async def test_nothing_is_computed_when_nobody_looks() -> None:
    source, draining = Source(), asyncio.Event()
    one_live = Live(source.status, draining, each_s=0)
    with one_live.viewer() as viewer:
        source.answers.put_nowait({})
        assert await viewer.next()
    source.answers.put_nowait({})
    await until(lambda: not is_showing())
    assert source.asked <= 2
    with one_live.viewer() as viewer:
        source.answers.put_nowait({"again": True})
        events = [await viewer.next()]
        source.answers.put_nowait({"again": True})
        events.append(await viewer.next())
        assert b'event: status\ndata: {"again":true}\n\n' in events
    draining.set()


def is_showing() -> bool:
    """Whether anything is computed for viewers."""
    return any(one.get_name() == "live status" for one in asyncio.all_tasks())


async def test_a_status_that_cannot_be_had_is_a_comment_and_the_next_one_comes() -> None:
    source, draining = Source(), asyncio.Event()
    one_live = Live(source.status, draining, each_s=0)
    with one_live.viewer() as viewer:
        source.answers.put_nowait(Unavailable("away"))
        event = await viewer.next()
        assert event is not None
        assert event.startswith(b":")
        source.answers.put_nowait({})
        assert await viewer.next() == b"event: status\ndata: {}\n\n"
    draining.set()


async def test_a_viewer_that_is_late_gets_the_newest_alone() -> None:
    source, draining = Source(), asyncio.Event()
    one_live = Live(source.status, draining, each_s=0)
    with one_live.viewer() as late, one_live.viewer() as other:
        for number in range(5):
            source.answers.put_nowait(number)
            await other.next()
        assert await late.next() == b"event: status\ndata: 4\n\n"
    draining.set()


async def test_who_looks_gets_what_the_admin_call_answers(console: Console) -> None:
    who = await console.log_in(ADMIN_KEY)
    reply = await console.ask("GET", "/console/api/v1/admin/status", headers=who.headers())
    async with look(console, who) as answer:
        assert answer.headers["Content-Type"] == "text/event-stream"
        assert answer.headers["Cache-Control"] == "no-store"
        kind, data = (await next_part(answer)).split(b"\n")
        assert kind == b"event: status"
        assert msgspec.json.decode(data.removeprefix(b"data: ")) == reply.body


async def test_an_organisation_has_none(console: Console, acme: NewOrganisation) -> None:
    who = await console.log_in(acme.api_key)
    reply = await console.ask("GET", "/console/live", headers=who.headers())
    assert (reply.status, reply.body["code"]) == (403, "scope_missing")


@asynccontextmanager
async def showing(
    directory: Directory, link: RedisLink, pages: Path, **changes: Any
) -> AsyncIterator[tuple[Console, Source, LoggedIn]]:
    """A console of one's own whose status is there when a test says so."""
    source = Source()
    changes = {"status": source.status, "draining": asyncio.Event()} | changes
    async with open_console(directory, link, pages, **changes) as console:
        yield console, source, await console.log_in(ADMIN_KEY)


async def test_a_session_that_ends_ends_its_answers_with_the_next_event(
    directory: Directory, link: RedisLink, pages: Path
) -> None:
    async with showing(directory, link, pages) as (console, source, who):
        other = await console.log_in(ADMIN_KEY)
        async with look(console, who) as answer, look(console, other) as goes_on:
            await console.ask("DELETE", "/console/session", headers=who.headers())
            source.answers.put_nowait({})
            assert await next_part(answer) == b""
            assert await next_part(goes_on) == b"event: status\ndata: {}"


async def test_so_many_may_look_and_there_is_room_when_one_hangs_up(
    directory: Directory, link: RedisLink, pages: Path
) -> None:
    async with showing(directory, link, pages) as (console, source, who), AsyncExitStack() as stack:
        for _ in range(VIEWERS_MAX - 1):
            await stack.enter_async_context(look(console, who))
        async with look(console, who):
            reply = await console.ask("GET", "/console/live", headers=who.headers())
            assert (reply.status, reply.body["code"]) == (503, "unavailable")
            assert int(reply.headers["Retry-After"]) > 0
        # Whoever hung up is noticed when something is written.
        source.answers.put_nowait({})
        while reply.status == 503:
            source.answers.put_nowait({})
            async with console.client.get(
                console.url("/console/live"), headers=who.headers(csrf="")
            ) as answer:
                reply = reply._replace(status=answer.status)
        assert reply.status == 200


async def test_all_answers_end_at_once_when_the_process_drains(
    directory: Directory, link: RedisLink, pages: Path
) -> None:
    async with showing(directory, link, pages) as (console, _, who):
        async with look(console, who) as first, look(console, who) as second:
            console.services.draining.set()
            await asyncio.gather(ends(first), ends(second))
        reply = await console.ask("GET", "/console/live", headers=who.headers())
        assert reply.status == 503


def silent_reader(console: Console, who: LoggedIn) -> socket.socket:
    """One who asks to look, and reads nothing."""
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
    connection.connect(("127.0.0.1", console.port))
    head = f"GET /console/live HTTP/1.1\r\nHost: x\r\nCookie: {who.headers()['Cookie']}\r\n\r\n"
    connection.sendall(head.encode())
    return connection


# More than the buffers of a socket hold on both sides.
LARGE = "x" * 8_000_000


async def test_a_viewer_that_reads_nothing_is_given_up(
    directory: Directory, link: RedisLink, pages: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "STALL_S", 0.05)
    async with showing(directory, link, pages) as (console, source, who):
        with silent_reader(console, who) as connection:
            await until(lambda: source.asked > 0)
            source.answers.put_nowait(LARGE)

            def is_alone() -> bool:
                source.answers.put_nowait({})
                return not is_showing()

            # Nobody looks any more, so that nothing is computed.
            await until(is_alone)
            connection.setblocking(False)
            loop, received = asyncio.get_running_loop(), 0
            with suppress(ConnectionError):
                while part := await loop.sock_recv(connection, 1 << 20):
                    received += len(part)
            assert received < len(LARGE)


async def test_a_viewer_that_reads_nothing_does_not_hold_up_the_end_of_the_process(
    directory: Directory, link: RedisLink, pages: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its connection ends by itself, and not with the time-out of a server that stops."""
    monkeypatch.setattr(live, "STALL_S", 3_600.0)
    async with showing(directory, link, pages) as (console, source, who):
        with silent_reader(console, who):
            await until(lambda: source.asked > 0)
            source.answers.put_nowait(LARGE)
            async with look(console, who) as answer:
                # Whoever reads has the event, so that the other is being written to.
                reading = asyncio.create_task(ends(answer))
                await until(lambda: source.asked > 1)
                console.services.draining.set()
                await reading
            # That of the other has ended with its answer.
            await until(lambda: console.open_connections() == 0)
