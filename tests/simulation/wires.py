"""Connections between processes and servers, and everything that can go wrong on them.

A wire keeps the order of what is sent on it, in both directions; different wires know no
order. Each call on it is an effect boundary: by the seed, it may be slow, never arrive,
arrive in part (a prefix of a pipeline), arrive long after its sender has given up, or be
carried out while the answer is lost. Whichever it is, the sender only sees `Unavailable`.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from random import Random
from typing import Any, Protocol

import msgspec

from engine.errors import Unavailable
from engine.stores.redis.wire import OutOfMemory, ReplyError
from tests.simulation.clock import Clock, Process

# What a server answers when it will answer later.
BLOCKED = object()


class Weather(msgspec.Struct):
    """How the network behaves. Times in seconds, chances per call."""

    latency_s: float = 0.0003
    # Chance that a call is slow, and how slow it may be.
    slow: float = 0.01
    slow_s: float = 0.05
    # Chance that the connection breaks at this call.
    cut: float = 0.0
    # Longest time after which bytes of a broken connection still arrive.
    late_s: float = 3.0
    # Longest time for which a server believes in a client that is gone.
    linger_s: float = 3.0
    # Chance that an account is locked by others at a step, and how many quotas a fence may end in one.
    locked: float = 0.02
    quotas_max: tuple[int, ...] = (0, 1, 1_000_000)

    def latency(self, rng: Random) -> float:
        if rng.random() < self.slow:
            return rng.random() * self.slow_s
        return self.latency_s * (0.5 + rng.random())


class Server(Protocol):
    clock: Clock
    up: bool
    # Counts restarts: a wire belongs to one life.
    life: int
    # Carries out nothing before this time.
    busy_until: float
    wires: set[Wire]

    def execute(self, wire: Wire, call: Call, command: Any) -> Any:
        """Carry one command out now; BLOCKED when `wire.answer` will be called later."""

    def hung_up(self, wire: Wire) -> None:
        """The server has noticed that the client is gone."""


class Call:
    __slots__ = ("commands", "future", "mute", "replies")

    def __init__(self, commands: Sequence[Any], future: asyncio.Future[Any]) -> None:
        self.commands = commands
        self.future = future
        self.replies: list[Any] = []
        # Its answer will be lost.
        self.mute = False


class Wire:
    """One connection of `process` to `server`."""

    def __init__(self, process: Process, server: Server, weather: Weather, number: int) -> None:
        self.process = process
        self.server = server
        self.weather = weather
        self.clock = server.clock
        self.number = number
        self.life = server.life
        # What the client knows: no more calls.
        self.failed = False
        # What the network knows: nothing more gets through.
        self.cut = False
        # What the server keeps for it.
        self.session: dict[str, Any] = {}
        self.calls: deque[Call] = deque()
        self._up_at = 0.0
        self._down_at = 0.0
        server.wires.add(self)

    def __hash__(self) -> int:
        # The same in every run, so that sets of wires have the same order.
        return self.number

    def __eq__(self, other: object) -> bool:
        return self is other

    def post(self, commands: Sequence[Any], timeout_s: float) -> asyncio.Future[Any]:
        """Send; the future gives the replies, or raises Unavailable."""
        call = Call(commands, self.process.create_future())
        if self.failed:
            call.future.set_exception(Unavailable("The connection is closed."))
            return call.future
        self.calls.append(call)
        if self.cut:
            return call.future
        clock, rng = self.clock, self.clock.rng
        at = self._up_at = max(self._up_at + 1e-6, clock.now + self.weather.latency(rng))
        if self.weather.cut and rng.random() < self.weather.cut:
            self._break(call, at, timeout_s)
        else:
            clock.at(at, self._arrive, call)
        return call.future

    def fail(self) -> None:
        """The connection is gone; its process hears of it when it runs."""
        self.cut = True
        self.process.call_soon(self._fail)

    def close(self) -> None:
        """Closed by the client, or by its kernel when it was killed."""
        if not self.failed:
            self.failed = self.cut = True
            self._hang_up()

    def answer(self, call: Call, reply: Any) -> None:
        """The reply to a command that had blocked."""
        call.replies.append(reply)
        self._execute(call)

    # -- within

    def _break(self, call: Call, at: float, timeout_s: float) -> None:
        clock, rng = self.clock, self.clock.rng
        fate = rng.choice(("never", "unanswered", "prefix", "late"))
        clock.trace(self.process.name, "wire breaks:", fate)
        self.cut = True
        call.mute = True
        if fate == "prefix":
            call.commands = call.commands[: rng.randrange(len(call.commands))]
        elif fate == "late":
            at = self._up_at = at + rng.random() * self.weather.late_s
        if fate != "never":
            clock.at(at, self._arrive, call)
        # A reset is seen at once; bytes that vanish only by the time-out.
        noticed_s = timeout_s if rng.random() < 0.2 else rng.random() * 0.02
        clock.after(noticed_s, self.fail)

    def _arrive(self, call: Call) -> None:
        server = self.server
        if not server.up or self not in server.wires:
            self.fail()
        elif server.busy_until > self.clock.now:
            self.clock.at(server.busy_until, self._arrive, call)
        else:
            self._execute(call)

    def _execute(self, call: Call) -> None:
        server = self.server
        while len(call.replies) < len(call.commands):
            reply = server.execute(self, call, call.commands[len(call.replies)])
            if reply is BLOCKED:
                return
            call.replies.append(reply)
        if not call.mute:
            at = self._down_at = max(
                self._down_at + 1e-6, self.clock.now + self.weather.latency(self.clock.rng)
            )
            self.clock.at(at, self._answered, call)

    def _answered(self, call: Call) -> None:
        if self.process.alive and self.life == self.server.life:
            self.process.call_soon(self._settle, call)

    def _settle(self, call: Call) -> None:
        if self.failed:
            return
        self.calls.remove(call)
        if not call.future.done():
            call.future.set_result(call.replies)

    def _fail(self) -> None:
        if self.failed:
            return
        self.failed = True
        for call in self.calls:
            if not call.future.done():
                call.future.set_exception(Unavailable("The connection is lost."))
        self.calls.clear()
        self._hang_up()

    def _hang_up(self) -> None:
        rng = self.clock.rng
        linger_s = rng.random() * self.weather.linger_s if rng.random() < 0.1 else 0.001
        self.clock.at(max(self._up_at, self.clock.now) + linger_s, self._hung_up)

    def _hung_up(self) -> None:
        if self in self.server.wires:
            self.server.wires.discard(self)
            if self.life == self.server.life:
                self.server.hung_up(self)


class Network:
    """Makes wires."""

    def __init__(self, clock: Clock, weather: Weather) -> None:
        self.clock = clock
        self.weather = weather
        # The world is over: nobody gets through any more.
        self.closed = False
        self._made = 0

    def wire(self, process: Process, server: Server) -> Wire | None:
        """A new connection; None when the server cannot be reached."""
        if self.closed or not server.up:
            return None
        self._made += 1
        return Wire(process, server, self.weather, self._made)


class Link:
    """What `engine.stores.redis.link.RedisLink` is to the adapters, on simulated wires."""

    def __init__(self, network: Network, process: Process, server: Server, timeout_s: float) -> None:
        self._network = network
        self._process = process
        self._server = server
        self._timeout_s = timeout_s
        self._wire: Wire | None = None
        self._pause_s = 0.0

    async def start(self) -> None:
        await self._connected()

    async def close(self) -> None:
        if self._wire is not None:
            self._wire.close()

    async def call(self, *arguments: Any, timeout_s: float | None = None) -> Any:
        reply = (await self.batch([arguments], timeout_s=timeout_s))[0]
        if isinstance(reply, Exception):
            raise reply
        return reply

    async def batch(self, commands: Sequence[Any], *, timeout_s: float | None = None) -> list[Any]:
        if not commands:
            return []
        wire = self._wire
        if wire is None or wire.failed:
            wire = await self._connected()
        try:
            async with asyncio.timeout(timeout_s):
                replies: list[Any] = await wire.post(commands, timeout_s or self._timeout_s)
        except TimeoutError:
            wire.fail()
            raise Unavailable("No answer in time.") from None
        errors = [str(reply) for reply in replies if isinstance(reply, ReplyError)]
        if any("Function not found" in error for error in errors):
            await self.call("FUNCTION", "LOAD", b"")
            raise Unavailable("Redis had lost the engine's functions; they are loaded again.")
        if any(error.startswith("OOM") for error in errors):
            raise OutOfMemory(replies)
        return replies

    async def _connected(self) -> Wire:
        network = self._network
        await asyncio.sleep(self._pause_s + 2 * network.weather.latency(network.clock.rng))
        if self._wire is None or self._wire.failed:
            self._wire = network.wire(self._process, self._server)
        if self._wire is None:
            self._pause_s = min(max(2 * self._pause_s, 0.05), 1.0)
            raise Unavailable("The server cannot be reached.")
        self._pause_s = 0.0
        return self._wire
