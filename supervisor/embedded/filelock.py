"""A lock on a file that one process holds and that ends with it, however it ends.

POSIX record locks belong to the process: children forked from it neither inherit nor
prolong them, unlike flock(2). Their trap is that a process may take its own lock twice,
and that closing either descriptor ends both; so what this process holds is kept here.
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
    """Somebody has the lock: process `holder`, None when the kernel does not tell."""

    def __init__(self, holder: int | None) -> None:
        super().__init__(f"held by process {holder}")
        self.holder = holder


def take(path: Path) -> None:
    """Raises Held, or OSError when the file cannot be made."""
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
    """Without effect when this process does not hold it."""
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


def _holder(fd: int) -> int | None:
    asked = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
    try:
        kind, _, _, _, pid = struct.unpack(_FLOCK, fcntl.fcntl(fd, fcntl.F_GETLK, asked))
    except OSError:
        return None
    return pid if kind != fcntl.F_UNLCK and pid > 0 else None
