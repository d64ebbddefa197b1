"""The role `node`: speaks for its node. It notes the node in Redis, takes to the supervisor what operators
wish of it, and records what they changed at the supervisor itself.

Every node has one such process, also while it is drained. The supervisor itself has no connection to a
store; it writes what it knows to run/processes.json, and reads the wish from this process's pipe.

    killed, or frozen   the supervisor replaces it; meanwhile the note grows old, and the last wish stays
    Redis away          the node is not noted, so the others see it as gone after a while; nothing follows
                        from that but what operators are shown and refused
    PostgreSQL away     the last wish stays
"""

from __future__ import annotations

import asyncio
from collections import deque
from functools import partial

import msgspec
import structlog

from engine import __version__
from engine.boot.autoscaling import Autoscaling
from engine.boot.metric_files import Counted, process_of
from engine.boot.own_changes import Recorder
from engine.boot.own_node import own_node
from engine.boot.process import Process, end, until
from engine.clocks.waits import next_tick
from engine.config import ROLES
from engine.disk_space import DiskSpace, scarcest
from engine.errors import Unavailable
from engine.formats import FORMATS
from engine.hosts.disk_calls import DiskRead
from engine.metrics.snapshot import Snapshot, Totals, added, joined
from engine.nodes.flow import RATE_S, FlowWindow
from engine.nodes.records import NodeNote, NodeWish, OwnNode, OwnProcess, ProcessNote
from engine.nodes.standing import forgotten, state_of
from engine.stores.postgres.changes import Changes
from engine.stores.postgres.nodes import PostgresNodeWishes
from engine.stores.postgres.pool import Pool
from engine.stores.redis.link import RedisLink
from engine.stores.redis.node_notes import note_commands, notes_of

# How often the node is noted, and how often the wish is looked up, seconds.
_NOTE_S = 2.0
_LOOK_S = 1.0
# More processes than that are only counted in a note.
_PROCESSES_MAX = 100
_WORDS_MAX = 200

log = structlog.get_logger("node")


async def speak_for_node(process: Process) -> None:
    """Note the node and pass on what is wished of it, until drained. Raises Unavailable without Redis."""
    config, life = process.config, process.life
    async with process.link("commands") as link:
        await process.know_the_time(link)
        postgres = await Pool.connect(config.postgres.url, connections_max=1)
        try:
            recorder = Recorder(config.node_name, Changes(postgres))
            speaker = Speaker(process, link, PostgresNodeWishes(postgres), recorder)
            await speaker.look()
            await speaker.note()
            life.ready()
            scaling = Autoscaling(process, link)
            runs = [asyncio.create_task(run) for run in (speaker.look_on(), speaker.note_on(), scaling.run())]
            try:
                await until(life.draining.wait(), *runs)
            finally:
                await end(*runs)
            # So that the others see at once that it has not just gone.
            await speaker.note()
        finally:
            await postgres.close()


class Speaker:
    """Of one node."""

    def __init__(
        self, process: Process, link: RedisLink, wishes: PostgresNodeWishes, recorder: Recorder
    ) -> None:
        self._process = process
        self._recorder = recorder
        self._link = link
        self._wishes = wishes
        self._wish = NodeWish()
        self._away = False
        self._flow = FlowWindow()
        self._forgotten: list[str] = []
        data_dir = process.config.data_dir
        self._own = DiskRead(partial(own_node, data_dir), OwnNode())
        self._space = DiskRead(partial(scarcest, data_dir), None)
        # When looked, microseconds, and the CPU time of each living process then, seconds, by its name.
        self._cpu: deque[tuple[int, dict[str, float]]] = deque()

    async def look(self) -> None:
        """Look once what is wished, and tell the supervisor. What cannot be read stays as it was."""
        node = self._process.config.node_name
        try:
            self._wish = await self._wishes.of(node)
        except Unavailable as e:
            if not self._away:
                log.warning("what is wished of the node cannot be looked up", reason=e.detail)
            self._away = True
            return
        self._away = False
        self._process.life.wish(msgspec.json.encode(self._wish))

    async def look_on(self) -> None:
        """Look again and again, until canceled."""
        while True:
            await next_tick(_LOOK_S)
            await self.look()
            await self._recorder.record(await self._own.latest())

    async def note(self) -> None:
        """Note the node once; when Redis does not take the note, the next one counts."""
        process = self._process
        counted = await self._counted()
        now_us = process.clock.now_us()
        snapshots = counted.snapshots
        living = {process_of(file): snapshots[file] for file in counted.living if file in snapshots}
        self._flow.add(now_us, added([counted.totals.counts, *(s.counts for s in snapshots.values())]))
        flow = self._flow.note(now_us, joined(snapshot.gauges for snapshot in living.values()))
        note = self._note_of(now_us, living, await self._own.latest(), await self._space.latest())
        commands = note_commands(note, flow, self._forgotten)
        try:
            replies = await process.pulse.batch(self._link, commands)
            self._forgotten = forgotten(notes_of(replies), now_us)
        except Unavailable:
            # `keep_pulse` of other roles is silent about it, too: each of them has a line of its own.
            return

    async def note_on(self) -> None:
        """Note it again and again, until canceled."""
        while True:
            await next_tick(_NOTE_S)
            await self.note()

    async def _counted(self) -> Counted:
        try:
            return await self._process.meter.read_all()
        except OSError:
            # Its node is worth a note also when its disk is not.
            return Counted(Totals(), {}, set())

    def _note_of(
        self, now_us: int, living: dict[str, Snapshot], own: OwnNode, space: DiskSpace | None
    ) -> NodeNote:
        config, wish = self._process.config, self._wish
        if self._process.life.draining.is_set():
            own = msgspec.structs.replace(own, stopping=True)
        cpu = self._cpu_percent(now_us, living)
        shown = own.processes[:_PROCESSES_MAX]
        roles: dict[str, int] = {
            role: own.configured.get(role, 0) for role in ROLES if role not in ("admin", "node")
        }
        return NodeNote(
            name=config.node_name,
            at_us=now_us,
            state=state_of(own, wish),
            version=__version__,
            formats=FORMATS,
            since_us=own.since_us,
            url=own.url,
            reason=wish.reason[:_WORDS_MAX],
            roles=roles | _counts_of(own, wish),
            configured=roles,
            concurrency=own.concurrency,
            scaled=own.scaled,
            configured_concurrency=own.configured_concurrency,
            processes=[_noted(one, living.get(one.name), cpu.get(one.name, 0.0)) for one in shown],
            more_processes=len(own.processes) - len(shown),
            providers=own.providers,
            disk=space,
        )

    def _cpu_percent(self, now_us: int, living: dict[str, Snapshot]) -> dict[str, float]:
        """By name, the CPU that each living process has had in about the last `RATE_S`."""
        metric = "smsengine_process_cpu_seconds"
        now = {name: sum(s.counts.counters.get(metric, {}).values()) for name, s in living.items()}
        self._cpu.append((now_us, now))
        while len(self._cpu) > 2 and self._cpu[1][0] <= now_us - RATE_S * 1e6:
            self._cpu.popleft()
        at_us, before = self._cpu[0]
        passed_s = max((now_us - at_us) / 1e6, 0.001)
        return {
            name: max(0.0, round(100 * (spent_s - before[name]) / passed_s, 1))
            for name, spent_s in now.items()
            if name in before and now_us > at_us
        }


def _counts_of(own: OwnNode, wish: NodeWish) -> dict[str, int]:
    """By queue, how many workers there are to be where that is not as configured."""
    scaled: dict[str, int] = {queue: last.processes for queue, last in own.scaled.items()}
    return scaled | dict[str, int](wish.processes.items())


def _noted(own: OwnProcess, snapshot: Snapshot | None, cpu_percent: float) -> ProcessNote:
    memory = snapshot.gauges.get("smsengine_process_resident_memory_bytes", {}) if snapshot else {}
    return ProcessNote(
        role=own.role,
        index=own.index,
        pid=own.pid,
        state=own.state,
        since_us=own.since_us,
        restarts=own.restarts,
        generation=own.generation,
        cpu_percent=cpu_percent,
        memory_mb=round(sum(memory.values())) >> 20,
        degraded=own.degraded,
        last_words=own.last_words[:_WORDS_MAX],
    )
