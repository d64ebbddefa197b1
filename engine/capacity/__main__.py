"""`python -m engine.capacity`: a `PlanRequest` on stdin, and its answer on stdout, both JSON.

A plan takes seconds of a CPU, so who serves others has it made by a process of its own. What it may take is
bounded, so that it ends also when nobody waits for it any more.
"""

from __future__ import annotations

import resource
import sys

import msgspec

from engine.capacity.wish import PlanRequest, planned

# Of its CPU, and of its memory.
_SECONDS_MAX, _OCTETS_MAX = 60, 4 << 30

if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_CPU, (_SECONDS_MAX, _SECONDS_MAX))
    resource.setrlimit(resource.RLIMIT_AS, (_OCTETS_MAX, _OCTETS_MAX))
    request = msgspec.json.decode(sys.stdin.buffer.read(), type=PlanRequest)
    sys.stdout.buffer.write(msgspec.json.encode(planned(request)))
