"""What an operator writes in `[autoscale]` for one queue. Every process reads it, so it needs no planner."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from engine.capacity import targets
from engine.capacity.targets import Target
from engine.records import Queue

DEFAULT_TARGETS: dict[Queue, str] = {"express": "p99 <= 2s", "normal": "p95 <= 10min"}


class AutoscaleSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[autoscale.express]`, `[autoscale.normal]`: the bounds within which workers of a queue are scaled."""

    # What is promised, such as "p99 <= 2s"; "": see DEFAULT_TARGETS.
    target: str = ""
    processes_min: Annotated[int, Meta(ge=1, le=256)] = 1
    processes_max: Annotated[int, Meta(ge=1, le=256)] = 4
    # Sends in flight in one worker.
    concurrency_min: Annotated[int, Meta(ge=1, le=10_000)] = 50
    concurrency_max: Annotated[int, Meta(ge=1, le=10_000)] = 2_000
    # Nothing is taken away before so much time has passed in which it was not needed, seconds.
    calm_s: Annotated[float, Meta(ge=5, le=86_400)] = 300.0

    def target_of(self, queue: Queue) -> Target:
        """The target for a queue. Raises ValueError, whose text says what is allowed."""
        return targets.parse(f"{queue} {self.target or DEFAULT_TARGETS[queue]}")
