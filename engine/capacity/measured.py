"""What autoscaling is told of a queue. Times are monotonic seconds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Measured(NamedTuple):
    """What is measured of one queue at one time, as far as this node is to send it."""

    at_s: float
    # Messages a second that arrive lately; and messages that wait and no worker has been given.
    arrivals_per_s: float
    unread: float
    # Times of the providers that work, lately, by the bounds ANSWER_S; empty: nobody has answered lately. And
    # how much of each is a wait for the loop of the worker, seconds.
    answers: Sequence[int] = ()
    wait_s: float = 0.0
    # Whether answers wait for the loops now, so that their times say little of the provider; the part of the
    # time in which the busiest loop has work, 0 to 1, and the sum of these parts of all loops; and CPU of a
    # worker that a send takes, seconds, 0: it is not known.
    late: bool = False
    busy: float = 0.0
    busy_loops: float = 0.0
    message_s: float = 0.0
    # The most sends that were in flight at one time lately, in all workers of the node.
    in_flight: float = 0.0
    # Messages a second that these providers take; None: no limit.
    throughput: float | None = None
    # Sends in flight that they allow one process; None: no limit. And the part of its concurrency that it
    # can use.
    window: int | None = None
    part: float = 1.0
    # Why nothing may be concluded; "": it may. `calm`: the time counts as calm all the same.
    hold: str = ""
    calm: bool = False
