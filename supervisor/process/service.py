"""Which notifications about its processes the supervisor sends to systemd, and when.

`systemd.Notifier` writes and sends them; without systemd it sends nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from engine.written_numbers import plural
from supervisor.process import child_state
from supervisor.process.child_state import ChildState, Limits
from supervisor.process.reconcile import Observed
from supervisor.process.systemd import Notifier


class Service:
    """Derives each notification from what the supervisor observes."""

    def __init__(self, notifier: Notifier, limits: Limits, log: Any) -> None:
        self._notifier, self._limits, self._log = notifier, limits, log
        # systemd knows of a reload and waits for its end.
        self._reloading = False
        # The status line that was sent last, and the states of the processes then.
        self._published: object = None
        # Longest time between two changes of processes during a start, a reload or a stop, seconds.
        self._step_s = (
            max(limits.ready_s, limits.drain_s, limits.leftovers_s)
            + limits.abort_s
            + limits.kill_s
            + limits.fence_s
            + limits.backoff_max_s
        )

    def ready(self) -> None:
        """Notify that every process is ready, for the first time."""
        self._notifier.ready()

    def begin_reload(self, observed: Observed) -> None:
        """Notify that the configuration is about to be read again; only while the engine is up."""
        if observed.announced and observed.stopping is None:
            self._reloading = True
            self._notifier.reloading()

    def end_reload(self, observed: Observed) -> None:
        """Notify that the reload is over. Does nothing while a process is still to be replaced."""
        if self._reloading and not observed.rolling.under_way:
            self._reloading = False
            self._notifier.ready()

    def stopping(self) -> None:
        """Notify that the drain begins."""
        self._notifier.stopping(self._step_s)

    def publish(self, observed: Observed, now: float) -> None:
        """Send the status line when it, or a process, has changed.

        During a start, a reload or a drain this also asks systemd for more time for the next step.
        """
        alive = sum(s.alive for s in observed.slots.values())
        ready = sum(s.state == ChildState.READY for s in observed.slots.values())
        wanted = sum(observed.wanted.values())
        how = f"{ready} of {wanted} {plural('process', wanted)} ready"
        well = False
        if observed.stopping is not None:
            how = f"draining, {alive} {plural('process', alive)} left"
        elif not observed.announced:
            how = f"starting, {how}"
        elif observed.rolling.under_way:
            how = f"reloading, {how}"
        else:
            how += self._trouble(observed, now)
            well = True
        # A replaced process is progress too, although the line stays the same.
        line = how, [(s.pid, s.state) for s in observed.slots.values()]
        if line == self._published:
            return
        self._published = line
        if well:
            self._notifier.status(how)
        else:
            self._notifier.progress(how, self._step_s)

    def _trouble(self, observed: Observed, now: float) -> str:
        """What an operator must look at: what dies again and again or cannot start, a reload that failed."""
        ill = [s for s in observed.slots.values() if child_state.degraded(s, now, self._limits)]
        words = ["the node is drained"] if observed.wish.drained else []
        words += [f"{s.title} is degraded: {s.last_words}" for s in ill]
        words += [
            f"{s.name} cannot be started: {s.sentence}" for s in observed.servers.values() if s.sentence
        ]
        if observed.disk:
            words.append(observed.disk)
        if observed.reloads.sentence:
            words.append(f"the last reload changed nothing: {observed.reloads.sentence}")
        return "".join(f"; {sentence}" for sentence in words)

    def judge(self, observed: Observed, now: float) -> None:
        """Send a sign of life when one is due, unless a process is overdue: see `child_state.overdue`.

        systemd's watchdog ends the engine when it gets no sign of life.
        """
        if self.judgement_in_s(now) > 0:
            return
        stuck = [s.title for s in observed.slots.values() if child_state.overdue(s, now, self._limits)]
        if stuck:
            self._log.error("watchdog_withheld", stuck=", ".join(stuck))
        self._notifier.judge(not stuck, now)

    def judgement_in_s(self, now: float) -> float:
        """Seconds until `judge` is due; infinity: never."""
        return self._notifier.judgement_in_s(now)

    @contextmanager
    def held_up(self, within_s: float) -> Iterator[None]:
        """Make the watchdog wait `within_s` seconds longer while what runs inside blocks the supervisor."""
        with self._notifier.held_up(within_s):
            yield
