"""What goes wrong during a soak: carriers fail, processes and stores are killed, the engine is reloaded.

The first and the last tenth of the time are the rough part: anything is killed, and the engine is reloaded.
In between processes grow old, so that what they leak is seen: carriers fail, and of the roles only those
with two processes lose one, always the second. Stores are killed in the first half alone, for the same
reason.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import threading
import time
from collections import Counter
from typing import Any

from tests.chaos.test_chaos import SERVERS, pid_of
from tests.soak.samples import processes
from tests.soak.world import World
from tests.system.client import behave, eventually
from tests.system.faults import ROLES

ROUGH = 0.1
# What a carrier may do for a while.
FAULTS: tuple[dict[str, Any], ...] = (
    {"outage": "refuse"},
    {"outage": "hang"},
    {"outage": True},
    {"error_rates": {"temporary": 0.3}},
    {"error_rates": {"reset": 0.2}},
    {"error_rates": {"timeout": 0.05}},
    {"latency": {"constant_ms": 1500}},
    {"throughput": 30.0},
)
_SPARED_FIRST = ("ingest 2", "normal 2")
# The means between two troubles of a kind, seconds.
_CARRIER_S, _KILL_S, _RELOAD_S = 60.0, 60.0, 90.0


class Troubles:
    """Makes trouble in threads of its own for `seconds`, or until it is stopped."""

    def __init__(self, world: World, seconds: float, seed: int) -> None:
        self.done: Counter[str] = Counter()
        self.failures: list[str] = []
        self._world = world
        self._rng = random.Random(seed)
        self._began, self._seconds = time.monotonic(), seconds
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._carriers), threading.Thread(target=self._processes)]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End it; both carriers are well afterwards."""
        self._stop.set()
        for thread in self._threads:
            thread.join()

    @property
    def rough(self) -> bool:
        """Whether anything may be killed now."""
        return not ROUGH <= self._passed < 1 - ROUGH

    @property
    def late(self) -> bool:
        """Whether half of the time is over."""
        return self._passed > 0.5

    @property
    def _passed(self) -> float:
        return (time.monotonic() - self._began) / self._seconds

    def _carriers(self) -> None:
        """One carrier at a time fails for 5 to 30 seconds; seldom both do."""
        rng = random.Random(self._rng.random())
        while not self._stop.wait(rng.uniform(0.5, 1.5) * _CARRIER_S):
            ill = (0, 1) if rng.random() < 0.15 else (rng.randrange(2),)
            for index in ill:
                fault = rng.choice(FAULTS)
                behave(self._world.carriers[index].url, **fault)
                self.done[f"carrier {'ab'[index]}: {fault}"] += 1
            self._stop.wait(rng.uniform(5, 30))
            for index in ill:
                self._world.well(index)

    def _processes(self) -> None:
        rng = random.Random(self._rng.random())
        reload_at = time.monotonic() + 30
        while not self._stop.wait(rng.uniform(0.3, 1.0) * _KILL_S * (0.4 if self.rough else 1.0)):
            if self.rough and time.monotonic() > reload_at:
                reload_at = time.monotonic() + _RELOAD_S
                self._reload()
            elif self.rough:
                self._kill(rng.choice((*ROLES, *SERVERS)))
            else:
                self._kill(rng.choice((*_SPARED_FIRST, *(() if self.late else SERVERS))))

    def _kill(self, name: str) -> None:
        found = {p.name: p.pid for p in processes(self._world.engine.pid)}
        pid = found.get(name) or pid_of(self._world.engine, name)
        if pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
                self.done[f"killed {name}"] += 1

    def _reload(self) -> None:
        log = self._world.engine.log
        before = log.read_text().count("reloaded")
        os.kill(self._world.engine.pid, signal.SIGHUP)
        try:
            eventually(lambda: log.read_text().count("reloaded") > before, 90)
            self.done["reloaded"] += 1
        except AssertionError as e:
            self.failures.append(f"A reload did not end: {e}")
