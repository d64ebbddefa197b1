"""Rule: how far a worker reads ahead of a provider that is its only one, and how much lies ready in Redis.

What is read is no longer in its organisation's turn. With one provider nothing is held up by a message that
stays unread. So a lane with a throughput takes only what it can send soon, and reads on when half of that
has gone. With several providers a message may wait for one and be in the way of another, so all are read,
and `engine.delivery.lane` puts off what is too much.

Times are monotonic seconds.
"""

from __future__ import annotations

import math

from engine.delivery.lane import Lane
from engine.delivery.supply import Supply

# As much waits in a limited lane as it sends until the horizon, which is as far ahead as slots come, or in so
# many times as long as a read takes. Half of that is left when it reads on, and has to last until more has
# come, and slots for it.
_WAITING_READS = 4.0
# In hand for a limited lane beside what is being sent is what it sends in so many times as long as a read
# takes.
_AHEAD_READS = 5.0
# What an unlimited lane has in hand beside what is being sent is no more than the second, in parts of the
# sends that may be in flight. It is no less than the first, or than so much of a slow lane's time, seconds,
# and so many messages.
_AHEAD_MIN, _AHEAD_MAX = 0.5, 10
_SLOW_S, _SLOW_MIN = 0.05, 8
# The rate that is assumed of a provider that has not answered yet and has no throughput, messages a second.
_FAST = 5000.0


def rate(lane: Lane, now_s: float) -> float:
    """Segments a second that a lane can send; without a throughput, messages a second, by the usual time of
    an answer."""
    if lane.allowance is not None:
        return lane.allowance.rate_seen(now_s)
    return lane.in_flight_max / lane.awaited.usual_s if lane.awaited.usual_s else _FAST


def ahead(lane: Lane, concurrency: int, now_s: float, supply: Supply, *, far: bool) -> int:
    """How many messages to have in hand for a lane beside those that are being sent. `concurrency`: how many
    may be in flight. Without `far`: the least."""
    if lane.allowance is not None:
        # What it sends until more comes.
        most = rate(lane, now_s) * _AHEAD_READS * supply.read_s if far else 0
        return max(1, int(_AHEAD_MIN * concurrency), min(_AHEAD_MAX * concurrency, int(most)))
    if not lane.awaited.usual_s:
        return max(1, int(_AHEAD_MIN * concurrency))
    seen = min(rate(lane, now_s), supply.rate)
    return ahead_at(concurrency, seen, supply.hold_s if far else 0.0)


def ahead_at(concurrency: int, rate: float, hold_s: float) -> int:
    """How many messages to have in hand for a lane without a throughput that sends so many messages a second;
    `hold_s`: so much of its sending, seconds, as far as that is not too much."""
    least = max(1, int(_AHEAD_MIN * concurrency))
    least = min(least, max(_SLOW_MIN, int(rate * _SLOW_S)))
    return max(least, min(_AHEAD_MAX * concurrency, int(rate * hold_s)))


def worth_reading(concurrency: int, ahead: int) -> int:
    """How much room there must be for a read: one of only a few entries costs as much as one of many, and the
    providers have work until it is answered."""
    return max(1, min((concurrency + ahead) // 4, ahead // 2))


def room(lane: Lane, now_s: float, read_s: float) -> int | None:
    """How many more messages to read for a lane that is the only one, 0 while that is not worth a read; None:
    as many as the worker takes in hand. `read_s`: how long a read takes, seconds."""
    if lane.allowance is None:
        return None
    ahead_s = max(lane.allowance.clock.horizon_s, _WAITING_READS * read_s)
    most = max(1, math.ceil(rate(lane, now_s) * ahead_s))
    return most - lane.waiting_segments if lane.waiting_segments <= most / 2 else 0
