"""Rule: waiting times that have a formula.

Sources. Erlang C: A. K. Erlang, 1917; computed by the recursion for Erlang B as in R. B. Cooper,
Introduction to Queueing Theory, 2nd ed. 1981, 3.4. Several servers with general services: A. O. Allen,
Probability, Statistics and Queueing Theory, 2nd ed. 1990, 5.3 (Allen and Cunneen).

Loads are in erlangs: arrivals a second times the mean time of a service, seconds.
"""

from __future__ import annotations

import math


def erlang_b(servers: int, load: float) -> float:
    """The part of the arrivals that find all `servers` busy where nobody waits (M/M/c/c)."""
    blocked = 1.0
    for n in range(1, servers + 1):
        blocked = load * blocked / (n + load * blocked)
    return blocked


def erlang_c(servers: int, load: float) -> float:
    """The part of the arrivals that have to wait (M/M/c); 1 when the load is more than the servers can do."""
    if load >= servers:
        return 1.0
    blocked = erlang_b(servers, load)
    return blocked / (1 - load / servers * (1 - blocked))


def wait_quantile_s(
    servers: int, load: float, service_s: float, part: float, variation: float = 1.0
) -> float:
    """The wait that `part` (0 to 1) of the arrivals do not exceed, seconds: exact for M/M/c.

    `variation`: half the sum of both squared coefficients of variation stretches it, as it stretches the
    mean.
    """
    if load >= servers:
        return math.inf
    waiting = erlang_c(servers, load)
    if waiting <= 1 - part:
        return 0.0
    return math.log(waiting / (1 - part)) * service_s / (servers - load) * variation


def drain_s(backlog: float, arrivals: float, capacity: float) -> float:
    """After so many seconds a backlog is gone when `arrivals` a second go on; infinite if it never is."""
    if backlog <= 0:
        return 0.0
    return backlog / (capacity - arrivals) if capacity > arrivals else math.inf
