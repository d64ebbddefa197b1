"""How busy the whole machine is, to tell a measurement on a quiet machine from one that others disturbed."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

# When others use more of this machine than so many CPUs, latencies say nothing of the engine.
OTHERS_MAX = 0.5
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, kw_only=True)
class MachineCpu:
    """How long all CPUs of the machine together were busy since its start, and when that was, seconds."""

    busy_s: float
    at_s: float

    def since(self, earlier: MachineCpu) -> float:
        """The seconds in between."""
        return max(0.001, self.at_s - earlier.at_s)

    def others(self, earlier: MachineCpu, ours_s: float) -> float:
        """How many CPUs others used in between, when we used `ours_s` seconds of CPU."""
        return max(0.0, self.busy_s - earlier.busy_s - ours_s) / self.since(earlier)


def machine_cpu_s() -> MachineCpu:
    """As it is now (proc_stat(5))."""
    fields = [int(field) for field in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]]
    idle = fields[3] + fields[4]
    return MachineCpu(busy_s=(sum(fields[:8]) - idle) / _TICKS, at_s=time.monotonic())
