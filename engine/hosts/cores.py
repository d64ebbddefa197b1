"""How many cores this process may use: those that it may run on, and no more than its control groups grant.

A container has a quota of CPU time, `cpu.max` of control groups version 2, or `cpu.cfs_quota_us` of
`cpu.cfs_period_us` of version 1; each group above may have a smaller one. Documentation: Linux,
admin-guide/cgroup-v2.rst and scheduler/sched-bwc.rst; proc(5) for /proc/self/cgroup and mountinfo.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from engine.hosts.control_groups import control_groups

_HUNDREDTH = 100


def usable_cores(root: Path = Path("/"), *, pinned: int = 0) -> float:
    """The cores, a whole number where no quota is smaller, else to a hundredth, at least 0.01.

    `root`: the folder that `proc` and the control groups are looked for in. `pinned`: how many cores the
    processes of the engine are spread over, where each has one of its own; 0: each has all.
    """
    cores = float(pinned or len(os.sched_getaffinity(0)))
    return max(0.01, min([cores, *_quotas(root)]))


def _quotas(root: Path) -> Iterator[float]:
    """The quota of each control group that this process is in, cores; of those that can be read."""
    for group in control_groups(root, "cpu"):
        quota = _quota_of(group)
        if quota is not None:
            yield quota


def _quota_of(group: Path) -> float | None:
    """The quota of one group, cores; None when it has none."""
    try:
        if (group / "cpu.max").exists():
            quota, period = (group / "cpu.max").read_text().split()
        else:
            quota = (group / "cpu.cfs_quota_us").read_text()
            period = (group / "cpu.cfs_period_us").read_text()
        # Without a quota it is "max", or -1.
        cores = int(quota) / int(period)
    except (OSError, ValueError, ZeroDivisionError):
        return None
    return round(cores * _HUNDREDTH) / _HUNDREDTH if cores > 0 else None
