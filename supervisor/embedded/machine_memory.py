"""How much memory this process and those beside it may have: no more than their control groups grant.

A container, or a service of systemd with `MemoryMax=`, has a bound: `memory.max` of control groups version 2,
or `memory.limit_in_bytes` of version 1; each group above may have a smaller one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from engine.hosts.control_groups import control_groups

_TOTAL = re.compile(r"^MemTotal: +(\d+) kB$", re.MULTILINE)


# What waits in Redis, while ClickHouse is away or providers are slow, may take this part of the memory. The
# rest is for the other processes, and for what changes while Redis writes its file anew.
_REDIS_PART = 0.5


def redis_memory() -> int:
    """The bytes that the embedded Redis may have: from 90 % of them on new messages are refused. Without a
    bound (0: the memory is not known) the kernel would end Redis, again and again."""
    return int(usable_memory() * _REDIS_PART)


def usable_memory(root: Path = Path("/")) -> int:
    """The bytes of the machine or of the smallest bound; 0 where that is not known.

    `root`: the folder that `proc` and the control groups are looked for in.
    """
    return min(_bounds(root), default=0)


def _bounds(root: Path) -> Iterator[int]:
    try:
        yield int(_TOTAL.findall((root / "proc/meminfo").read_text())[0]) * 1024
    except (OSError, IndexError):
        return
    for group in control_groups(root, "memory"):
        for name in ("memory.max", "memory.limit_in_bytes"):
            try:
                # Without a bound it is "max", or more than any machine has.
                yield int((group / name).read_text())
            except (OSError, ValueError):
                continue
