"""Service: lets Redis write its append-only file anew without others waiting for it.

Redis forks for that, and the child computes for some seconds. It gets a higher nice value, so that messages
do not wait for it.

Then Redis removes the old files. To give back hundreds of megabytes at once holds up every write to the same
disk: a synced write beside it took 100 to 155 ms in place of 4. So each file has a second name in a folder
beside. Once Redis has removed its own name, the file is cut from its end a little at a time, and a synced
write takes 14 ms at most.

The folders belong to the user that Redis runs as, and root may be who cuts. So no link is followed, and
what is cut is a file whose only name is in the folder of second names.

    killed at any point      the second names stay, and the next run goes on with them
    frozen, never called     the old files take room until it goes on
    Redis starts again       it reads its own names only
    a name cannot be given,  the file is removed by Redis, at once
    or is not counted
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
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
        # Whether this file system counts the names of a file.
        self._counts_names = True

    def turn(self) -> float:
        """Do what is next; returns after how many seconds the next turn is due. What the disk refuses is
        passed over, and tried again."""
        with contextlib.suppress(OSError):
            if self._cut():
                return CUT_S
        if self._looks % _LINK_EVERY == 0 and self._counts_names:
            with contextlib.suppress(OSError):
                self._link()
        self._looks += 1
        self._let_children_give_way()
        return LOOK_S

    def _cut(self) -> bool:
        """Take a piece off a file that Redis has removed; whether there was one. Raises OSError."""
        with _folder(self._redis / _REPLACED) as replaced, _folder(self._redis / _FILES) as files:
            for name in os.listdir(replaced):
                if not _is_replaced(name, replaced, files):
                    continue
                file = os.open(
                    name, os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=replaced
                )
                try:
                    found = os.fstat(file)
                    if found.st_nlink == 1 and found.st_size > CUT_BYTES:
                        os.ftruncate(file, found.st_size - CUT_BYTES)
                        return True
                finally:
                    os.close(file)
                os.unlink(name, dir_fd=replaced)
                return True
        return False

    def _link(self) -> None:
        """Give the files that Redis has now a second name. Raises OSError."""
        with _folder(self._redis / _FILES) as files:
            for name in os.listdir(files):
                if name.endswith(_MANIFEST) or name.startswith(_DRAFT):
                    continue
                found = os.stat(name, dir_fd=files, follow_symlinks=False)
                if found.st_nlink == 1 and stat.S_ISREG(found.st_mode):
                    self._link_one(name, found.st_ino, files)

    def _link_one(self, name: str, number: int, files: int) -> None:
        with contextlib.suppress(FileExistsError):
            os.mkdir(self._redis / _REPLACED, 0o700)
        with _folder(self._redis / _REPLACED) as replaced:
            # The number of the file is given to no other as long as this name is there.
            second = f"{number}-{name}"
            os.link(name, second, src_dir_fd=files, dst_dir_fd=replaced, follow_symlinks=False)
            if os.stat(name, dir_fd=files, follow_symlinks=False).st_nlink < 2:
                self._counts_names = False
                os.unlink(second, dir_fd=replaced)

    def _let_children_give_way(self) -> None:
        """Raise the nice value of what the server has forked, once."""
        with contextlib.suppress(OSError, ValueError):
            pid = int(self._pid_file.read_text())
            of = Path(f"/proc/{pid}")
            children = (of / "task" / str(pid) / "children").read_text().split()
            # The process may have ended, and its number may be another's by now.
            if not children or os.fsencode(self._redis / "valkey.conf") not in (of / "cmdline").read_bytes():
                return
            later = min(19, os.getpriority(os.PRIO_PROCESS, 0) + LATER_NICE)
            for child in map(int, children):
                # Without short turns they have Redis's own, which may be lower than that of this process.
                if (nice := os.getpriority(os.PRIO_PROCESS, child)) < later:
                    give_way(child, by=later - nice)


@contextlib.contextmanager
def _folder(path: Path) -> Iterator[int]:
    """The descriptor of a folder that is none by way of a link. Raises OSError."""
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        yield folder
    finally:
        os.close(folder)


def _is_replaced(second: str, replaced: int, files: int) -> bool:
    """Whether this second name is the last one of a file: Redis has removed its own. Raises OSError."""
    found = os.stat(second, dir_fd=replaced, follow_symlinks=False)
    if found.st_nlink > 1 or not stat.S_ISREG(found.st_mode):
        return False
    # Redis never gives a name twice. Some file systems say 1 of a file with two names.
    return second.partition("-")[2] not in os.listdir(files)
