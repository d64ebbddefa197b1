"""Virtual time, and event loops that live in it.

Every process of the simulation has an asyncio event loop of its own, as real ones have:
its callbacks run in the order in which they were made, but whose callback is next is drawn
from the seed. Nothing sleeps; when no process has anything to do, time jumps to the next
timer. A callback takes two virtual microseconds, so that whoever spins uses up time.

A step is one callback of a process (a task resumed, a timer fired, an answer arrived) or
one event of the world outside (a command reaching a server, an answer lost, a fault).
"""

from __future__ import annotations

import asyncio
import heapq
from asyncio import events
from collections import deque
from collections.abc import Callable, Coroutine
from random import Random
from typing import Any

_CALLBACK_S = 2e-6
# One process runs no more callbacks in a virtual second, unless it spins: that makes 500,000.
_TURNS_MAX = 20_000
# Where virtual time begins, UTC seconds.
EPOCH_S = 1_700_000_000.0


class Handle:
    """A callback to be run once; by a process, or by the world when it has none."""

    __slots__ = ("args", "callback", "context", "gone", "process", "when")

    def __init__(
        self, process: Process | None, when: float, callback: Callable[..., object], args: tuple[Any, ...]
    ) -> None:
        self.process = process
        self.when = when
        self.callback = callback
        self.args = args
        self.context: Any = None
        self.gone = False

    def cancel(self) -> None:
        self.gone = True

    def cancelled(self) -> bool:
        return self.gone

    def is_step(self) -> bool:
        """Whether it lets a task begin, or go on."""
        return isinstance(getattr(self.callback, "__self__", None), asyncio.Task)

    def run(self) -> None:
        if self.context is None:
            self.callback(*self.args)
        else:
            self.context.run(self.callback, *self.args)


class Clock:
    """The scheduler: one heap of timers, and the processes that have something to run."""

    def __init__(self, seed: int) -> None:
        self.rng = Random(seed)
        self.now = 0.0
        self.steps = 0
        # Chance per step that the process drawn is held up for a while.
        self.stall = 0.0
        self.stall_s = 0.002
        # The trace, when one is wanted.
        self.lines: list[str] | None = None
        # Errors that nobody has heard of.
        self.unheard: list[str] = []
        # What ended the run; "" while it goes on.
        self.halted = ""
        self._heap: list[tuple[float, int, Handle]] = []
        self._made = 0
        self._runnable: list[Process] = []

    def now_us(self) -> int:
        return int((EPOCH_S + self.now) * 1e6)

    def now_ms(self) -> int:
        return int((EPOCH_S + self.now) * 1e3)

    def at(self, when: float, callback: Callable[..., object], *args: Any) -> Handle:
        """An event of the world at virtual time `when`."""
        return self.push(Handle(None, when, callback, args))

    def after(self, seconds: float, callback: Callable[..., object], *args: Any) -> Handle:
        return self.push(Handle(None, self.now + seconds, callback, args))

    def push(self, handle: Handle) -> Handle:
        self._made += 1
        heapq.heappush(self._heap, (handle.when, self._made, handle))
        return handle

    def trace(self, *parts: object) -> None:
        if self.lines is not None:
            self.lines.append(f"{self.now:11.6f} {' '.join(map(str, parts))}")

    def runnable(self, process: Process) -> None:
        self._runnable.append(process)

    def run(self, until: float, steps_max: int) -> None:
        """Step until virtual time `until`, or `steps_max` steps in all."""
        heap, rng = self._heap, self.rng
        while self.steps < steps_max and not self.halted:
            while heap and heap[0][0] <= self.now and self.steps < steps_max:
                handle = heapq.heappop(heap)[2]
                if handle.gone:
                    continue
                if handle.process is not None:
                    handle.process.timer_due(handle)
                    continue
                self.steps += 1
                handle.run()
            ready = self._runnable
            if self.steps >= steps_max:
                return
            if ready:
                index = int(rng.random() * len(ready))
                process = ready[index]
                if process.held or not process.has_work():
                    process.queued = False
                    ready[index] = ready[-1]
                    ready.pop()
                    continue
                self.steps += 1
                self.now += _CALLBACK_S
                process.run_one()
                if self.stall and rng.random() < self.stall:
                    process.hold(rng.expovariate(1 / self.stall_s))
            elif not heap or heap[0][0] > until:
                self.now = max(self.now, until)
                return
            else:
                self.now = max(self.now, heap[0][0])
            if self.now > until:
                return


class Process(asyncio.AbstractEventLoop):
    """One process: an event loop, until it is killed. Nothing of a killed one runs again."""

    def __init__(self, clock: Clock, name: str, role: str) -> None:
        self.clock = clock
        self.name = name
        self.role = role
        self.alive = True
        # The engine.credit.quota.Quota of an ingest process.
        self.quota: Any = None
        # How many freezes are on it, one in another.
        self.held = 0
        self.queued = False
        self.tasks: list[asyncio.Task[Any]] = []
        # What was to run when it was killed.
        self._dropped: list[Handle] = []
        self._ready: deque[Handle] = deque()
        self._due: list[Handle] = []
        # Callbacks left of the current round; timers join at its end, as in asyncio.
        self._round = 0
        # Callbacks run in this second.
        self._turns = 0
        self._second = 0

    # -- the world's side

    def has_work(self) -> bool:
        return self.alive and bool(self._ready or self._due)

    def timer_due(self, handle: Handle) -> None:
        if self.alive:
            self._due.append(handle)
            self._wake()

    def run_one(self) -> None:
        if not self._round:
            self._ready.extend(self._due)
            self._due.clear()
            self._round = len(self._ready)
        self._round -= 1
        self._count()
        handle = self._ready.popleft()
        if not handle.gone:
            events._set_running_loop(self)
            handle.run()

    def _count(self) -> None:
        if self._second != int(self.clock.now):
            self._second, self._turns = int(self.clock.now), 0
        self._turns += 1
        if self._turns > _TURNS_MAX:
            self.clock.halted = self.clock.halted or f"{self.name} spins"

    def hold(self, seconds: float) -> None:
        """Freeze: nothing of it runs for a while; what arrives meanwhile waits."""
        self.held += 1
        self.clock.after(seconds, self.resume)

    def resume(self) -> None:
        self.held -= 1
        self._wake()

    def kill(self) -> None:
        """As by SIGKILL: no clean-up of any kind runs."""
        self.alive = False
        self._dropped += [*self._ready, *self._due]
        self._ready.clear()
        self._due.clear()

    def dispose(self) -> None:
        """At the end of the world: cancel what is left, so that nothing is finalized in disorder.

        A task whose next step a kill has dropped gets that step back, to be canceled in it: it waits for
        nothing else, so it would never end. Raises RuntimeError when a task goes on although it is canceled.
        """
        self.alive, self.held = True, 0
        self._ready.extend(handle for handle in self._dropped if handle.is_step())
        self._dropped.clear()
        for _ in range(50):
            for task in self.tasks:
                if not task.done():
                    task.cancel()
            for _ in range(10_000):
                if not self._ready:
                    break
                self._round = 0
                self.run_one()
            if all(task.done() for task in self.tasks):
                break
        self.alive = False
        if left := [task for task in self.tasks if not task.done()]:
            raise RuntimeError(f"{self.name} does not end: {left}")
        for task in self.tasks:
            if not task.cancelled():
                task.exception()

    def _wake(self) -> None:
        if not self.queued and not self.held:
            self.queued = True
            self.clock.runnable(self)

    # -- the event loop's side

    def time(self) -> float:
        return self.clock.now

    def call_soon(self, callback: Any, *args: Any, context: Any = None) -> Any:
        handle = Handle(self, 0.0, callback, args)
        handle.context = context
        self._ready.append(handle)
        if not self.queued:
            self._wake()
        return handle

    def call_at(self, when: float, callback: Any, *args: Any, context: Any = None) -> Any:
        handle = Handle(self, when, callback, args)
        handle.context = context
        return self.clock.push(handle)

    def call_later(self, delay: float, callback: Any, *args: Any, context: Any = None) -> Any:
        return self.call_at(self.clock.now + delay, callback, *args, context=context)

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self)

    def create_task(
        self, coro: Coroutine[Any, Any, Any], *, name: str | None = None, context: Any = None
    ) -> Any:
        task = asyncio.Task(coro, loop=self, name=name)
        if len(self.tasks) > 200:
            self.tasks = [t for t in self.tasks if not t.done()]
        self.tasks.append(task)
        return task

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return True

    def is_closed(self) -> bool:
        return False

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """Of a task whose error nobody has taken: the world looks at these."""
        if self.alive:
            self.clock.unheard.append(f"{self.name}: {context.get('message')} {context.get('exception')!r}")
