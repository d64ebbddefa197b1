"""What `GET /metrics` answers: what all processes of the node count, and how much waits in the stores.

The stores are asked at each scrape, all parts at the same time, each for `_PART_S`. A part that does not
answer by then is left out, and `smsengine_status_part_up` says so; so a scrape is answered also while a
store is away. What is in the stores is the same from whichever node it is asked.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

from engine import __version__
from engine.boot.meter import Meter
from engine.boot.own_node import numbers_of, own_node
from engine.credit.memory_mark import MARK
from engine.errors import EngineError, Unavailable
from engine.metrics.catalogue import METRICS
from engine.metrics.exposition import rendered
from engine.metrics.snapshot import Numbers, added, joined, key_of
from engine.stores.memory_status import MemoryStatus
from engine.stores.redis.problems import RedisProblems
from engine.stores.status import (
    ActivityStatus,
    LedgerStatus,
    QueueStatus,
    ReceiptsStatus,
    StatusReader,
)

# The time of each part, seconds.
_PART_S = 1.0
# A metric without its prefix, its number, its labels.
_Shown = tuple[str, float, dict[str, str]]


class Scrape:
    """Of one process, which answers for its node."""

    def __init__(
        self,
        meter: Meter,
        status: StatusReader,
        problems: RedisProblems,
        providers: list[str],
        now_us: Callable[[], int],
        data_dir: str = "",
    ) -> None:
        """`providers`: those of the configuration. `now_us`: microseconds since 1970. `data_dir`: where the
        supervisor writes what it knows of its processes; "" for nowhere."""
        self._meter = meter
        self._status = status
        self._problems = problems
        self._providers = providers
        self._now_us = now_us
        self._data_dir = data_dir

    async def text(self, accept: str) -> tuple[bytes, str]:
        """The metrics in the format that `accept` prefers, and its content type. Raises Unavailable."""
        try:
            counted, shown = await asyncio.gather(self._meter.read_all(), self._stored())
        except OSError as e:
            raise Unavailable(f"The counts of the processes cannot be read: {e.strerror}.") from e

        def text() -> tuple[bytes, str]:
            snapshots = counted.snapshots
            restarts, wanted = numbers_of(own_node(self._data_dir))
            counts = added([counted.totals.counts, *(one.counts for one in snapshots.values()), restarts])
            gauges = joined(
                [*(snapshots[name].gauges for name in counted.living if name in snapshots), shown, wanted]
            )
            return rendered(counts, gauges, accept)

        return await asyncio.to_thread(text)

    async def _stored(self) -> Numbers:
        """What waits in the stores, as far as they answer."""
        at_ms = self._now_us() // 1000
        parts: dict[str, Coroutine[Any, Any, Any]] = {
            "queues": self._status.queues(at_ms),
            "ledger": self._status.ledger(),
            "activity": self._status.activity(at_ms),
            "receipts": self._status.receipts(at_ms),
            "memory": self._status.memory(MARK, at_ms),
            "problems": self._problems.last_hour(self._providers),
        }
        tasks = {name: asyncio.create_task(part, name=f"metrics {name}") for name, part in parts.items()}
        shown: Numbers = {}
        try:
            await asyncio.wait(tasks.values(), timeout=_PART_S)
            _show(shown, ("build_info", 1, {"version": __version__}))
            for name, task in tasks.items():
                answer = _answer_of(task)
                _show(shown, ("status_part_up", int(answer is not None), {"part": name}))
                for one in _numbers_of(answer):
                    _show(shown, one)
        finally:
            for task in tasks.values():
                # One that asks a frozen store is not waited for: it ends when its adapter gives up.
                task.cancel()
                task.add_done_callback(lambda late: late.cancelled() or late.exception())
        return shown


def _answer_of(task: asyncio.Task[Any]) -> object | None:
    """What a part answered; None when it has not, or could not."""
    try:
        return task.result() if task.done() else None
    except EngineError:
        return None


def _show(shown: Numbers, one: _Shown) -> None:
    name, number, labels = one
    metric = METRICS[f"smsengine_{name}"]
    shown.setdefault(metric.name, {})[key_of(metric, labels)] = number


def _numbers_of(answer: object) -> Iterator[_Shown]:
    """What is shown of the answer of one part."""
    match answer:
        case dict():
            for queue, status in answer.items():
                yield from _queue(queue, status)
        case LedgerStatus():
            yield "ledger_lag_seconds", answer.lag_ms / 1000, {}
            yield "unbooked_organisations", answer.unbooked_organisations, {}
            yield "unbooked_units", answer.unbooked_units, {}
            yield "shards_to_rebuild", answer.shards_to_rebuild, {}
            yield "uncharged_units", answer.uncharged_units, {}
        case ActivityStatus():
            yield "activity_waiting_entries", answer.waiting_entries, {}
            yield "activity_oldest_age_seconds", answer.oldest_ms / 1000, {}
        case ReceiptsStatus():
            yield "receipts_waiting_entries", answer.waiting_entries, {}
            yield "receipts_waiting_later", answer.set_aside, {}
            yield "receipts_oldest_age_seconds", answer.oldest_ms / 1000, {}
        case MemoryStatus():
            yield "redis_memory_bytes", answer.used_mb << 20, {}
            yield "redis_memory_limit_bytes", answer.limit_mb << 20, {}
            if answer.waiting_mb is not None:
                yield "redis_memory_waiting_bytes", answer.waiting_mb << 20, {}
        case int():
            yield "provider_problems_last_hour", answer, {}


def _queue(queue: str, status: QueueStatus) -> Iterator[_Shown]:
    for state in ("waiting", "in_hand", "due", "dead", "paused"):
        yield "queue_messages", getattr(status, state), {"queue": queue, "state": state}
    yield "queue_oldest_age_seconds", status.oldest_ms / 1000, {"queue": queue}
