"""The process that a role runs in, and how roles wait and end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, NoReturn, Protocol, TypeVar

import structlog

from engine.boot.heartbeat import Heartbeat
from engine.boot.meter import Meter
from engine.clocks.round_trips import CLICKHOUSE, POSTGRES
from engine.clocks.store_clock import StoreClock
from engine.clocks.waits import next_tick
from engine.config import Config, Role
from engine.errors import EngineError, Unavailable
from engine.histogram import ROUND_TRIP_S, Histogram
from engine.stores.redis.link import RedisLink
from engine.stores.redis.pulse import Pulse

STORE_TIMEOUT_S = 5.0
DRAIN_S = 20.0
_START_S = 20.0
_PULSE_S = 2.0
# Round trips to measure the clock by at the start: the quickest of them counts.
_MEASUREMENTS = 5
# Links whose calls wait in Redis until there is something to read: how long says nothing about Redis.
_WAITING = {"read", "inbox", "receipts read"}


class Closable(Protocol):
    """A part that has connections to close."""

    async def close(self) -> None:
        """Close them. Called again, it does nothing."""


_Closable = TypeVar("_Closable", bound=Closable)


def closed_by(stack: AsyncExitStack, part: _Closable) -> _Closable:
    """Let `part` be closed when `stack` ends; returns `part`."""
    stack.push_async_callback(part.close)
    return part


class Process:
    """The process of a role: its configuration, its name, its sign of life, its clock and its connections."""

    def __init__(
        self, role: Role, config: Config, name: str, life: Heartbeat, listener: socket.socket | None
    ) -> None:
        self.role = role
        self.config = config
        self.name = name
        self.life = life
        self.listener = listener
        log = structlog.get_logger(role)
        self.clock = StoreClock(log)
        self.pulse = Pulse(self.clock, name, log)
        directory = Path(config.data_dir, "run", "metrics") if config.data_dir else None
        self.meter = Meter(role, name, directory, log)
        self._round_trips = Histogram(ROUND_TRIP_S)
        times = {"redis": self._round_trips, "postgres": POSTGRES, "clickhouse": CLICKHOUSE}
        for store, histogram in times.items():
            self.meter.histogram("smsengine_store_round_trip_seconds", histogram, store=store)

    async def know_the_time(self, link: RedisLink) -> None:
        """Measure the stores' clock, before anything of this process reads it. Raises Unavailable.

        From then on the heartbeat measures it.
        """
        for _ in range(_MEASUREMENTS):
            await patiently(lambda: self.pulse.batch(link, []))

    async def keep_pulse(self, link: RedisLink) -> None:
        """For a role without a heartbeat to Redis: have a pulse until canceled."""
        while True:
            with contextlib.suppress(Unavailable):
                await self.pulse.batch(link, [])
            await next_tick(_PULSE_S)

    @asynccontextmanager
    async def link(self, purpose: str, *, together: bool = False) -> AsyncIterator[RedisLink]:
        """A Redis connection of this process, closed at the end. `together`: see `RedisLink`."""
        link = RedisLink(
            self.config.redis.url,
            timeout_s=STORE_TIMEOUT_S,
            name=f"{self.role}:{purpose}",
            together=together,
        )
        if purpose not in _WAITING:
            link.round_trips = self._round_trips
        await link.start()
        try:
            yield link
        finally:
            await link.close()


def reasons(error: BaseException) -> list[BaseException]:
    """The errors in `error`, taken out of the groups that task groups wrap them in; no cancellations."""
    if isinstance(error, BaseExceptionGroup):
        return [reason for e in error.exceptions for reason in reasons(e)]
    return [] if isinstance(error, asyncio.CancelledError) else [error]


def end_by_fault(fault: BaseException) -> NoReturn:
    """Log a fault of this program's own and end the process with exit code 1, at once.

    Nothing is closed or waited for: the state that the fault left behind is unknown, and while the
    process lives its supervisor believes that it works. What it had in hand is as after a kill: Redis
    remembers it, and others take it over.
    """
    structlog.get_logger("boot").critical(
        "a fault of this program ends the process; what it had in hand is left to others", exc_info=fault
    )
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)


async def until(wanted: Awaitable[Any], *needed: asyncio.Task[Any]) -> None:
    """Wait for `wanted`. When a needed task fails first, raise its error here.

    Only an `EngineError` (or several in a group) is raised; any other error ends the process.
    """
    waiting = asyncio.ensure_future(wanted)
    try:
        done, _ = await asyncio.wait({waiting, *needed}, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            if not task.cancelled() and (fault := task.exception()) is not None:
                if not all(isinstance(reason, EngineError) for reason in reasons(fault)):
                    end_by_fault(fault)
                raise fault
    finally:
        waiting.cancel()


async def patiently(step: Callable[[], Awaitable[object]]) -> None:
    """Do a step that needs Redis as the ledger prepares it: try again while that may still be starting.

    Raises Unavailable when the step has failed for 20 seconds.
    """
    deadline = time.monotonic() + _START_S
    while True:
        try:
            await step()
            return
        except Unavailable:
            if time.monotonic() > deadline:
                raise
        await asyncio.sleep(0.05)


async def end(*tasks: asyncio.Task[Any]) -> None:
    """Cancel tasks and wait until each has ended, however it ends."""
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
