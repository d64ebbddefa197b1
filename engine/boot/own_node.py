"""What the supervisor of this node has written of its processes, run/processes.json, for the other roles."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import msgspec

from engine.metrics.catalogue import METRICS
from engine.metrics.snapshot import Counts, Numbers, key_of
from engine.nodes.records import OwnNode

_WANTED = METRICS["smsengine_processes_wanted"]
_RESTARTS = METRICS["smsengine_process_restarts"]


def own_node(data_dir: str) -> OwnNode:
    """What the supervisor has written; nothing when there is no data directory, or no file."""
    try:
        return msgspec.json.decode(Path(data_dir, "run", "processes.json").read_bytes(), type=OwnNode)
    except (OSError, msgspec.MsgspecError):
        return OwnNode()


def numbers_of(own: OwnNode) -> tuple[Counts, Numbers]:
    """(restarts of each process, how many processes of each role there are to be), as metrics."""
    wanted = Counter(one.role for one in own.processes)
    restarts = {
        key_of(_RESTARTS, {"role": one.role, "process": f"{one.role} {one.index}"}): float(one.restarts)
        for one in own.processes
    }
    return Counts(counters={_RESTARTS.name: restarts}), {
        _WANTED.name: {key_of(_WANTED, {"role": role}): float(count) for role, count in wanted.items()}
    }
