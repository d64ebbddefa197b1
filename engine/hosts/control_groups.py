"""The control groups that this process is in: where a container's bounds on CPU time and memory stand.

Documentation: Linux, admin-guide/cgroup-v2.rst and cgroup-v1; proc(5) for /proc/self/cgroup and mountinfo.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path


def control_groups(root: Path, controller: str) -> Iterator[Path]:
    """The folders of the groups that have `controller` ("cpu", "memory"), and of all above them, as far as
    they are mounted here; none where that cannot be read.

    `root`: the folder that `proc` and the control groups are looked for in.
    """
    try:
        groups = (root / "proc/self/cgroup").read_text().splitlines()
        mounts = (root / "proc/self/mountinfo").read_text().splitlines()
    except (OSError, UnicodeDecodeError):
        return
    for line in groups:
        # Hierarchy, controllers, path; version 2 has no controllers here.
        _, controllers, path = line.split(":", 2)
        if not controllers:
            yield from _upwards(root, mounts, path, "")
        elif controller in controllers.split(","):
            yield from _upwards(root, mounts, path, controller)


def _upwards(root: Path, mounts: list[str], path: str, controller: str) -> Iterator[Path]:
    """The folders of a group and of all above it. `controller`: of version 1; "": it is version 2."""
    for line in mounts:
        before, _, after = line.partition(" - ")
        kind, _, options = after.split(" ", 2)
        if kind != ("cgroup" if controller else "cgroup2"):
            continue
        if controller and controller not in options.split(","):
            continue
        top, place = (re.sub(r"\\(\d{3})", _octal, field) for field in before.split(" ")[3:5])
        mounted = root / place.lstrip("/")
        # A container sees its own group as the top, also where /proc names the path on its host.
        inside = Path(path).relative_to(top) if Path(path).is_relative_to(top) else Path()
        if ".." in inside.parts or not (mounted / inside).is_dir():
            inside = Path()
        yield from (mounted / above for above in (inside, *inside.parents))
        return


def _octal(escape: re.Match[str]) -> str:
    return chr(int(escape[1], 8))
