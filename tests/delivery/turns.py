"""Services on virtual time, and how often they turn meanwhile.

A turn is one callback of the loop: a task resumed, a timer fired. A loop that has nothing to
do and does not sleep makes hundreds of thousands of turns a virtual second, and one that
never even yields reads its clock again and again within a turn; both fail here.
"""

from __future__ import annotations

import asyncio
from asyncio import events
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Any

from engine.errors import Unavailable
from tests.simulation.clock import Clock, Process

# Readings of the clock within one turn that no honest loop comes to.
_READINGS_MAX = 10_000


class Loop(Process):
    """A process's loop, with what services need beyond the simulation's."""

    def run_in_executor(self, executor: Any, function: Any, *arguments: Any) -> Any:
        done = self.create_future()
        self.call_soon(lambda: done.cancelled() or done.set_result(function(*arguments)))
        return done

    async def create_connection(self, *_: Any, **__: Any) -> Any:
        """Nobody listens."""
        raise ConnectionRefusedError


class VirtualTime:
    """A process in virtual time; `with` it, so that what is left of it is canceled."""

    def __init__(self) -> None:
        self.clock = Clock(1)
        self.process = Loop(self.clock, "process", "service")
        self._turn = 0
        self._readings = 0

    def __enter__(self) -> VirtualTime:
        events._set_running_loop(self.process)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.dispose()
        events._set_running_loop(None)

    def clock_s(self) -> float:
        """The services' clock, seconds."""
        if self._turn != self.clock.steps:
            self._turn, self._readings = self.clock.steps, 0
        self._readings += 1
        if self._readings > _READINGS_MAX:
            raise AssertionError("A loop turns without ever yielding.")
        return self.clock.now

    def start(self, service: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Let it run; a fault of it is raised by `pass_s`."""
        task: asyncio.Task[Any] = self.process.create_task(service)
        return task

    def pass_s(self, seconds: float, turns_max: float = 1e6) -> int:
        """Let time pass; how many turns were made. AssertionError when a service failed."""
        before = self.clock.steps
        self.clock.run(self.clock.now + seconds, before + int(turns_max * seconds) + 1)
        turns = self.clock.steps - before
        assert turns <= turns_max * seconds, f"{turns} turns in less than {seconds} s"
        for task in self.process.tasks:
            if task.done() and not task.cancelled() and (fault := task.exception()) is not None:
                raise AssertionError("A service failed.") from fault
        return turns


class Away:
    """A store whose every call takes `after_s` and raises Unavailable; counts the calls."""

    def __init__(self, after_s: float = 0.0) -> None:
        self.calls = 0
        self.waiting: tuple[object, ...] = ()
        self._after_s = after_s

    @property
    def put_off(self) -> Away:
        return self

    def __getattr__(self, name: str) -> Callable[..., Coroutine[Any, Any, Any]]:
        async def call(*_: Any, **__: Any) -> Any:
            self.calls += 1
            if self._after_s:
                await asyncio.sleep(self._after_s)
            raise Unavailable(f"{name}: away.")

        return call
