"""What systemd is told of the supervisor's processes, and when.

Without systemd nothing is told. The words themselves are those of `systemd.Notifier`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from supervisor.process import child_state
from supervisor.process.child_state import ChildState, Limits
from supervisor.process.reconcile import Observed
from supervisor.process.systemd import Notifier


class Service:
    """Derives every notification from what the supervisor observes."""

    def __init__(self, notifier: Notifier, limits: Limits, log: Any) -> None:
        self._notifier, self._limits, self._log = notifier, limits, log
        # systemd has heard of a reload and waits for its end.
        self._reloading = False
        self._told: object = None
        # Longest from one change of a process to the next while starting, reloading or stopping, seconds.
        self._step_s = (
            max(limits.ready_s, limits.drain_s, limits.leftovers_s)
            + limits.abort_s
            + limits.kill_s
            + limits.fence_s
            + limits.backoff_max_s
        )

    def ready(self) -> None:
        """Every process is, for the first time."""
        self._notifier.ready()

    def begin_reload(self, observed: Observed) -> None:
        """The configuration is about to be read again."""
        if observed.announced and observed.stopping is None:
            self._reloading = True
            self._notifier.reloading()

    def end_reload(self, observed: Observed) -> None:
        """Nothing is left to be read or replaced; does nothing while a process is still to be replaced."""
        if self._reloading and not observed.rolling.under_way:
            self._reloading = False
            self._notifier.ready()

    def stopping(self) -> None:
        """The drain begins."""
        self._notifier.stopping(self._step_s)

    def publish(self, observed: Observed) -> None:
        """The status line, when it has changed; while not all is well with more time for the next step."""
        alive = sum(s.alive for s in observed.slots.values())
        ready = sum(s.state == ChildState.READY for s in observed.slots.values())
        how = f"{ready} of {sum(observed.wanted.values())} processes ready"
        well = False
        if observed.stopping is not None:
            how = f"draining, {alive} processes left"
        elif not observed.announced:
            how = f"starting, {how}"
        elif observed.rolling.under_way:
            how = f"reloading, {how}"
        else:
            well = True
        # A process that is replaced by another is progress too, though the line reads the same.
        now = how, [(s.pid, s.state) for s in observed.slots.values()]
        if now == self._told:
            return
        self._told = now
        if well:
            self._notifier.status(how)
        else:
            self._notifier.progress(how, self._step_s)

    def judge(self, observed: Observed, now: float) -> None:
        """A sign of life, when one is due: as long as every process beats, or is being dealt with in time."""
        if self.judgement_in_s(now) > 0:
            return
        stuck = [s.title for s in observed.slots.values() if child_state.overdue(s, now, self._limits)]
        if stuck:
            self._log.error("watchdog_withheld", stuck=", ".join(stuck))
        self._notifier.judge(not stuck, now)

    def judgement_in_s(self, now: float) -> float:
        """Seconds until `judge` has something to do; infinity: never."""
        return self._notifier.judgement_in_s(now)

    @contextmanager
    def held_up(self, within_s: float) -> Iterator[None]:
        """What runs inside keeps the supervisor from everything else, for `within_s` seconds at most."""
        with self._notifier.held_up(within_s):
            yield
