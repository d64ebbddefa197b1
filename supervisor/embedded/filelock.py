"""A lock on a file that one process holds and that ends with it, however it ends.

The locks are POSIX record locks, which belong to the process: unlike those of flock(2), they are
neither inherited nor prolonged by children forked from it. They have a trap: a process may take
its own lock twice, and closing either descriptor ends both. So this module keeps what this
process holds.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from pathlib import Path

# struct flock on 64-bit Linux, fcntl(2): type, whence, start, length, process.
_FLOCK = "hhqqixxxx"
_held: dict[Path, int] = {}


class Held(Exception):
    """The lock is taken: by process `holder`, None when the kernel does not name it."""

    def __init__(self, holder: int | None) -> None:
        super().__init__(f"held by process {holder}")
        self.holder = holder


def take(path: Path) -> None:
    """Take the lock, on a file that is made if need be. Raises Held, or OSError for a file it cannot make."""
    if path in _held:
        raise Held(os.getpid())
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as e:
        holder = _holder(fd)
        os.close(fd)
        if e.errno in (errno.EACCES, errno.EAGAIN):
            raise Held(holder) from e
        raise
    _held[path] = fd


def give_back(path: Path) -> None:
    """Give the lock back. Has no effect when this process does not hold it."""
    if (fd := _held.pop(path, None)) is not None:
        os.close(fd)


def holder(path: Path) -> int | None:
    """The process that holds the lock now, None when none does."""
    if path in _held:
        return os.getpid()
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        return _holder(fd)
    finally:
        os.close(fd)


def is_free(path: Path) -> bool:
    """Whether it is known that no process holds the lock; False also when its file is not there, or not ours
    to open."""
    if path in _held:
        return False
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return _asked(fd)[0] == fcntl.F_UNLCK
    except OSError:
        return False
    finally:
        os.close(fd)


def _holder(fd: int) -> int | None:
    try:
        kind, pid = _asked(fd)
    except OSError:
        return None
    return pid if kind != fcntl.F_UNLCK and pid > 0 else None


def _asked(fd: int) -> tuple[int, int]:
    """(type of the lock that another process holds, F_UNLCK for none; that process, 0 when it is of another
    namespace). Raises OSError."""
    asked = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
    kind, _, _, _, pid = struct.unpack(_FLOCK, fcntl.fcntl(fd, fcntl.F_GETLK, asked))
    return kind, pid
