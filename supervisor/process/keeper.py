"""The forking parent: it observes signals, pipes and deaths, and performs what `reconcile` asks for.

It owns no thread, no event loop and no connection to a store: whatever needs one runs
in a child. Its one loop observes everything, notes it, decides and performs, in this order.

- The supervisor is killed: the kernel kills every child with it (death signal), and the
  next start fences whatever they held.
- It is frozen: the children go on; systemd's watchdog, if any, ends it. When it comes
  back, the beats that it has not read count, and the time it was away does not count
  against any child.
- A child neither beats nor dies when it is killed, because the kernel holds it: nothing here
  can help, so systemd's watchdog, if any, gets no sign of life.
- A watched server is restarted by a call that blocks for about a second: nothing else is
  done meanwhile, and that time does not count against any child either. It is not called while the
  disk of the data directory hangs.
- That disk hangs: another child alone waits for it (`disk_child`), and all else goes on.
- Only its own children are reaped, each by its id; the owner of an embedded server sees
  that server's end. As process 1 of a container it needs an init before it.
"""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import structlog

from engine.config import Config, Role
from engine.errors import ConfigError, EngineError
from engine.logs.journal import last_sentence
from engine.logs.telemetry import configure_logs, write_left_out
from engine.nodes.records import NodeWish
from engine.supervision import DRAIN_SIGNAL, Pipes
from supervisor.process import child_state, log_levels, own_changes, rolling, snapshot, wanted
from supervisor.process import reconcile as rule
from supervisor.process.child import set_title
from supervisor.process.child_state import ChildState, Event, Key, Limits, Slot
from supervisor.process.children import FENCE, Children
from supervisor.process.disk_child import DiskChild
from supervisor.process.disk_watch import DiskWatch
from supervisor.process.ports import Fencer, RoleRunner, Watched
from supervisor.process.resources import cpu_of, outgrown, run_on
from supervisor.process.scaling import Ask
from supervisor.process.service import Service
from supervisor.process.signals import MEANINGLESS
from supervisor.process.systemd import Notifier

# Longest sleep of the loop while all is well, and while something is under way, seconds.
_CALM_S, _BUSY_S = 0.5, 0.05
# How often the embedded servers are polled, seconds. Their death wakes the loop anyway.
_WATCH_S = 1.0
# The loop was held up when it wakes this much later than planned, seconds.
_HELD_UP_S = 1.0
# Longest that the restart of a watched server takes, seconds.
_RESTART_S = 90.0

_SIGNUMS = {Event.DRAIN: DRAIN_SIGNAL, Event.ABORT: signal.SIGABRT, Event.KILL: signal.SIGKILL}


class Keeper:
    """Keeps the wanted number of processes of each role alive, until a signal stops it."""

    def __init__(
        self,
        config: Config,
        *,
        runner: RoleRunner,
        fencer: Fencer,
        listeners: Mapping[Role, socket.socket] | None = None,
        on_ready: Callable[[], None] = lambda: None,
        on_reload: Callable[[Keeper], None] | None = None,
        on_reloaded: Callable[[Config], tuple[Path, bytes]] | None = None,
        watchers: Sequence[Watched] = (),
        notifier: Notifier | None = None,
        limits: Limits | None = None,
        log: Any = None,
        wish: NodeWish | None = None,
        url: str = "",
    ) -> None:
        """`listeners` are each for the children of one role alone; the keeper closes them when it stops.

        `on_ready` is called once, when every process is ready for the first time. `on_reload` is
        called on SIGHUP; an EngineError that it raises is logged. `on_reloaded` gives a private file, and its
        content, when all processes have the configuration given to `reconfigure`, or the one before again.
        `wish`: what operators wish of this node at the start; None: nothing. `url`: of its API.
        """
        now = time.monotonic()
        # The second by generation; see `rolling`.
        self._config, self._configs = config, {0: config}
        self._runner, self._fencer = runner, fencer
        self._on_ready, self._on_reload, self._on_reloaded = on_ready, on_reload, on_reloaded
        self._watchers = {watched.name: watched for watched in watchers}
        self._limits = limits or Limits()
        self._log = log or structlog.get_logger()
        self._service = Service(notifier or Notifier(), self._limits, self._log)
        self._seen = rule.Observed(
            wish=wish or NodeWish(),
            fencing=rule.Fencing(since=now),
            servers={name: rule.Server(name=name, up_at=now) for name in self._watchers},
            started_at=now,
        )
        wanted.want(self._seen, config)
        self._children = Children(listeners or {})
        # Names are never used again, not by this supervisor and not by a later one.
        self._birth, self._born = os.urandom(8).hex(), 0
        self._exit_code: int | None = None
        # Why the processes have an earlier configuration again, "" when they have the one that is wanted.
        self._undone = ""
        self._disk = DiskWatch(config.data_dir, self._log)
        self._disk_child = DiskChild(lambda: self._children.forget(None), self._log)
        self._woke_at = self._watched_at = self._weighed_at = now
        self._publisher = snapshot.Publisher(config, self._disk_child.write, self._limits, url)

    def run(self) -> int:
        """Block until everything has drained after SIGTERM or SIGINT, or it cannot go on.

        Returns the exit code. 0: everything drained. 1: a process had to be killed, or the start was
        given up; then one sentence on stderr says why. Call it once, in the main thread.
        """
        set_title("supervisor")
        # Pages that children share with the parent stay shared when their collector does not visit them.
        gc.collect()
        gc.freeze()
        self._children.open()
        self._children.forget_more = self._disk_child.forget
        try:
            while True:
                now = time.monotonic()
                for action in rule.reconcile(self._seen, now, self._limits):
                    self._perform(action, now)
                if self._exit_code is not None:
                    return self._exit_code
                self._publisher.publish(self._seen)
                self._service.publish(self._seen, now)
                self._service.judge(self._seen, now)
                self._observe()
        finally:
            self._children.close()
            self._publisher.withdraw()
            self._disk_child.close()

    def reconfigure(self, config: Config) -> None:
        """Replace workers and ingest by processes with `config`, one after another; see `rolling`.

        The numbers of processes in it are wanted from now on. The settings that a fence and
        processes of other roles use must be as they were. Raises ConfigError while the engine is
        starting or stopping.
        """
        if not self._seen.announced or self._seen.stopping is not None:
            raise ConfigError("The engine is starting or stopping; reload it when it is ready.")
        generation = max(self._configs) + 1
        self._configs[generation] = config
        rolling.begin(self._seen.rolling, generation)
        self._undone = ""
        wanted.want(self._seen, config)
        self._log.info("reloading", generation=generation)

    # Observe.

    def _observe(self) -> None:
        """Wait for something to happen, then note all of it."""
        calm = all(s.state == ChildState.READY for s in self._seen.slots.values()) and not self._seen.stopping
        planned_s = _CALM_S if calm and FENCE not in self._children else _BUSY_S
        planned_s = max(0.0, min(planned_s, self._service.judgement_in_s(self._woke_at)))
        speakers, signums = self._children.wait(planned_s)
        now = time.monotonic()
        self._disk_child.turn(now)
        gap_s, self._woke_at = now - self._woke_at - planned_s, now
        if gap_s > _HELD_UP_S:
            self._log.warning("supervisor_held_up", seconds=round(gap_s, 1))
            self._seen.fencing.since += gap_s
            self._seen.slots = {k: child_state.later(s, gap_s) for k, s in self._seen.slots.items()}
        for key in speakers:
            self._note_lines(key, self._children.lines(key), now)
        own_changes.note_levels(self._seen, signums)
        for signum in signums:
            self._note_signal(signum)
        if signal.SIGCHLD in signums or now - self._watched_at >= _WATCH_S:
            self._watched_at = now
            for dead, code in self._children.dead():
                self._note_end(dead, code, now)
            self._watch(now)
            write_left_out()

    def _note_lines(self, key: Key, lines: list[str], now: float) -> None:
        before = after = self._seen.slots[key]
        for line in lines:
            after = child_state.noted_line(after, line, now)
        self._seen.slots[key] = after
        if after.state != before.state:
            self._log.info("child_ready", child=after.title, seconds=round(now - after.started_at, 3))
        if after.sentence != before.sentence:
            self._log.warning("child_failed", child=after.title, why=after.sentence)
        if after.wish != before.wish and wanted.noted_wish(self._seen, after.wish):
            self._log.info("node_wish", **msgspec.to_builtins(self._seen.wish))
        for queue, last in wanted.noted_scaled(self._seen, after.scaled).items():
            self._log.info("autoscaled", queue=queue, **msgspec.to_builtins(last))

    def _note_signal(self, signum: int) -> None:
        if signum in (signal.SIGTERM, signal.SIGINT):
            if self._seen.stopping is None:
                self._stop("")
            else:
                self._log.warning("supervisor_killing", why="second signal")
                self._seen.stopping.at_once = True
        elif signum in log_levels.SIGNUMS:
            roles, level = log_levels.wish(signum)
            for role in roles:
                self._children.set_level(role, level)
        elif signum in MEANINGLESS:
            self._log.warning("signal_ignored", signal=signal.Signals(signum).name)
        elif signum == signal.SIGHUP and self._on_reload is not None:
            self._seen.reloads.begun += 1
            self._service.begin_reload(self._seen)
            try:
                self._on_reload(self)
            except EngineError as e:
                self._log.error("reload_failed", why=str(e))
                own_changes.note_reload(self._seen, self._configs, str(e))
                self._end_reload(str(e))
            self._service.end_reload(self._seen)

    def _end_reload(self, sentence: str) -> None:
        self._seen.reloads.ended = self._seen.reloads.begun
        self._seen.reloads.sentence = sentence
        self._service.end_reload(self._seen)

    def _note_end(self, key: Key | None, code: int, now: float) -> None:
        last_lines = self._children.bury(key)
        if key is FENCE:
            names = self._seen.fencing.running
            failures = [line for line in last_lines if line.startswith("failed ")]
            sentence = failures[-1].removeprefix("failed ") if failures else ""
            rule.noted_fence_end(self._seen.fencing, code, sentence, now, self._limits)
            if code == 0:
                self._log.info("fenced", holders=list(names or ()) or "leftovers")
            else:
                self._log.warning("fence_failed", why=self._seen.fencing.sentence)
            return
        self._note_lines(key, last_lines, now)
        before = self._seen.slots[key]
        self._seen.slots[key] = child_state.ended(before, code, now, self._limits)
        if code != 0:
            self._seen.fencing.names += (before.name,)
        clean = child_state.left_cleanly(before, code)
        if self._seen.stopping is not None and not clean:
            self._seen.stopping.unclean = True
        log = self._log.info if clean else self._log.warning
        log("child_ended", child=before.title, pid=before.pid, code=code, state=str(before.state))
        after = self._seen.slots[key]
        if after.stack:
            self._log.error("child_stack", child=after.title, exception="\n".join(after.stack))
        if after.deaths == self._limits.degraded_deaths:
            self._log.error("child_degraded", child=after.title, deaths=after.deaths, why=after.last_words)

    def _watch(self, now: float) -> None:
        self._seen.disk = self._disk.judge(self._disk_child.space, self._disk_child.silent_s(now), now)
        self._seen.disk_hangs = self._disk.hangs
        self._disk_child.look(self._config.data_dir)
        for name, watched in self._watchers.items():
            server = self._seen.servers[name]
            if not server.down and (code := watched.poll()) is not None:
                self._log.warning("server_ended", server=name, code=code)
                rule.noted_server_down(server, now, self._limits)
        if now - self._weighed_at < self._limits.weigh_s:
            return
        self._weighed_at = now
        bounds_mb = {g: config.processes.memory_max_mb for g, config in self._configs.items()}
        for slot, memory_mb in outgrown(self._seen.slots.values(), bounds_mb, now, self._limits):
            self._log.warning("child_outgrown", child=slot.title, memory_mb=memory_mb)
            self._seen.slots[slot.key] = msgspec.structs.replace(slot, outgrown=True)

    # Perform.

    def _perform(self, action: rule.Action, now: float) -> None:
        match action:
            case rule.Spawn(role, index):
                self._spawn(role, index, now)
            case rule.Send(key, event, reason):
                slot = self._seen.slots[key]
                log = self._log.info if event == Event.DRAIN else self._log.warning
                log(f"child_{event}", child=slot.title, why=reason)
                self._children.send(key, _SIGNUMS[event])
                self._seen.slots[key] = child_state.moved(slot, event, now)
            case Ask(key, concurrency):
                self._children.ask(key, f"concurrency {concurrency}")
            case rule.Forget(key):
                del self._seen.slots[key]
            case rule.Fence(names):
                self._start_fence(names, now)
            case rule.KillFence():
                self._children.send(FENCE, signal.SIGKILL)
                self._seen.fencing.killed = True
            case rule.Restart(server):
                self._restart(server)
            case rule.Announce():
                self._announce()
            case rule.Settle():
                self._log.info("reloaded", generation=self._seen.rolling.generation)
                # It compares with the generation before, which is forgotten then.
                own_changes.note_reload(self._seen, self._configs, self._undone)
                rolling.settle(self._seen.rolling)
                self._end_reload(self._undone)
                if self._on_reloaded is not None:
                    path, content = self._on_reloaded(self._configs[self._seen.rolling.generation])
                    self._disk_child.write(path, content, mode=0o600)
            case rule.GoBack(sentence):
                self._log.error("reload_undone", why=sentence)
                self._undone = sentence
                rolling.go_back(self._seen.rolling)
                wanted.want(self._seen, self._configs[self._seen.rolling.generation])
            case rule.GiveUp(sentence):
                sys.stderr.write(last_sentence(sentence))
                self._stop(sentence)
            case rule.Finish(exit_code):
                self._exit_code = exit_code

    def _spawn(self, role: Role, index: int, now: float) -> None:
        generation = self._seen.rolling.generation
        config = self._configs[generation]
        new = Slot(role=role, index=index, since=now, generation=generation)
        slot = self._seen.slots.get((role, index)) or new
        self._born += 1
        name = f"{self._config.node_name}.{role}.{self._birth}-{self._born}"

        def run(pipes: Pipes, listener: socket.socket | None) -> int:
            configure_logs(config.logs.format == "json", config.logs.level)
            run_on(cpu_of(config, role, index))
            return self._runner(role, config, name, pipes, listener)

        try:
            child = self._children.fork(slot.key, slot.title, run)
        except OSError as e:
            self._log.error("fork_failed", child=slot.title, why=e.strerror)
            self._seen.slots[slot.key] = child_state.not_spawned(slot, str(e.strerror), now, self._limits)
            return
        self._seen.slots[slot.key] = child_state.spawned(slot, name, child.pid, now, generation)
        self._log.info("child_started", child=slot.title, pid=child.pid, holder=name)

    def _start_fence(self, names: tuple[str, ...], now: float) -> None:
        def run(pipes: Pipes, listener: socket.socket | None) -> int:
            return self._fencer(self._config, list(names))

        fencing = self._seen.fencing
        fencing.running, fencing.since = names, now
        try:
            self._children.fork(FENCE, "fence", run)
        except OSError as e:
            rule.noted_fence_end(fencing, 1, f"Cannot fork: {e.strerror}.", now, self._limits)

    def _restart(self, name: str) -> None:
        """Restart a watched server. Blocks until it serves, or its restart has failed."""
        server = self._seen.servers[name]
        try:
            with self._service.held_up(_RESTART_S):
                self._watchers[name].restart()
        except (EngineError, OSError) as e:
            self._log.error("server_restart_failed", server=name, why=str(e))
            rule.noted_server_down(server, time.monotonic(), self._limits)
            server.sentence = str(e)
            return
        server.down, server.up_at, server.sentence = False, time.monotonic(), ""
        self._log.info("server_restarted", server=name)

    def _announce(self) -> None:
        self._seen.announced = True
        self._log.info("supervisor_ready", processes=len(self._seen.slots))
        self._service.ready()
        with contextlib.suppress(OSError):  # It prints. A reader that has gone is no reason to end.
            self._on_ready()

    def _stop(self, sentence: str) -> None:
        self._seen.stopping = rule.Stopping(sentence=sentence)
        self._log.info("supervisor_stopping", why=sentence or "signal")
        self._service.stopping()
        self._children.close_listeners()
