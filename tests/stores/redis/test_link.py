"""The packed pipeline keeps replies in order and tells the truth about lost ones."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator

import pytest
import uvloop

from engine.errors import ConfigError, Unavailable
from engine.stores.redis.link import RedisLink, load_functions
from engine.stores.redis.lua_libraries import versioned
from engine.stores.redis.url import parse_url
from engine.stores.redis.wire import OutOfMemory, ReplyError, Wire
from tests.adversity.proxy import Proxy

DATABASE = 11


@pytest.fixture
def url(redis_url: str) -> str:
    return redis_url.rpartition("/")[0] + f"/{DATABASE}"


@pytest.fixture
async def link(url: str) -> AsyncIterator[RedisLink]:
    link = RedisLink(url, timeout_s=5, name="test link")
    await link.start()
    await link.call("FLUSHDB")
    yield link
    await link.close()


@pytest.fixture
async def proxy(url: str) -> AsyncIterator[Proxy]:
    async with Proxy.to(url) as proxy:
        yield proxy


@pytest.fixture
async def far(url: str, proxy: Proxy) -> AsyncIterator[RedisLink]:
    """A link through the proxy."""
    link = RedisLink(proxy.url(url), timeout_s=5, name="far")
    yield link
    await link.close()


async def test_replies_come_in_order_and_an_error_stands_in_its_place(link: RedisLink) -> None:
    set_, wrong, got, empty = await link.batch(
        [("SET", "a", 1), ("LPUSH", b"a", "x"), ("GET", "a"), ("LRANGE", "none", 0, -1)]
    )
    assert (set_, got, empty) == (b"OK", b"1", [])
    assert isinstance(wrong, ReplyError)
    assert wrong.code == "WRONGTYPE"


async def test_an_empty_batch_asks_nothing(link: RedisLink) -> None:
    assert await link.batch([]) == []


async def test_a_single_call_raises_the_error_reply(link: RedisLink) -> None:
    with pytest.raises(ReplyError, match="unknown command"):
        await link.call("NOSUCH")
    assert await link.call("PING") == b"PONG"


async def test_connection_has_the_name_and_database_asked_for(link: RedisLink) -> None:
    info = (await link.call("CLIENT", "INFO")).decode()
    assert "name=test-link" in info
    assert f"db={DATABASE}" in info


async def test_many_batches_in_flight_each_get_their_own_replies(link: RedisLink) -> None:
    async def echo(n: int) -> list[bytes]:
        return await link.batch([("ECHO", f"{n}.{i}") for i in range(n % 7 + 1)])

    answers = await asyncio.gather(*(echo(n) for n in range(200)))
    assert answers == [[b"%d.%d" % (n, i) for i in range(n % 7 + 1)] for n in range(200)]


async def test_replies_and_requests_far_larger_than_any_buffer(link: RedisLink) -> None:
    big = bytes(range(256)) * 80_000
    sent = [link.call("SET", f"big{n}", big) for n in range(4)]
    assert await asyncio.gather(*sent) == [b"OK"] * 4
    assert await link.batch([("GET", f"big{n}") for n in range(4)]) == [big] * 4


@pytest.mark.parametrize("together", [False, True])
async def test_callers_wait_while_the_write_buffer_is_full(url: str, proxy: Proxy, together: bool) -> None:
    # All go through this one process, twice: a machine that has no core for it takes more than seconds.
    far = RedisLink(proxy.url(url), timeout_s=60, name="far", together=together)
    await far.start()
    proxy.stall(requests=True)
    calls = [asyncio.create_task(far.call("ECHO", b"x" * 3_000_000)) for _ in range(12)]
    done, _ = await asyncio.wait(calls, timeout=0.3)
    assert not done
    wire = far._wire
    assert wire is not None
    assert wire.paused
    # Not all of them were taken into memory of ours.
    assert len(wire._batches) < len(calls)
    proxy.flow()
    assert [len(answer) for answer in await asyncio.gather(*calls)] == [3_000_000] * 12
    await far.close()


async def test_a_cut_in_the_middle_of_a_reply_fails_all_in_flight_and_the_next_call_reconnects(
    far: RedisLink, link: RedisLink, proxy: Proxy
) -> None:
    await far.start()
    proxy.truncate_after(1000)
    first = asyncio.create_task(far.batch([("INCR", "n"), ("ECHO", b"y" * 5000)]))
    second = asyncio.create_task(far.call("INCR", "n"))
    for task in (first, second):
        with pytest.raises(Unavailable):
            await asyncio.wait_for(task, 60)
    # The outcome was unknown to the caller: Redis did count.
    assert await link.call("GET", "n") == b"2"
    assert await far.call("INCR", "n") == 3
    assert proxy.accepted == 2


async def test_no_answer_in_time_is_unavailable_and_late_replies_are_not_mistaken_for_others(
    far: RedisLink, proxy: Proxy
) -> None:
    await far.start()
    proxy.stall()
    with pytest.raises(Unavailable, match="no answer in time"):
        await far.call("ECHO", "late", timeout_s=0.1)
    proxy.flow()
    assert await far.call("ECHO", "fresh") == b"fresh"


async def test_a_shorter_time_out_behind_a_longer_one_is_kept(far: RedisLink, proxy: Proxy) -> None:
    await far.start()
    proxy.stall()
    long = asyncio.create_task(far.call("PING", timeout_s=300))
    await asyncio.sleep(0)
    with pytest.raises(Unavailable):
        await asyncio.wait_for(far.call("PING", timeout_s=0.1), 60)
    with pytest.raises(Unavailable):
        await asyncio.wait_for(long, 60)


async def test_a_blocking_command_may_take_longer_than_the_links_time_out(url: str) -> None:
    link = RedisLink(url, timeout_s=0.2, name="blocking")
    assert await link.call("BLPOP", "nothing-here", "0.4", timeout_s=3) is None
    await link.close()


async def test_callers_that_come_while_connecting_share_one_connection(far: RedisLink, proxy: Proxy) -> None:
    assert await asyncio.gather(*(far.call("PING") for _ in range(20))) == [b"PONG"] * 20
    assert proxy.accepted == 1


async def test_a_canceled_call_leaves_the_link_in_step(far: RedisLink, proxy: Proxy) -> None:
    await far.start()
    proxy.stall()
    canceled = asyncio.create_task(far.call("ECHO", "canceled"))
    kept = asyncio.create_task(far.call("ECHO", "kept"))
    await asyncio.sleep(0)
    canceled.cancel()
    proxy.flow()
    assert await kept == b"kept"
    assert canceled.cancelled()
    assert proxy.accepted == 1


async def test_a_canceled_caller_does_not_spoil_the_connect_of_the_others(far: RedisLink) -> None:
    impatient = asyncio.create_task(far.call("PING"))
    patient = asyncio.create_task(far.call("PING"))
    await asyncio.sleep(0)
    impatient.cancel()
    assert await patient == b"PONG"


async def test_reconnects_are_paced_while_the_server_is_away(far: RedisLink, proxy: Proxy) -> None:
    proxy.refuse()
    began = time.monotonic()
    attempts = 0
    while time.monotonic() - began < 0.5:
        with pytest.raises(Unavailable):
            await far.call("PING")
        attempts += 1
    assert attempts <= 6  # 20, 40, 80, 160, 320 ms
    proxy.admit()
    assert await far.call("PING") == b"PONG"


async def test_an_unreachable_server_is_named_without_its_password() -> None:
    link = RedisLink("redis://:hush@127.0.0.1:1/0", timeout_s=1, name="x")
    with pytest.raises(Unavailable) as caught:
        await link.start()
    assert "127.0.0.1:1" in str(caught.value)
    assert "hush" not in str(caught.value)


async def test_a_wrong_password_is_told_as_redis_tells_it(url: str) -> None:
    scheme, _, rest = url.partition("://:")
    link = RedisLink(f"{scheme}://:wrong@{rest.partition('@')[2]}", timeout_s=2, name="x")
    with pytest.raises(ReplyError, match="WRONGPASS"):
        await link.start()


@pytest.mark.parametrize(
    "refusal", ["LOADING Redis is loading", "READONLY You can't write against a replica"]
)
async def test_a_server_that_cannot_serve_now_is_unavailable(refusal: str) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"PING\r\n")
        writer.write(b"+OK\r\n+PONG\r\n")
        await reader.readuntil(b"GET\r\n")
        writer.write(f"-{refusal}\r\n".encode())
        await reader.read()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    link = RedisLink(f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}", timeout_s=2, name="x")
    with pytest.raises(Unavailable, match=refusal.partition(" ")[0]):
        await link.call("GET", "a")
    await link.close()
    server.close()


async def test_more_replies_than_were_asked_for_end_the_connection() -> None:
    """Else every later reply would go to the wrong caller."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"PING\r\n")
        writer.write(b"+OK\r\n+PONG\r\n")
        await reader.readuntil(b"ONE\r\n")
        writer.write(b"+one\r\n+stray\r\n")
        await reader.read()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    link = RedisLink(f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}", timeout_s=2, name="x")
    assert await link.call("ECHO", "ONE") == b"one"
    wire = link._wire
    assert wire is not None
    assert wire.failure is not None
    await link.close()
    server.close()


async def test_a_closed_link_stays_closed(link: RedisLink) -> None:
    await link.close()
    await link.close()
    with pytest.raises(Unavailable, match="closed"):
        await link.call("PING")


async def test_functions_can_be_loaded_again_and_again(link: RedisLink) -> None:
    await load_functions(link)
    await load_functions(link)
    assert await link.call("FCALL", versioned("beat"), 1, "holders:{0}", "nobody") == 0


async def test_lost_functions_are_loaded_and_whoever_met_that_tries_again(link: RedisLink) -> None:
    await load_functions(link)
    await link.call("FUNCTION", "FLUSH")
    beat = ("FCALL", versioned("beat"), 1, "holders:{0}", "nobody")
    both = await asyncio.gather(link.batch([beat]), link.batch([beat, ("PING",)]), return_exceptions=True)
    assert [type(e) for e in both] == [Unavailable, Unavailable]
    assert await link.batch([beat, ("PING",)]) == [0, b"PONG"]


async def test_what_redis_refuses_for_want_of_memory_is_named_and_the_connection_stays(
    link: RedisLink,
) -> None:
    await link.call("SET", "here", "x")
    await link.call("CONFIG", "SET", "maxmemory", 1)
    try:
        before = link._wire
        reading = asyncio.create_task(link.batch([("GET", "here")]))
        with pytest.raises(OutOfMemory) as refused:
            await link.batch([("GET", "here"), ("SET", "there", "x"), ("PING",)])
        first, second, third = refused.value.replies
        assert (first, second.code, third) == (b"x", "OOM", b"PONG")
        assert await reading == [b"x"]
        assert link._wire is before
        # What is loaded in this version is not loaded again, which Redis would refuse now.
        await link.call("CONFIG", "SET", "maxmemory", 0)
        await load_functions(link)
        await link.call("CONFIG", "SET", "maxmemory", 1)
        await load_functions(link)
    finally:
        await link.call("CONFIG", "SET", "maxmemory", 0)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://h:1/2", ("h", 1, "", False, "", "", 2)),
        ("redis://:p%40ss@h", ("h", 6379, "", False, "", "p@ss", 0)),
        ("rediss://me:pw@h:2/0", ("h", 2, "", True, "me", "pw", 0)),
        ("redis://[::1]:7/3", ("::1", 7, "", False, "", "", 3)),
        ("redis://h/?db=4", ("h", 6379, "", False, "", "", 4)),
        ("unix:///run/r.sock?password=pw&db=5", ("", 6379, "/run/r.sock", False, "", "pw", 5)),
        ("unix://me:pw@/run/r.sock", ("", 6379, "/run/r.sock", False, "me", "pw", 0)),
    ],
)
def test_url_forms(url: str, expected: tuple[object, ...]) -> None:
    got = parse_url(url)
    assert (got.host, got.port, got.path, got.tls, got.user, got.password, got.database) == expected
    assert not got.password or got.password not in got.shown


@pytest.mark.parametrize(
    "url", ["", "http://h", "redis://h:port", "redis://h/one", "unix://", "redis://h?password=x", "h:6379"]
)
def test_a_wrong_url_is_a_configuration_error(url: str) -> None:
    with pytest.raises(ConfigError):
        parse_url(url)


def test_a_batch_whose_time_is_over_as_it_is_written_fails_and_harms_no_other() -> None:
    """uvloop has no timer for what is due already."""

    async def posted() -> None:
        loop = asyncio.get_running_loop()
        wire = Wire(loop, "test")
        ours, theirs = socket.socketpair()
        transport, _ = await loop.create_connection(lambda: wire, sock=ours)
        first = wire.post(b"*1\r\n$4\r\nPING\r\n", 1, loop.time() - 1)
        second = wire.post(b"*1\r\n$4\r\nPING\r\n", 1, loop.time() + 60)
        for batch in (first, second):
            with pytest.raises(Unavailable, match="no answer in time"):
                await batch
        transport.close()
        theirs.close()

    uvloop.run(posted())


class _Written(asyncio.Transport):
    """A transport that keeps what was written to it."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[bytes] = []
        self._is_closing = False

    def write(self, data: object) -> None:
        assert isinstance(data, bytes)
        self.writes.append(data)

    def is_closing(self) -> bool:
        return self._is_closing

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def abort(self) -> None:
        self._is_closing = True


async def test_what_is_sent_in_one_turn_goes_in_one_write_where_that_is_wanted() -> None:
    loop = asyncio.get_running_loop()
    wire, transport = Wire(loop, "test", together=True), _Written()
    wire.connection_made(transport)
    some = [wire.post(b"*1\r\n$4\r\n%b\r\n" % name, 1, loop.time() + 60) for name in (b"PING", b"TIME")]
    assert transport.writes == []
    await asyncio.sleep(0)
    assert transport.writes == [b"*1\r\n$4\r\nPING\r\n*1\r\n$4\r\nTIME\r\n"]
    wire.data_received(b"+1\r\n+2\r\n")
    assert [await batch for batch in some] == [[b"1"], [b"2"]]
    # One that has failed before its turn writes nothing.
    lost = wire.post(b"*1\r\n$4\r\nPING\r\n", 1, loop.time() + 60)
    wire.fail("lost.")
    with pytest.raises(Unavailable):
        await lost
    assert len(transport.writes) == 1
