"""What the API shows: a message's history and the status."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from engine import ids
from engine.activity import history
from engine.activity.ports import ActivityStream, MessageLookups
from engine.activity.records import MessageKey
from engine.clocks.store_clock import StoreClock
from engine.config import Config
from engine.credit.memory_mark import MARK
from engine.disk_space import scarcest
from engine.errors import EngineError, Unavailable
from engine.hosts.disk_calls import DiskRead
from engine.nodes.control import NodeControl
from engine.nodes.flow import Flow, added_up
from engine.nodes.standing import GONE_US
from engine.records import Queue
from engine.stores.postgres.pool import Pool
from engine.stores.redis.link import RedisLink
from engine.stores.redis.node_notes import RedisNodeNotes
from engine.stores.redis.problems import RedisProblems
from engine.stores.status import LatencyTarget, QueueBacklog, Status, StatusReader

# When to ask again for a message that may stand in activity that is not archived yet, seconds.
_BEHIND_S = 10.0
# A part of the status, or of a history, that is not there by then is missing, seconds; well below the time
# of a request.
PART_S = 2.0


class MessageReads:
    """Histories of messages, across the stores, for one HTTP face."""

    def __init__(self, lookups: MessageLookups) -> None:
        self._lookups = lookups

    async def message(self, organisation_id: int, message_id: str) -> msgspec.Struct | None:
        """One message with its history; None when the organisation has no such message.

        While the archiver is behind, the search of the stream ends at its bound: the history is
        then marked as incomplete. So is one that is shown from the stream alone, because ClickHouse
        gives no answer within `PART_S`. Raises Unavailable when nothing was found up to the bound, as
        the message may be beyond, and when a store does not answer that is needed.
        """
        accepted_at_us = ids.accepted_at_us(message_id)
        if accepted_at_us is None:
            return None
        found = await self._lookups.rows_of(MessageKey(organisation_id, message_id, accepted_at_us))
        # Without ClickHouse there is enough for an answer when the beginning has not been archived yet.
        # Else the later events do not say what the message costs and who has its units.
        if found.missing and not any(row.event in ("accepted", "scheduled") for row in found.rows):
            raise found.missing
        if found.rows:
            return history.describe(found.rows, complete=found.complete)
        if not found.complete:
            raise Unavailable("The archiver is far behind, and the message was not found yet.", _BEHIND_S)
        return None


class Reports:
    """What an operator looks at, across the stores, for one HTTP face."""

    def __init__(
        self,
        config: Config,
        pool: Pool,
        link: RedisLink,
        stream: ActivityStream,
        unmatched: Callable[[int], Coroutine[Any, Any, int]],
        clock: StoreClock,
        nodes: NodeControl,
    ) -> None:
        """`unmatched`: receipts that were given up since then, seconds since 1970."""
        self._nodes = nodes
        self._notes = RedisNodeNotes(link)
        self._config = config
        self._processes = DiskRead[object](partial(_processes, config.data_dir), [])
        self._space = DiskRead(partial(scarcest, config.data_dir), None)
        self._unmatched = unmatched
        self._problems = RedisProblems(link, clock.now_us)
        self._clock = clock
        self._status = StatusReader(pool, link, stream, config.shards)

    async def backlog(self, queue: Queue) -> QueueBacklog:
        """What `GET /v1/admin/queues/{queue}` answers. Raises Unavailable."""
        throughputs = {p.name: p.throughput for p in self._config.providers}
        parts = {"pause": self._status.queue_states(), "ends_in_ms": self._status.takes(throughputs)}
        known, missing = await _answered(parts, _SOURCES)
        pauses, drains = known.get("pause", ({}, {}))
        # Of a queue that is paused nothing is taken.
        takes = {} if queue in pauses else known.get("ends_in_ms")
        found = await self._status.backlog(queue, self._clock.now_us() // 1000, takes)
        if not found.put_off:
            # Then all ends by what left lately; that all providers are paused is not known.
            missing.pop("ends_in_ms", None)
        return msgspec.structs.replace(
            found, pause=pauses.get(queue), drain=drains.get(queue), missing=missing
        )

    async def status(self) -> Status:
        """What `GET /v1/admin/status` answers: processes, queues, ledger, activity and receipts as they are
        now. Each part has a time of its own: what a store does not answer by then is named in `missing`."""
        at_ms = self._clock.now_us() // 1000
        providers = [p.name for p in self._config.providers]
        known, missing = await _answered(
            {
                "queues": self._status.queues(at_ms),
                "ledger": self._status.ledger(),
                "memory": self._status.memory(MARK, at_ms),
                "activity": self._status.activity(at_ms),
                "receipts": self._status.receipts(at_ms),
                "webhooks": self._status.webhooks(),
                "receipts.unmatched": self._unmatched(at_ms // 1000 - 86_400),
                "problems_last_hour": self._problems.last_hour(providers),
                "provider_pauses": self._status.paused(providers),
                "paused_queues": self._status.queue_states(),
                "nodes": self._nodes.noted(),
                "flow": self._flow(),
                "paused_organisations": self._status.paused_organisations(),
            },
            _SOURCES,
        )
        if "provider_pauses" in known:
            known["paused_providers"] = list(known["provider_pauses"])
        else:
            missing["paused_providers"] = missing["provider_pauses"]
        if "paused_queues" in known:
            known["paused_queues"], known["drained_queues"] = known["paused_queues"]
        else:
            missing["drained_queues"] = missing["paused_queues"]
        unmatched = known.pop("receipts.unmatched", None)
        if "receipts" in known:
            known["receipts"].unmatched = unmatched
        processes, space = await self._processes.latest(), await self._space.latest()
        if self._processes.hangs or self._space.hangs:
            missing["disk"] = "The disk of the data directory does not answer."
        return Status(
            node=self._config.node_name,
            clock_ahead_ms=self._clock.ahead_us // 1000,
            processes=processes,
            targets=_targets(self._config),
            disk=space,
            missing=missing,
            **known,
        )

    async def _flow(self) -> Flow:
        """How fast things move on the nodes that have noted it lately."""
        now_us = self._clock.now_us()
        flows = await self._notes.flows()
        return added_up({name: flow for name, flow in flows.items() if now_us - flow.at_us < GONE_US})


# The stores that each part of the status is read from.
_SOURCES = {
    "queues": "Redis",
    "ledger": "PostgreSQL or Redis",
    "memory": "Redis",
    "activity": "Redis",
    "receipts": "Redis",
    "receipts.unmatched": "ClickHouse",
    "webhooks": "PostgreSQL",
    "problems_last_hour": "Redis",
    "provider_pauses": "PostgreSQL",
    "paused_queues": "PostgreSQL",
    "nodes": "Redis",
    "flow": "Redis",
    "pause": "PostgreSQL",
    "ends_in_ms": "PostgreSQL",
    "paused_organisations": "PostgreSQL",
}


async def _answered(
    parts: Mapping[str, Coroutine[Any, Any, Any]], sources: Mapping[str, str]
) -> tuple[dict[str, Any], dict[str, str]]:
    """(what the parts return, why the others do not); all are asked at the same time, for `PART_S`.

    A part whose store is frozen is canceled and not waited for: it ends when its adapter gives up.
    """
    tasks = {name: asyncio.create_task(part, name=f"status {name}") for name, part in parts.items()}
    known: dict[str, Any] = {}
    missing: dict[str, str] = {}
    try:
        await asyncio.wait(tasks.values(), timeout=PART_S)
        for name, task in tasks.items():
            try:
                if task.done():
                    known[name] = task.result()
                else:
                    missing[name] = f"{sources[name]} gives no answer within {PART_S:g} s."
            except EngineError as e:
                missing[name] = str(e)
    finally:
        for task in tasks.values():
            task.cancel()
            # Nobody else looks at how it ends.
            task.add_done_callback(lambda late: late.cancelled() or late.exception())
    return known, missing


def _targets(config: Config) -> dict[Queue, LatencyTarget]:
    wanted = {queue: settings.target_of(queue) for queue, settings in config.autoscale.by_queue().items()}
    return {
        queue: LatencyTarget(target.part, round(target.latency_s * 1_000, 3))
        for queue, target in wanted.items()
    }


def _processes(data_dir: str) -> object:
    """As the supervisor of this node last wrote it; none when there is no data directory."""
    try:
        return msgspec.json.decode(Path(data_dir, "run", "processes.json").read_bytes())["processes"]
    except (OSError, KeyError, TypeError, msgspec.DecodeError):
        return []
