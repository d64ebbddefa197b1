"""Service: the time of the stores, in one process.

All times that are written or compared are those of Redis' clock (`TIME`), the one clock that all machines
share. So a validity, a `send_at` and the order of a message's events do not depend on the clocks of the
nodes. Each process measures how far Redis' clock is from its own (`engine.clocks.clock_estimate`): once
before it works, and then with each heartbeat, as one more command of a round trip that is made anyway.

    not answered         the measurement is missing; the last one goes on to count
    frozen meanwhile     the round trip is long, so that it tells little and changes little
    machine asleep       the steady clock goes on meanwhile, as that of Redis does
    the machine's own    changes nothing but what is said of it: a node that is off by more than a second
    time of day is set   says so; while it is off by more than a minute, it takes in and sends nothing
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from structlog.typing import FilteringBoundLogger

from engine.clocks.clock_estimate import (
    NOTABLE_US,
    OFF_MAX_US,
    Bounds,
    GivenTime,
    difference,
    improved,
    measured,
)
from engine.errors import Broken, Unavailable

# What it must come back to before it is right again, microseconds.
_RIGHT_US = 800_000
_RETRY_S = 5.0

# The command that a measurement is; it is the first of its round trip.
TIME = ("TIME",)


def steady_us() -> int:
    """Microseconds of a clock that nobody sets and that goes on while the machine sleeps."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1000


def wall_us() -> int:
    """The machine's own time of day: UTC, microseconds since 1970."""
    return time.time_ns() // 1000


class StoreClock:
    """The clock of one process; see the module. Measure it before it is first read."""

    def __init__(
        self,
        log: FilteringBoundLogger,
        *,
        steady_us: Callable[[], int] = steady_us,
        wall_us: Callable[[], int] = wall_us,
    ) -> None:
        """`steady_us` never goes back; `wall_us` is the machine's time of day. Both in microseconds."""
        self._log = log
        self._steady_us = steady_us
        self._wall_us = wall_us
        self._bounds: Bounds | None = None
        # The middle of the bounds.
        self._ahead_us: int | None = None
        self._given = GivenTime()
        # How far the machine's time of day is ahead of the stores', and whether that was said.
        self.ahead_us = 0
        # Whether it is so far off that this process is not to work.
        self.off = False
        self._noticed = False

    @property
    def measured(self) -> bool:
        """Whether it may be read."""
        return self._ahead_us is not None

    def now_us(self) -> int:
        """The stores' time: UTC, microseconds since 1970. It never goes back."""
        if self._ahead_us is None:
            raise Broken("The stores' clock was read before it was measured.")
        return self._given.at(self._steady_us(), self._ahead_us)

    def asked(self) -> int:
        """What to give to `answered`: call this right before a round trip that begins with `TIME`."""
        return self._steady_us()

    def answered(self, asked: int, reply: Sequence[bytes]) -> None:
        """Take the reply of `TIME`: [seconds, microseconds]. Call this right after the round trip."""
        answered_us, own_us = self._steady_us(), self._wall_us()
        store_us = int(reply[0]) * 1_000_000 + int(reply[1])
        self._bounds = improved(self._bounds, measured(asked, answered_us, store_us))
        self._ahead_us = self._bounds.middle_us
        self.ahead_us = own_us - answered_us - self._ahead_us
        self.off = abs(self.ahead_us) > OFF_MAX_US
        self._say(abs(self.ahead_us) - self._bounds.half_us)

    def check(self) -> None:
        """Raises Unavailable while the machine's clock is too far off."""
        if self.off:
            raise Unavailable(
                f"The clock of this node is {difference(self.ahead_us)} that of Redis; more than a minute is"
                " not allowed. Set it, for example by NTP.",
                retry_after=_RETRY_S,
            )

    def _say(self, off_us: int) -> None:
        """One line when the machine's clock is found to be off by `off_us` at least, one when it is right."""
        if off_us > NOTABLE_US and not self._noticed:
            self._noticed = True
            self._log.warning("the clock of this node is off", seconds=round(self.ahead_us / 1e6, 1))
        elif off_us < _RIGHT_US and self._noticed:
            self._noticed = False
            self._log.info("the clock of this node is right again", seconds=round(self.ahead_us / 1e6, 1))
