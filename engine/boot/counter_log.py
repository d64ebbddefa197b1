"""Counters of a process as lines of its log: once a minute what was counted since the last line.

Adapters and services count what happens to them, each in a record of whole numbers that only grow.
A line has the name of each counter that has grown, with how much; there is no line when none has.
The last line comes when the process drains, after the parts that count have ended. The same records are
shown as metrics (`engine.boot.meter`).

Killed here: what was counted since the last line is lost; nothing depends on it. Frozen: the next
line covers the longer time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Self

import msgspec
from structlog.typing import FilteringBoundLogger

from engine.boot.meter import Meter
from engine.clocks.waits import next_tick

PERIOD_S = 60.0


def changes(before: Mapping[str, int], after: Mapping[str, int]) -> dict[str, int]:
    """How much each counter has grown between two snapshots, by name; only those that have."""
    return {name: count - before[name] for name, count in after.items() if count != before[name]}


class _Watched(msgspec.Struct):
    """Counters, the line that is written about them, and what they were at the last one."""

    event: str
    counters: msgspec.Struct
    fields: dict[str, Any]
    before: dict[str, int]


class CounterLog:
    """Writes the lines of one process: every `period_s` while its context lasts, and at its end."""

    def __init__(
        self, log: FilteringBoundLogger, meter: Meter | None = None, period_s: float = PERIOD_S
    ) -> None:
        """`meter` shows what is watched here as metrics too."""
        self._log = log
        self._meter = meter
        self._period_s = period_s
        self._watched: list[_Watched] = []

    def watch(self, event: str, counters: msgspec.Struct, **fields: str) -> None:
        """Write a line `event` with `fields` whenever `counters`, a record of whole numbers, have grown."""
        self._watched.append(_Watched(event, counters, fields, _snapshot(counters)))
        if self._meter is not None:
            self._meter.watch(event, counters, **fields)

    def write(self) -> None:
        """One line for each record of counters of which one has grown since its last line."""
        for watched in self._watched:
            now = _snapshot(watched.counters)
            if grown := changes(watched.before, now):
                watched.before = now
                self._log.info(watched.event, **watched.fields, **grown)

    async def _write_on(self) -> None:
        while True:
            await next_tick(self._period_s)
            self.write()

    async def __aenter__(self) -> Self:
        self._writing = asyncio.create_task(self._write_on())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._writing.cancel()
        await asyncio.wait([self._writing])
        self.write()


def _snapshot(counters: msgspec.Struct) -> dict[str, int]:
    return msgspec.structs.asdict(counters)
