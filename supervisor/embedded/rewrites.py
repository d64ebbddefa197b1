"""Service: lets Redis write its append-only file anew without others waiting for it.

Redis forks for that, and the child computes for some seconds. It gets a higher nice value, so that messages
do not wait for it.

Then Redis removes the old files. To give back hundreds of megabytes at once holds up every write to the same
disk: a synced write beside it took 100 to 155 ms in place of 4. So each file has a second name in a folder
beside. Once Redis has removed its own name, the file is cut from its end a little at a time, and a synced
write takes 14 ms at most.

    killed at any point      the second names stay, and the next run goes on with them
    frozen, never called     the old files take room until it goes on
    Redis starts again       it reads its own names only
    a name cannot be given   the file is removed by Redis, at once
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from engine.hosts.cpu_turns import LATER_NICE, give_way

# A child of Redis is looked for this often, new files every so many times; seconds.
LOOK_S = 0.2
_LINK_EVERY = 5
# An old file loses so much at a time, and then the disk has a rest, seconds.
CUT_BYTES, CUT_S = 8 << 20, 0.02
# Where Redis keeps its files (`appenddirname`), and where their second names are.
_FILES, _REPLACED = "appendonlydir", "replaced"
_MANIFEST, _DRAFT = ".manifest", "temp-"


class Rewrites:
    """What is done beside the embedded Redis of one data directory, a little at a time."""

    def __init__(self, data_dir: Path) -> None:
        self._redis = data_dir.absolute() / "redis"
        self._pid_file = data_dir.absolute() / "run" / "redis.pid"
        self._looks = 0

    def turn(self) -> float:
        """Do what is next; returns after how many seconds the next turn is due. What the disk refuses is
        passed over, and tried again."""
        with contextlib.suppress(OSError):
            if self._cut():
                return CUT_S
        with contextlib.suppress(OSError):
            if self._looks % _LINK_EVERY == 0:
                self._link()
        self._looks += 1
        self._let_children_give_way()
        return LOOK_S

    def _cut(self) -> bool:
        """Take a piece off a file that Redis has removed; whether there was one."""
        replaced = self._redis / _REPLACED
        if not replaced.is_dir():
            return False
        for file in replaced.iterdir():
            found = file.lstat()
            if found.st_nlink > 1:
                continue
            if found.st_size > CUT_BYTES:
                os.truncate(file, found.st_size - CUT_BYTES)
            else:
                file.unlink()
            return True
        return False

    def _link(self) -> None:
        """Give the files that Redis has now a second name. Raises OSError."""
        replaced = self._redis / _REPLACED
        for file in (self._redis / _FILES).iterdir():
            if file.name.endswith(_MANIFEST) or file.name.startswith(_DRAFT):
                continue
            found = file.lstat()
            if found.st_nlink == 1:
                replaced.mkdir(mode=0o700, exist_ok=True)
                # The number of the file is given to no other as long as this name is there.
                os.link(file, replaced / f"{found.st_ino}-{file.name}", follow_symlinks=False)

    def _let_children_give_way(self) -> None:
        """Raise the nice value of what the server has forked, once."""
        with contextlib.suppress(OSError, ValueError):
            pid = int(self._pid_file.read_text())
            of = Path(f"/proc/{pid}")
            children = (of / "task" / str(pid) / "children").read_text().split()
            # The process may have ended, and its number may be another's by now.
            if not children or os.fsencode(self._redis / "valkey.conf") not in (of / "cmdline").read_bytes():
                return
            later = min(19, os.getpriority(os.PRIO_PROCESS, pid) + LATER_NICE)
            for child in map(int, children):
                if os.getpriority(os.PRIO_PROCESS, child) < later:
                    give_way(child)
