"""What a process of a role and its supervisor agree on.

The supervisor asks a process to end by DRAIN_SIGNAL, a signal of its own. Both systemd (SIGTERM)
and a terminal (SIGINT) send their signals to every process at once, and a process that others
still need must not end before them. The process speaks to the supervisor by lines on a pipe
(`engine/boot/heartbeat.py`) and by its exit code: 0 when it has drained, CANNOT_BOOT, or another
when it is to be replaced. On a second pipe the supervisor writes to it, in lines too: so far how many sends a
worker may have in flight, `concurrency <number>`. By a signal for each level it says from which on a
process logs (`engine/logs/telemetry.py`).
"""

from __future__ import annotations

import signal
from typing import NamedTuple

# The supervisor's wish that a process finishes what it has in hand and ends.
DRAIN_SIGNAL = signal.SIGUSR1
# Exit code of a process that cannot work as it is configured: an operator must change a setting.
CANNOT_BOOT = 3


class Pipes(NamedTuple):
    """A process's ends of its two pipes: where it writes, and where it reads what the supervisor writes."""

    lines_fd: int
    orders_fd: int
