"""Redis by hand-packed pipelines: one write, one future and one wake-up per batch.

redis-py costs about 12 µs of CPU a command on this path, `hiredis.pack_command` and
`hiredis.Reader` on a bare protocol about 3 µs, and nearly all traffic of the engine is
batches. Wire format: RESP2, https://redis.io/docs/latest/develop/reference/protocol-spec/

Under failure. A connection that breaks, times out or answers out of order is dropped
as a whole, and every batch in flight on it raises `Unavailable`. The outcome of such a batch
is unknown: some or all of its commands may have been applied. So every command sent here must be
safe to send again; the functions in `functions/queue` are. The next call connects again.

Every call ends within its own time, `timeout_s`. Waiting for a connection, for room in the
write buffer and for the answer are all part of it. A connection may die at any moment:

while it is made, or shakes hands         every call that waits for it raises `Unavailable`
after that, before a batch is written     that batch is refused and not sent
later                                     every batch in flight fails at once

Nothing is written to a connection that is known to be dead.

With sentinels (see `sentinel`), every connect asks them which server is the master, and asks that server
whether it is. A server that is a replica now, that loads its data or has lost its master says so in its
replies (`wire._PASSING`), and then the connection is dropped and the sentinels are asked again. So a
failover needs no operator.

Two answers are dealt with here, so that no caller needs to know them. "Function not found":
Redis was started again without its file. The functions are loaded, and the call raises
`Unavailable`, so that the caller tries again. "OOM": Redis is at `maxmemory` and refuses a
command. The call raises `OutOfMemory`, and the connection stays.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import Any, cast

import hiredis

from engine.clocks.backoff import Backoff
from engine.errors import Unavailable
from engine.histogram import Histogram
from engine.hosts.connecting import connect
from engine.redis_keys import FUNCTIONS_LOADED
from engine.stores.redis.lua_libraries import PATTERN, is_own, libraries, outdated
from engine.stores.redis.sentinel import find_master
from engine.stores.redis.url import RedisUrl, parse_url
from engine.stores.redis.wire import NoFunctions, OutOfMemory, ReplyError, Wire

Argument = bytes | str | int
Command = tuple[Argument, ...]

# First pause after a failed connect; doubles up to the second, seconds.
_PAUSE_S = 0.02
_PAUSE_MAX_S = 1.0
# With sentinels a connect may take this long, seconds: the address may be that of a machine that is gone.
_SENTINEL_CONNECT_S = 1.0


_pack_command = cast(Callable[[tuple[Argument, ...]], bytes], hiredis.pack_command)


def pack(commands: Iterable[Command]) -> bytes:
    """The commands as bytes in RESP2, one after another."""
    return b"".join(map(_pack_command, commands))


class RedisLink:
    """One connection, made when needed and again after it was lost.

    Several batches may be in flight; Redis answers them in order. A command that blocks
    in Redis delays all later ones: give it a link of its own, and a time-out longer than the
    block.
    """

    def __init__(self, url: str, *, timeout_s: float, name: str, together: bool = False) -> None:
        """`url`: see `engine.stores.redis.url`; ConfigError when it has none of its forms.
        `timeout_s` bounds a connect and, unless a call says otherwise, each answer.
        `name` is shown by CLIENT LIST and in errors. `together`: what is sent in one turn of the loop goes in
        one write, so that Redis has one turn for it, and one sync of its disk; it is written a turn later.
        """
        self._url: RedisUrl = parse_url(url)
        self._timeout_s = timeout_s
        self._name = name
        self._together = together
        self._wire: Wire | None = None
        self._connecting: asyncio.Task[Wire] | None = None
        self._backoff = Backoff(_PAUSE_S, _PAUSE_MAX_S)
        self._not_before = 0.0
        self._closed = False
        # How long batches take that are answered; None: nobody wants to know.
        self.round_trips: Histogram | None = None

    async def start(self) -> None:
        """Connect. Raises Unavailable, or ReplyError when the password or database is refused."""
        self._closed = False
        await self._connected()

    async def close(self) -> None:
        """Drop the connection; calls in flight raise Unavailable."""
        self._closed = True
        if self._connecting is not None:
            self._connecting.cancel()
            await asyncio.wait([self._connecting])
        if self._wire is not None:
            self._wire.fail("link closed.", "send")
            self._wire = None

    async def call(self, *arguments: Argument, timeout_s: float | None = None) -> Any:
        """One command. Raises ReplyError for an error reply, Unavailable when the outcome is unknown."""
        reply = (await self.send(_pack_command(arguments), 1, timeout_s=timeout_s))[0]
        if isinstance(reply, ReplyError):
            raise reply
        return reply

    async def batch(self, commands: Sequence[Command], *, timeout_s: float | None = None) -> list[Any]:
        """Send all commands in one write; their replies in order, an error reply as a ReplyError.

        Raises Unavailable when the outcome is unknown: the first so many of the commands may have
        been applied, from none to all. Raises OutOfMemory, with the replies, when Redis refused any
        of them for want of memory.
        """
        if not commands:
            return []
        return await self.send(pack(commands), len(commands), timeout_s=timeout_s)

    async def send(self, packed: bytes, replies: int, *, timeout_s: float | None = None) -> list[Any]:
        """As `batch`, for commands that the caller has packed itself; `replies` is how many they are.

        Canceled while waiting: the commands are sent, and their replies are discarded.
        """
        deadline = asyncio.get_running_loop().time() + (self._timeout_s if timeout_s is None else timeout_s)
        wire = self._wire
        if wire is None or wire.failure is not None or wire.paused:
            wire = await self._ready(deadline)
        began_s = time.monotonic()
        try:
            answers = await wire.post(packed, replies, deadline)
        except NoFunctions:
            await self._load_functions()
            raise Unavailable("Redis had lost the engine's functions; they are loaded again.") from None
        if self.round_trips is not None:
            self.round_trips.add(time.monotonic() - began_s)
        return answers

    async def _load_functions(self) -> None:
        try:
            await load_functions(self)
        except ReplyError as e:
            raise Unavailable(f"Redis does not take the engine's functions: {e}.", retry_after=1.0) from e

    async def _ready(self, deadline: float) -> Wire:
        """The live wire, with room in its write buffer. Raises Unavailable; nothing was sent then."""
        try:
            async with asyncio.timeout_at(deadline):
                wire = await self._connected()
                if wire.paused:
                    await wire.writable()
        except TimeoutError as e:
            raise Unavailable(f"Redis ({self._name}): not ready in time.", retry_after=_PAUSE_S) from e
        return wire

    async def _connected(self) -> Wire:
        """The live wire; callers that come while one connects share that attempt."""
        if self._closed:
            raise Unavailable(f"Redis ({self._name}): link closed.")
        if self._wire is not None and self._wire.failure is None:
            return self._wire
        if self._connecting is None:
            self._connecting = asyncio.create_task(self._connect(), name=f"redis connect {self._name}")
            self._connecting.add_done_callback(self._connect_done)
        connecting = self._connecting
        try:
            return await asyncio.shield(connecting)
        except asyncio.CancelledError:
            # Either our caller was canceled, or close() has canceled the attempt.
            if connecting.cancelled():
                raise Unavailable(f"Redis ({self._name}): link closed.") from None
            raise

    def _connect_done(self, task: asyncio.Task[Wire]) -> None:
        self._connecting = None
        if not task.cancelled():
            task.exception()

    async def _connect(self) -> Wire:
        """Connect and shake hands, after the pause that follows the last failure."""
        loop = asyncio.get_running_loop()
        await asyncio.sleep(self._not_before - loop.time())
        wire = Wire(loop, self._name, together=self._together)
        url, timeout_s = self._url, self._timeout_s
        try:
            if url.sentinels:
                url = await find_master(url, self._ask)
                timeout_s = min(timeout_s, _SENTINEL_CONNECT_S)
            async with asyncio.timeout(timeout_s):
                await _open(loop, url, wire)
                commands = url.handshake(self._name)
                if url.sentinels:
                    commands.append(("ROLE",))
                replies = await wire.post(pack(commands), len(commands), loop.time() + timeout_s)
                _refuse(url, replies)
        except BaseException as e:
            wire.fail("could not connect.")
            self._not_before = loop.time() + self._backoff.next()
            if isinstance(e, OSError):  # TimeoutError is one
                reason = e.strerror or str(e) or "no answer in time"
                if isinstance(e, ssl.SSLCertVerificationError):
                    reason = f"its certificate is not trusted ({e.verify_message}), see redis.tls_ca_file"
                raise Unavailable(f"Redis at {self._url.shown} cannot be reached: {reason}.", 1.0) from e
            raise
        self._backoff.reset()
        self._wire = wire
        return wire

    async def _ask(self, sentinel: RedisUrl, command: Command) -> Any:
        """The reply of a sentinel to one command, on a connection of its own: see `sentinel.Ask`."""
        loop = asyncio.get_running_loop()
        wire = Wire(loop, f"sentinel {sentinel.shown}")
        try:
            await _open(loop, sentinel, wire)
            commands = [*sentinel.authentication(), command]
            replies = await wire.post(pack(commands), len(commands), loop.time() + self._timeout_s)
            _refuse(sentinel, replies)
            return replies[-1]
        finally:
            wire.fail("hung up.", "send")


async def _open(loop: asyncio.AbstractEventLoop, url: RedisUrl, wire: Wire) -> None:
    if url.path:
        await loop.create_unix_connection(lambda: wire, url.path)
    else:
        await connect(lambda: wire, url.host, url.port, tls=url.tls_context())


def _refuse(url: RedisUrl, replies: list[Any]) -> None:
    """Raises the ReplyError among the replies, and Unavailable when ROLE says that this is no master."""
    for reply in replies:
        if isinstance(reply, ReplyError):
            raise reply
        if url.sentinels and isinstance(reply, list) and reply[0] != b"master":
            raise Unavailable(
                f"Redis at {url.host}:{url.port} is not the master any more, or not yet; its sentinels "
                "are asked again."
            )


async def load_functions(link: RedisLink) -> None:
    """Load the libraries of this version into Redis, beside those of other versions: see `lua_libraries`.

    A library that is there is left alone: at `maxmemory` Redis loads none. Raises Unavailable, or
    ReplyError when Redis refuses one (Redis before 7.0).
    """
    reply = await link.call("FUNCTION", "LIST", "LIBRARYNAME", PATTERN)
    found = {library[1].decode() for library in reply}
    for name, code in libraries():
        if name not in found:
            try:
                await link.call("FUNCTION", "LOAD", code)
            except ReplyError as e:
                # Another process has loaded it meanwhile.
                if "already exists" not in str(e):
                    raise
    await _forget_functions(link, found)


async def _forget_functions(link: RedisLink, found: set[str]) -> None:
    """Note that this version was loaded now, and delete the libraries that nobody has loaded for long.

    Redis refuses this to a user without the rights, and the note when it is full; nothing depends on it.
    """
    (seconds, _), flat = await link.batch([("TIME",), ("HGETALL", FUNCTIONS_LOADED)])
    now_ms = int(seconds) * 1000
    used_ms = {name.decode(): int(ms) for name, ms in zip(flat[::2], flat[1::2], strict=True)}
    unknown = [name for name in found if name not in used_ms and is_own(name)]
    commands: list[Command] = [("HSETNX", FUNCTIONS_LOADED, name, now_ms) for name in unknown]
    commands += [("HSET", FUNCTIONS_LOADED, name, now_ms) for name, _ in libraries()]
    for name in outdated(found - {name for name, _ in libraries()}, used_ms, now_ms):
        commands += [("FUNCTION", "DELETE", name), ("HDEL", FUNCTIONS_LOADED, name)]
    with suppress(OutOfMemory):
        await link.batch(commands)
