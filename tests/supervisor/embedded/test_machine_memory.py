"""In a container or a service with a bound, as much memory counts as it may have."""

from __future__ import annotations

from pathlib import Path

from supervisor.embedded.machine_memory import usable_memory
from tests.hosts.test_cores import HOST, machine, put

V1 = "33 25 0:29 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory"
GB = 1 << 30


def with_memory(root: Path, total_bytes: int) -> Path:
    (root / "proc/meminfo").write_text(f"MemTotal:       {total_bytes // 1024} kB\nMemFree:   1 kB\n")
    return root


def test_the_smallest_bound_on_the_way_up_counts_and_never_more_than_the_machine_has(tmp_path: Path) -> None:
    root = with_memory(machine(tmp_path, "0::/system.slice/smsengine.service", HOST), 8 * GB)
    assert usable_memory(root) == 8 * GB
    put(
        root,
        **{"system.slice/smsengine.service/memory.max": "max\n", "system.slice/memory.max": f"{6 * GB}\n"},
    )
    assert usable_memory(root) == 6 * GB
    put(root, **{"system.slice/smsengine.service/memory.max": f"{2 * GB}\n"})
    assert usable_memory(root) == 2 * GB
    put(root, **{"system.slice/smsengine.service/memory.max": f"{99 * GB}\n"})
    assert usable_memory(root) == 6 * GB


def test_version_1_is_read_where_the_controller_of_memory_is(tmp_path: Path) -> None:
    root = with_memory(machine(tmp_path, "9:cpuset:/other\n4:memory:/a\n0::/", V1), 8 * GB)
    put(
        root,
        **{"memory/a/memory.limit_in_bytes": f"{3 * GB}\n", "memory/memory.limit_in_bytes": f"{1 << 62}\n"},
    )
    assert usable_memory(root) == 3 * GB


def test_where_nothing_can_be_read_it_is_not_known(tmp_path: Path) -> None:
    assert usable_memory(tmp_path) == 0
