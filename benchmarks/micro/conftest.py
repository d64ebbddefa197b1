"""Every run of the parts notes how fast the machine is, so that runs on several machines can be compared."""

from __future__ import annotations

import hashlib
import time
from typing import Any

# So often the same work is done; the shortest time counts.
_ROUNDS = 200


def pytest_benchmark_update_machine_info(machine_info: dict[str, Any]) -> None:
    """Add how long the machine takes for work that no change of the engine moves."""
    machine_info["calibration_us"] = round(min(_work_s() for _ in range(_ROUNDS)) * 1e6, 1)


def _work_s() -> float:
    """How long a fixed piece of work takes, seconds: Python's loop, its tables, and compiled code."""
    began_s = time.perf_counter()
    known: dict[bytes, int] = {}
    for n in range(2000):
        key = b"%d" % (n * 2654435761 % 1000)
        known[key] = known.get(key, 0) + n
    hashlib.sha256(b"".join(sorted(known)) * 20).digest()
    return time.perf_counter() - began_s
