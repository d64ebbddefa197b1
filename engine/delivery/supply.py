"""Rule: how much of its sending one worker keeps ready, by how fast it sends and how long a read takes.

The time of answers says what providers could take. A worker that is short of CPU, or whose Redis is slow,
sends less than that. What lies ready is no longer in its organisation's turn, so it is counted in time: as
much as is sent until more comes, with some to spare. Each read refills what lies ready, so this does not hold
the worker up: what lies ready is a multiple of what it sends in the time of one read. A worker that could
send more sends more with the next read, and then this grows at once.

    killed, frozen    this is forgotten, or too low for a moment
    idle              nothing is learnt: a worker that has nothing to send could send more

Times are monotonic seconds.
"""

from __future__ import annotations

import math

# The rate is measured over so long at least, seconds. One that is lower than before counts in part.
_WINDOW_S = 0.05
_SMOOTHING = 0.25
# What is read ahead of the sends, seconds: so many times as long as a read takes, no less than the second.
# It has to last for a read that takes twice as long as usual and begins when a quarter is gone.
_HOLD_READS, _HOLD_MIN_S = 3.0, 0.005
# What lies ready to be read, alike. With less than a read's time, a worker whose Redis is slow would send
# less and less.
_READY_READS, _READY_MIN_S = 2.0, 0.02
# Where cores are short, time passes between two reads of a backlog: so many times as long as a read takes, no
# longer than the second, seconds. Cores begin to be short where the worker waits for one in the first part of
# the time in which it wants one, and are from the second on.
_APART_READS, _APART_MAX_S = 0.8, 0.02
_SHORT_FROM, _SHORT = 0.05, 0.15
# It is all of that time where a read gives so many messages, and a part of it where it gives fewer: small
# reads cost others little, and the worker would send next to nothing. How much the newest read counts.
_APART_MESSAGES, _NEWEST_GAVE = 128, 0.25
# Turns are measured by what is sent in so many seconds.
_MOMENT_S = 0.02
# How long a read takes as long as nobody has seen one, seconds; how much the newest counts that took longer,
# or less long; and the longest that counts.
_READ_S = 0.005
_LONGER, _SHORTER = 0.5, 0.1
_READ_MAX_S = 1.0


class Supply:
    """What one worker sends, and how it comes by more."""

    def __init__(self) -> None:
        # Messages a second that it sends when it has more than it can send; infinity: as many as can be.
        self.rate = math.inf
        # How long a read takes that does not wait for messages, seconds.
        self.read_s = _READ_S
        # How many messages such a read gives.
        self._gives = 0.0
        # Sends that were begun when the present window began, and when that was; None: there is none.
        self._begun = 0
        self._since_s: float | None = None

    @property
    def hold_s(self) -> float:
        """How much of its sending it should have in hand beside what is being sent, seconds."""
        return max(_HOLD_MIN_S, _HOLD_READS * self.read_s)

    @property
    def ready_s(self) -> float:
        """How much of its sending should lie ready to be read, seconds."""
        return max(_READY_MIN_S, _READY_READS * self.read_s)

    def apart_s(self, waited: float) -> float:
        """How long after a read of a backlog the next one is written, seconds. `waited`: the part of the time
        in which the worker wanted a core that it waited for one.

        The worker sends less in all where what it has in hand does not last for it. Those who have no backlog
        find Redis and the cores free in between; where cores are not short, they find them free anyway.
        """
        short = min(1.0, max(0.0, (waited - _SHORT_FROM) / (_SHORT - _SHORT_FROM)))
        large = min(1.0, self._gives / _APART_MESSAGES)
        return short * large * min(_APART_MAX_S, _APART_READS * self.read_s)

    @property
    def moment(self) -> int:
        """How many messages it sends in 20 ms: a power of two, so that it seldom changes; 1 at least, and as
        long as nobody knows."""
        return 1 if self.rate == math.inf else 1 << round(math.log2(max(1.0, self.rate * _MOMENT_S)))

    def note_read(self, took_s: float) -> None:
        """Note how long a read took that did not wait for messages."""
        more_s = min(took_s, _READ_MAX_S) - self.read_s
        self.read_s += (_LONGER if more_s > 0 else _SHORTER) * more_s

    def note_given(self, messages: int) -> None:
        """Note how many messages such a read gave."""
        self._gives += _NEWEST_GAVE * (messages - self._gives)

    def note_begun(self, begun: int, now_s: float, *, more: bool) -> None:
        """Note how many sends were begun so far. `more`: there is more to send than the worker has read, and
        a provider takes it. Without that, how fast it sends says nothing."""
        if not more:
            self._since_s = None
        elif self._since_s is None:
            self._since_s, self._begun = now_s, begun
        elif now_s - self._since_s >= _WINDOW_S:
            rate = (begun - self._begun) / (now_s - self._since_s)
            self.rate = (
                rate if not rate < self.rate < math.inf else self.rate + _SMOOTHING * (rate - self.rate)
            )
            self._since_s, self._begun = now_s, begun
