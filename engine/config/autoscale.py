"""The section `[autoscale]`: which queues are scaled by themselves, and within which bounds."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from engine.capacity.autoscale_settings import AutoscaleSettings
from engine.records import QUEUES, Queue


class Autoscale(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[autoscale]`: a section for each queue whose workers are to be scaled; without one they stay as they
    are."""

    express: AutoscaleSettings | None = None
    normal: AutoscaleSettings | None = None

    def by_queue(self) -> dict[Queue, AutoscaleSettings]:
        """The settings of the queues that are scaled."""
        found: dict[Queue, AutoscaleSettings | None] = {"express": self.express, "normal": self.normal}
        return {queue: found_one for queue in QUEUES if (found_one := found[queue]) is not None}


def wrong(autoscale: Autoscale, configured: dict[Queue, int]) -> Iterator[tuple[str, str]]:
    """The settings that cannot be, and what is allowed. `configured`: the processes of each queue."""
    for queue, settings in autoscale.by_queue().items():
        name = f"autoscale.{queue}"
        try:
            settings.target_of(queue)
        except ValueError:
            yield f"{name}.target", "a quantile and a time, such as 'p99 <= 2s'"
        if settings.processes_min > settings.processes_max:
            yield f"{name}.processes_min", "at most processes_max"
        if settings.concurrency_min > settings.concurrency_max:
            yield f"{name}.concurrency_min", "at most concurrency_max"
        if not configured[queue]:
            yield name, f"left out where roles.{queue} is 0"
