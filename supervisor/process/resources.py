"""What a process of a role may use of the machine: the memory that it has, and the CPU that it runs on."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from engine.config import ROLES, Config, Role
from engine.errors import ConfigError
from supervisor.process.child_state import ChildState, Limits, Slot

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_MIB = 1 << 20


def outgrown(
    slots: Iterable[Slot], bounds_mb: Mapping[int, int], now: float, limits: Limits
) -> list[tuple[Slot, int]]:
    """The slots whose process has more memory than its bound, and how much it has, MiB.

    `bounds_mb`: by generation of the configuration, 0 for no bound. A process that has not lived
    `lived_s` is not looked at: where the bound is too low, processes are replaced that often at most.
    """
    found = []
    for slot in slots:
        bound_mb = bounds_mb.get(slot.generation, 0)
        old_enough = slot.state == ChildState.READY and now - slot.started_at >= limits.lived_s
        if bound_mb and old_enough and not slot.outgrown and (mb := resident_mb(slot.pid)) > bound_mb:
            found.append((slot, mb))
    return found


def resident_mb(pid: int) -> int:
    """The resident memory of a process, MiB (proc(5), statm); 0 when it has ended.

    It counts what the process shares with the supervisor it was forked from, as `ps` does.
    """
    try:
        return int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1]) * _PAGE_BYTES // _MIB
    except (OSError, IndexError):
        return 0


def cpu_of(config: Config, role: Role, index: int) -> int | None:
    """The CPU for this process: those of `processes.cpus` in turn, in the order in which processes start.

    None: the kernel decides. An extra process, one of a replacement, shares a CPU for a while.
    """
    cpus = config.processes.cpus
    if not cpus:
        return None
    before: int = sum(getattr(config.roles, other) for other in ROLES[: ROLES.index(role)])
    return cpus[(before + index - 1) % len(cpus)]


def run_on(cpu: int | None) -> None:
    """Let this process run on that CPU alone; None: on any. Raises ConfigError when there is no such CPU."""
    if cpu is not None:
        try:
            os.sched_setaffinity(0, [cpu])
        except OSError as e:
            raise ConfigError(f"processes.cpus: {no_cpu(cpu)}") from e


def confirm_cpus(cpus: Sequence[int]) -> None:
    """Raise ConfigError when this process may not run on one of these CPUs."""
    if wrong := set(cpus) - os.sched_getaffinity(0):
        raise ConfigError(f"processes.cpus: {no_cpu(min(wrong))}")


def no_cpu(cpu: int) -> str:
    """One sentence that names the CPUs there are."""
    there = ", ".join(map(str, sorted(os.sched_getaffinity(0))))
    return f"the engine may not run on CPU {cpu}, only on {there}."
