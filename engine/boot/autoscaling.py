"""What scales the workers of this node, in the process of role `node`: measure, ask the rule, tell the
supervisor.

Once a second. Without `[autoscale]` only run/processes.json is read.

    killed, or frozen   the last numbers stay; whoever follows goes on from those in run/processes.json
    Redis away          nobody knows how much waits: nothing changes
    a line lost         it is told again with the next second
    two nodes           each decides for its share of what arrives on all of them
    (`engine.capacity.autoscale`)
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import msgspec
import structlog

from engine.boot.process import Process
from engine.capacity import costs
from engine.capacity.autoscale import Autoscaler, Change
from engine.capacity.autoscale_settings import AutoscaleSettings
from engine.capacity.costs import Costs
from engine.capacity.readings import Others, Readings
from engine.capacity.simulation import Shape
from engine.clocks.waits import next_tick
from engine.errors import Unavailable
from engine.hosts.cores import usable_cores
from engine.hosts.disk_calls import DiskRead
from engine.metrics.snapshot import added, joined
from engine.nodes.flow import NodeFlow
from engine.nodes.records import NodeNote, NodeWish, QueueScaled
from engine.nodes.standing import GONE_US
from engine.providers.settings import sends_max
from engine.records import QUEUES, Queue
from engine.stores.redis.link import RedisLink
from engine.stores.redis.node_notes import RedisNodeNotes
from engine.stores.redis.waiting import waiting

_TICK_S, _AFTER_S = 1.0, 0.4

log = structlog.get_logger("node")


class _Own(msgspec.Struct, frozen=True, kw_only=True):
    """What the supervisor has written to run/processes.json, as far as it is needed here."""

    autoscale: dict[Queue, AutoscaleSettings] = {}
    scaled: dict[Queue, QueueScaled] = {}
    configured: dict[str, int] = {}
    configured_concurrency: dict[Queue, int] = {}
    wish: NodeWish = NodeWish()
    ready: bool = False
    stopping: bool = False

    def shape(self, queue: Queue) -> Shape:
        """What is in force of a queue, as long as no operator has set it."""
        if (last := self.scaled.get(queue)) is not None:
            return Shape(processes=last.processes, concurrency=last.concurrency)
        return Shape(
            processes=self.configured.get(queue, 0), concurrency=self.configured_concurrency.get(queue, 1)
        )

    def rests(self, queue: Queue) -> bool:
        """Whether nothing is to be scaled: an operator has set the numbers, or the node does not work."""
        by_hand = queue in self.wish.processes or queue in self.wish.concurrency
        return by_hand or self.wish.drained or self.stopping or not self.ready


class Autoscaling:
    """Of one node."""

    def __init__(self, process: Process, link: RedisLink) -> None:
        self._process = process
        self._link = link
        self._notes = RedisNodeNotes(link)
        self._own = DiskRead(partial(_own, process.config.data_dir), _Own())
        self._costs = _costs(process.config.data_dir)
        self._cores = int(usable_cores(pinned=len(process.config.processes.cpus))) or 1
        self._readings = Readings({p.name: sends_max(p) for p in process.config.providers})
        self._scalers: dict[Queue, tuple[AutoscaleSettings, Autoscaler]] = {}
        self._scaled: dict[Queue, QueueScaled] = {}
        self._was_scaled = False
        self._changes: Counter[tuple[str, ...]] = Counter()
        meter = process.meter
        meter.tally("smsengine_autoscale_changes", self._changes, ("queue", "direction"))
        meter.gauges(self._show)

    async def run(self) -> None:
        """Scale until canceled."""
        while True:
            await next_tick(_TICK_S)
            if self._scalers:
                # All processes write their counts at the tick. Read then, a second would have those of two,
                # or none.
                await asyncio.sleep(_AFTER_S)
            try:
                await self.tick()
            except (Unavailable, OSError):
                # Without Redis, or the files of counts, nothing is known; others have a line in the log.
                continue

    async def tick(self) -> None:
        """Look once. Raises Unavailable, OSError."""
        own = await self._own.latest()
        self._follow(own)
        if not self._scalers:
            if self._was_scaled:
                # It was ended by a reload; the supervisor is to forget the last changes.
                self._tell()
            return
        counted = await self._process.meter.read_all()
        snapshots = counted.snapshots
        living = [snapshots[file].gauges for file in counted.living if file in snapshots]
        counts = added([counted.totals.counts, *(s.counts for s in snapshots.values())])
        self._readings.add(time.monotonic(), counts, joined(living))
        queues = tuple(self._scalers)
        unread, notes, flows = await asyncio.gather(
            waiting(self._link, queues, self._process.config.shards), self._notes.notes(), self._notes.flows()
        )
        for queue, (_, scaler) in self._scalers.items():
            if own.rests(queue):
                scaler.rest()
                continue
            others = self._others(queue, unread[queue], notes, flows)
            seen = self._readings.of(queue, others, scaler.horizon_s)
            # A plan takes some milliseconds.
            change = await asyncio.to_thread(scaler.look, seen)
            if change is not None:
                self._note(queue, change)
        self._tell()

    def _tell(self) -> None:
        self._process.life.scaled(msgspec.json.encode(self._scaled))
        self._was_scaled = bool(self._scaled)

    def _follow(self, own: _Own) -> None:
        """Have a scaler for each queue that the configuration in force has scaled."""
        for queue in QUEUES:
            settings, (has, scaler) = own.autoscale.get(queue), self._scalers.get(queue, (None, None))
            if settings is None:
                self._scalers.pop(queue, None)
                self._scaled.pop(queue, None)
            elif settings != has:
                shape = scaler.shape if scaler else own.shape(queue)
                scaler = Autoscaler(queue, settings, self._costs, shape, self._cores)
                self._scalers[queue] = settings, scaler
                if queue in own.scaled:
                    self._scaled.setdefault(queue, own.scaled[queue])

    def _others(
        self, queue: Queue, unread: int, notes: Mapping[str, NodeNote], flows: Mapping[str, NodeFlow]
    ) -> Others:
        now_us, me = self._process.clock.now_us(), self._process.config.node_name
        workers = [
            name
            for name, note in notes.items()
            if name != me
            and note.state == "running"
            and now_us - note.at_us <= GONE_US
            and note.roles.get(queue)
        ]
        arrivals = sum(
            flow.queues[queue].recent_per_s
            for name, flow in flows.items()
            if name != me and now_us - flow.at_us <= GONE_US and queue in flow.queues
        )
        return Others(unread, arrivals, len(workers) + 1)

    def _note(self, queue: Queue, change: Change) -> None:
        before, after = change.before, change.after
        self._scaled[queue] = QueueScaled(
            processes=after.processes,
            concurrency=after.concurrency,
            processes_before=before.processes,
            concurrency_before=before.concurrency,
            at_us=self._process.clock.now_us(),
            reason=change.reason,
        )
        more = after.processes * after.concurrency > before.processes * before.concurrency
        self._changes[queue, "up" if more else "down"] += 1

    def _show(self) -> None:
        for queue, (_, scaler) in self._scalers.items():
            gauge = partial(self._process.meter.gauge, queue=queue)
            gauge("smsengine_autoscale_processes", scaler.shape.processes)
            gauge("smsengine_autoscale_concurrency", scaler.shape.concurrency)


def _own(data_dir: str) -> _Own:
    """What the supervisor has written; nothing when there is no data directory, or no file."""
    try:
        return msgspec.json.decode(Path(data_dir, "run", "processes.json").read_bytes(), type=_Own)
    except (OSError, msgspec.MsgspecError):
        return _Own()


def _costs(data_dir: str) -> Costs:
    """What `make calibrate` has measured on this machine, else the figures of the reference machine."""
    try:
        return costs.decode(Path(data_dir, costs.CALIBRATION).read_bytes())
    except OSError:
        return costs.REFERENCE
    except ValueError as e:
        log.warning("the calibration cannot be read", reason=str(e))
        return costs.REFERENCE
