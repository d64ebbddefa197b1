"""Rule: the slots that one worker holds for one provider, and which message may be sent in them.

A slot is leave to send one segment at one time. There are two kinds of timelines.

On a *fast* timeline slots are a flow (`FlowingSlots`). A message takes as many slots as it has
segments. It is sent at the time of the first one and uses the others before their time; the
tolerance of the timeline allows for that.

On a *slow* timeline, where Redis counts every segment, slots come in bundles (`BundledSlots`).
A message takes one bundle that is large enough, at the time of the bundle. A bundle is never
divided between messages, and two bundles are never joined for one message.

Each slot may be used from its time on, for as long as its run says. After that it is void.

Times are monotonic seconds.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from itertools import takewhile


class Run:
    """Slots (or bundles of slots) at equal distances: `left` of them, the first at `first_s`, each
    `step_s` after the one before."""

    __slots__ = ("bundle", "clock_s", "first_s", "left", "step_s", "usable_s")

    def __init__(
        self, first_s: float, step_s: float, left: int, usable_s: float, bundle: int, clock_s: float
    ) -> None:
        """`usable_s`: how long after its time each may be used. `bundle`: the segments of each; 1 for
        single slots. `clock_s`: what our clock was taken to show when that of Redis was at 0."""
        self.clock_s = clock_s
        self.first_s = first_s
        self.step_s = step_s
        self.left = left
        self.usable_s = usable_s
        self.bundle = bundle

    def drop(self, count: int) -> None:
        """Remove the first `count`."""
        self.first_s += count * self.step_s
        self.left -= count

    def void(self, now_s: float) -> int:
        """How many of them may not be used any more at `now_s`."""
        over_s = now_s - self.usable_s - self.first_s
        return min(self.left, math.ceil(over_s / self.step_s)) if over_s > 0 else 0


class Reserved:
    """The slots that are reserved for one worker at one provider; base of both kinds."""

    def __init__(self) -> None:
        self._runs: deque[Run] = deque()
        # Segments whose slots are reserved and not used; some of them may be void by now.
        self.held = 0
        # Segments whose slots became void unused, ever.
        self.lost = 0
        # The time of the last slot.
        self.end_s = -math.inf

    def expire(self, now_s: float) -> None:
        """Remove the slots that are void at `now_s`, and count them as lost."""
        emptied = False
        for run in self._runs:
            if count := run.void(now_s):
                run.drop(count)
                self.held -= count * run.bundle
                self.lost += count * run.bundle
                emptied = emptied or not run.left
        if emptied:
            self._runs = deque(run for run in self._runs if run.left)

    def _append(self, run: Run) -> None:
        self._runs.append(run)
        self.held += run.left * run.bundle
        self.end_s = run.first_s + (run.left - 1) * run.step_s


class FlowingSlots(Reserved):
    """The slots of a fast timeline: single ones, which any message may take."""

    def add(
        self,
        first_s: float,
        interval_s: float,
        segments: int,
        bundle: int,
        usable_s: float,
        clock_s: float = 0.0,
    ) -> None:
        """Take in slots for `segments` segments, the first at `first_s`, each `interval_s` after the one
        before, each usable for `usable_s`. `bundle` means nothing on a fast timeline. `clock_s`: as of a
        `Run`."""
        self._append(Run(first_s, interval_s, segments, usable_s, 1, clock_s))

    def take(self, segments: int, now_s: float) -> bool:
        """Use the slots of a message of so many segments; False: it cannot go at `now_s`, and no slot
        is used."""
        if not self._runs:
            return False
        run = self._runs[0]
        if segments < run.left and 0 <= now_s - run.first_s <= run.usable_s:
            run.first_s += segments * run.step_s
            run.left -= segments
            self.held -= segments
            return True
        self.expire(now_s)
        goes_at_s = self.goes_at_s(segments)
        if goes_at_s is None or goes_at_s > now_s:
            return False
        self.held -= segments
        while segments:
            run = self._runs[0]
            count = min(segments, run.left)
            run.drop(count)
            segments -= count
            if not run.left:
                self._runs.popleft()
        return True

    def goes_at_s(self, segments: int) -> float | None:
        """When a message of so many segments can go; None: too few slots are held."""
        if segments > self.held:
            return None
        at_s, missing = self._runs[0].first_s, segments
        for run in self._runs:
            count = min(missing, run.left)
            # A slot is used before its time by no more than if all slots of the message were in one run.
            at_s = max(at_s, run.first_s + (count - segments) * run.step_s)
            missing -= count
            if not missing:
                break
        return at_s

    def first_s(self, segments: int, now_s: float) -> float:
        """The time of the first slot that a message of so many segments would take, by the clock of Redis:
        there all slots of one timeline keep their distances. So many are held."""
        return self._runs[0].first_s - self._runs[0].clock_s

    def missing(self, waiting_segments: int, sizes: Sequence[int], at_once: int) -> tuple[int, int]:
        """What to ask Redis for, as (segments, segments of a bundle); (0, 1): nothing.

        `waiting_segments`: of all messages that wait. `sizes`: the segments of the first of them,
        in order, at least one. It asks for whole messages, of about `at_once` segments together.
        The reason: when a run ends in the middle of a message, its last slots often become void
        before the next run comes, and a worker that takes whatever there is may never have enough
        slots for a large message. When `sizes` ends before `at_once` segments, it asks for all that
        waits, in bundles of the segments that `sizes` covers.
        """
        short = max(waiting_segments, sizes[0]) - self.held
        if short <= 0:
            return (0, 1)
        covered, bundle = self.held, 0
        for size in sizes:
            if covered >= size:
                covered -= size
                continue
            covered = 0
            bundle += size
            if bundle >= at_once:
                return (bundle, bundle)
        if sum(sizes) >= waiting_segments:
            return (bundle, max(1, bundle))
        bundle = bundle or min(short, max(1, at_once))
        return (max(short, bundle), bundle)


class BundledSlots(Reserved):
    """The slots of a slow timeline: bundles, each for one message."""

    def add(
        self,
        first_s: float,
        interval_s: float,
        segments: int,
        bundle: int,
        usable_s: float,
        clock_s: float = 0.0,
    ) -> None:
        """Take in bundles of `bundle` segments, `segments` segments together, the first at `first_s`;
        from slot to slot it is `interval_s`, and each bundle is usable for `usable_s`. `clock_s`: as of
        a `Run`."""
        self._append(Run(first_s, bundle * interval_s, segments // bundle, usable_s, bundle, clock_s))

    def take(self, segments: int, now_s: float) -> bool:
        """Use a bundle for a message of so many segments; False: it cannot go at `now_s`, and no bundle
        is used."""
        self.expire(now_s)
        for run in self._runs:
            if segments <= run.bundle and run.first_s <= now_s:
                self.held -= run.bundle
                run.drop(1)
                if not run.left:
                    self._runs.remove(run)
                return True
        return False

    def goes_at_s(self, segments: int) -> float | None:
        """When a message of so many segments can go; None: no bundle that is held is large enough."""
        return min((run.first_s for run in self._runs if segments <= run.bundle), default=None)

    def first_s(self, segments: int, now_s: float) -> float:
        """The time of the bundle that a message of so many segments would take, by the clock of Redis. One
        that is large enough is held."""
        fitting = [run for run in self._runs if segments <= run.bundle]
        run = next((run for run in fitting if run.first_s <= now_s), fitting[0])
        return run.first_s - run.clock_s

    def missing(self, waiting_segments: int, sizes: Sequence[int], at_once: int) -> tuple[int, int]:
        """What to ask Redis for, as (segments, segments of a bundle); (0, 1): nothing.

        `sizes`: the segments of the messages that wait first, in order. It looks for the first
        message that fits in no bundle that is held, and asks for bundles for that message and for
        those of the same size right behind it. The other arguments mean nothing on a slow timeline.
        """
        held = [[run.bundle, run.left] for run in self._runs]
        for at, size in enumerate(sizes):
            fitting = next((entry for entry in held if size <= entry[0] and entry[1]), None)
            if fitting is None:
                alike = sum(1 for _ in takewhile(size.__eq__, sizes[at:]))
                return (alike * size, size)
            fitting[1] -= 1
        return (0, 1)
