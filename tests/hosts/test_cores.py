"""In a container as many cores count as it may use."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from engine.hosts.cores import usable_cores

HOST = "31 24 0:27 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate"
V1 = "33 25 0:29 {top} /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct"


@pytest.fixture(autouse=True)
def many_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(64)))


def machine(root: Path, groups: str, mount: str) -> Path:
    """What /proc says of a process in these control groups, mounted so."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(groups + "\n")
    (root / "proc/self/mountinfo").write_text(f"22 1 254:0 / / rw - ext4 /dev/root rw\n{mount}\n")
    return root


def put(root: Path, **texts: str) -> None:
    """Write files of the control groups."""
    for path, text in texts.items():
        file = root / "sys/fs/cgroup" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)


def test_the_smallest_quota_on_the_way_up_counts(tmp_path: Path) -> None:
    root = machine(tmp_path, "0::/kube/pod/container", HOST)
    put(root, **{"kube/pod/container/cpu.max": "300000 100000\n"})
    assert usable_cores(root) == 3.0
    put(root, **{"kube/pod/cpu.max": "150000 100000\n", "kube/cpu.max": "max 100000\n"})
    assert usable_cores(root) == 1.5
    put(root, **{"kube/pod/container/cpu.max": "50000 200000\n"})
    assert usable_cores(root) == 0.25
    put(root, **{"kube/pod/container/cpu.max": "1000 1000000\n"})
    assert usable_cores(root) == 0.01


def test_a_container_that_sees_itself_as_the_top_is_bound_as_well(tmp_path: Path) -> None:
    root = machine(tmp_path / "own", "0::/", HOST)
    put(root, **{"cpu.max": "150000 100000\n"})
    assert usable_cores(root) == 1.5
    # Docker without a namespace of control groups: the path is that of the host.
    root = machine(tmp_path / "host", "4:cpu,cpuacct:/docker/1f", V1.format(top="/docker/1f"))
    put(root, **{"cpu,cpuacct/cpu.cfs_quota_us": "250000\n", "cpu,cpuacct/cpu.cfs_period_us": "100000\n"})
    assert usable_cores(root) == 2.5


def test_version_1_is_read_where_the_controller_of_cpu_is(tmp_path: Path) -> None:
    groups = "9:cpuset:/other\n4:cpu,cpuacct:/a/b\n0::/"
    root = machine(tmp_path, groups, V1.format(top="/"))
    put(root, **{"cpu,cpuacct/a/b/cpu.cfs_quota_us": "-1\n", "cpu,cpuacct/a/b/cpu.cfs_period_us": "100000\n"})
    assert usable_cores(root) == 64.0
    put(root, **{"cpu,cpuacct/a/cpu.cfs_quota_us": "400000\n", "cpu,cpuacct/a/cpu.cfs_period_us": "100000\n"})
    assert usable_cores(root) == 4.0


def test_where_nothing_is_bound_or_can_be_read_it_is_what_it_may_run_on(tmp_path: Path) -> None:
    assert usable_cores(tmp_path) == 64.0
    root = machine(tmp_path / "some", "0::/a", HOST)
    put(root, **{"a/cpu.max": "max 100000\n", "cpu.max": "nonsense"})
    assert usable_cores(root) == 64.0
    # More than there is.
    put(root, **{"a/cpu.max": "9900000 100000\n"})
    assert usable_cores(root) == 64.0


def test_a_real_group_with_a_quota_binds_who_is_in_it() -> None:
    # Version 1 has a hierarchy for the CPU alone; in version 2 the group must have the controller.
    places = [Path("/sys/fs/cgroup/cpu"), Path("/sys/fs/cgroup/cpu,cpuacct"), Path("/sys/fs/cgroup")]
    group = next(place for place in places if place.is_dir()) / f"smsengine-test-{os.getpid()}"
    try:
        group.mkdir()
        if (group / "cpu.max").exists():
            (group / "cpu.max").write_text("50000 100000")
        else:
            (group / "cpu.cfs_quota_us").write_text("50000")
    except OSError:
        if group.is_dir():
            group.rmdir()
        pytest.skip("no control group can be made here")
    code = (
        f"import os; open('{group}/cgroup.procs', 'w').write(str(os.getpid()));"
        "from engine.hosts.cores import usable_cores; print(usable_cores())"
    )
    try:
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    finally:
        group.rmdir()
    assert done.stdout == "0.5\n"
