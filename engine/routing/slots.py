"""Rule: the slots that one worker has been given for one provider, and which message may go in them.

On a fast timeline slots flow: a message takes as many as it has segments, goes with the
first of them and takes the others early. On a slow one, where every segment is counted,
slots come in bundles, and a message takes one bundle that it fits in: at the time for which
Redis has written it down, neither in parts nor joined to another.

A slot may be used from its time on for as long as its run says, and is void after that.

Times are monotonic seconds.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from itertools import takewhile


class Run:
    """Slots (or bundles) one after another: `left` of them from `first_s` on, `step_s` apart."""

    __slots__ = ("bundle", "first_s", "left", "step_s", "usable_s")

    def __init__(self, first_s: float, step_s: float, left: int, usable_s: float, bundle: int) -> None:
        self.first_s = first_s
        self.step_s = step_s
        self.left = left
        # For so long each may be used.
        self.usable_s = usable_s
        # Segments of each.
        self.bundle = bundle

    def drop(self, count: int) -> None:
        """Take out the first ones."""
        self.first_s += count * self.step_s
        self.left -= count

    def void(self, now_s: float) -> int:
        """How many may not be used any more."""
        over_s = now_s - self.usable_s - self.first_s
        return min(self.left, math.ceil(over_s / self.step_s)) if over_s > 0 else 0


class Reserved:
    """What both kinds have in common."""

    def __init__(self) -> None:
        self._runs: deque[Run] = deque()
        # Segments that are held, and that became void unused since `lost` was last looked at.
        self.held = 0
        self.lost = 0
        # When the last slot comes.
        self.end_s = -math.inf

    def expire(self, now_s: float) -> None:
        """Forget what is void."""
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
    """Of a fast timeline."""

    def add(self, first_s: float, interval_s: float, segments: int, bundle: int, usable_s: float) -> None:
        self._append(Run(first_s, interval_s, segments, usable_s, 1))

    def take(self, segments: int, now_s: float) -> bool:
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
        """When a message can go in what is held; None: it cannot."""
        if segments > self.held:
            return None
        at_s, missing = self._runs[0].first_s, segments
        for run in self._runs:
            count = min(missing, run.left)
            # Early by no more than if all its slots were in one run.
            at_s = max(at_s, run.first_s + (count - segments) * run.step_s)
            missing -= count
            if not missing:
                break
        return at_s

    def missing(self, waiting_segments: int, sizes: Sequence[int], at_once: int) -> tuple[int, int]:
        """(segments, bundle) to be asked for: whole messages, about `at_once` segments of them.

        A run that ended within a message would often end in slots that become void before the
        next run comes, and a worker that took what little there is would never have enough.
        Where `sizes` does not reach that far, all that waits is asked for, in bundles of what
        it does reach.
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
    """Of a slow timeline."""

    def add(self, first_s: float, interval_s: float, segments: int, bundle: int, usable_s: float) -> None:
        self._append(Run(first_s, bundle * interval_s, segments // bundle, usable_s, bundle))

    def take(self, segments: int, now_s: float) -> bool:
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
        """When a message can go in what is held; None: it cannot."""
        return min((run.first_s for run in self._runs if segments <= run.bundle), default=None)

    def missing(self, waiting_segments: int, sizes: Sequence[int], at_once: int) -> tuple[int, int]:
        """(segments, bundle) to be asked for: the first messages of one size that fit in nothing held."""
        held = [[run.bundle, run.left] for run in self._runs]
        for at, size in enumerate(sizes):
            fitting = next((entry for entry in held if size <= entry[0] and entry[1]), None)
            if fitting is None:
                alike = sum(1 for _ in takewhile(size.__eq__, sizes[at:]))
                return (alike * size, size)
            fitting[1] -= 1
        return (0, 1)
