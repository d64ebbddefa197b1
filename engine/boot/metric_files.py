"""What each process has counted, as files in DATA/run/metrics: one a process, and one for all the dead.

The file of a process has two halves. Once a second the process writes its snapshot into the half that is not
the newest, under the next number and with a checksum; so the other half is whole at any time. It holds a
lock (flock) on its file for as long as it lives, and the kernel ends the lock with the process. The name of
the file is the process's, which is never used again. A file that is written in place stays in the page
cache; one that was replaced each second would be written to the disk each second.

A process that starts adds the files of the dead to `totals`, which is replaced as a whole, and then deletes
them. So there are never more files than processes that live, or have died since one was started.

    what happens                                 what a reader finds
    a process is killed                          all that it counted up to its last second
    it is killed, or frozen, while it writes     its snapshot before that: the half that is whole
    a file is added up between two of its reads  the version of `totals` is another: it reads all again
    the one that adds up is killed before it     the totals before, and the files
      replaces `totals`
    it is killed before it deletes the files     their names in `totals`: they do not count again
    it is frozen there                           the same; nobody else adds up until it goes on or is killed
    two add up at once                           one has the lock `adding`, the other leaves it to that one
    the power fails                              perhaps older files, or none: counters begin anew, which
                                                 Prometheus takes for a restart
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote, unquote

import msgspec

from engine.metrics.snapshot import Snapshot, Totals, folded

# Number, length and CRC-32 of what follows.
_HEAD = struct.Struct("<QII")
_HALF_MIN = 1 << 16
_SUFFIX, _DRAFT = ".counts", ".draft"
_TOTALS, _ADDING = "totals", "adding"
# A draft that is older, seconds, belongs to a process that was killed before it had a file.
_DRAFT_S = 60.0
# How often a reader begins anew because files were added up meanwhile.
_TRIES = 10

_encode = msgspec.msgpack.Encoder().encode
_snapshot = msgspec.msgpack.Decoder(Snapshot).decode
_totals = msgspec.msgpack.Decoder(Totals).decode


class Counted(NamedTuple):
    """What all processes have counted."""

    totals: Totals
    # By file, of the living and of those that died and are not in the totals.
    snapshots: dict[str, Snapshot]
    # The files of the living.
    living: set[str]


def process_of(file: str) -> str:
    """The name of the process that a file of `Counted` belongs to."""
    return unquote(file.removesuffix(_SUFFIX))


class CountsFile:
    """The file of this process. Made by `opened`; `write` puts a snapshot into it."""

    def __init__(self, directory: Path, name: str) -> None:
        """`name` is the process's, never used again. Raises OSError."""
        self._path = directory / f"{quote(name, safe='')}{_SUFFIX}"
        self._half = _HALF_MIN
        self._number = 0
        self._fd = self._made()

    @property
    def name(self) -> str:
        """The name of the file."""
        return self._path.name

    def write(self, snapshot: Snapshot) -> None:
        """Put `snapshot` in the place of the last but one. Raises OSError."""
        blob = _encode(snapshot)
        self._number += 1
        packed = _HEAD.pack(self._number, len(blob), zlib.crc32(blob)) + blob
        if len(packed) <= self._half:
            os.pwrite(self._fd, packed, self._number % 2 * self._half)
            return
        while self._half < len(packed):
            self._half *= 2
        old, self._fd = self._fd, self._made(packed)
        # Only now: whoever gets the lock of a file at its place takes its process for dead.
        os.close(old)

    def close(self) -> None:
        """Give the file up; it stays, to be added to the totals."""
        os.close(self._fd)

    def _made(self, packed: bytes = b"") -> int:
        """A file at the process's place, locked, with `packed` in it; its descriptor."""
        draft = self._path.with_suffix(_DRAFT)
        fd = os.open(draft, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            # Before it is at its place, so that nobody finds it there without its lock.
            fcntl.flock(fd, fcntl.LOCK_EX)
            # A disk that is full refuses it here, and never what is written later.
            os.posix_fallocate(fd, 0, 2 * self._half)
            os.pwrite(fd, packed, self._number % 2 * self._half)
            os.replace(draft, self._path)
        except OSError:
            os.close(fd)
            raise
        return fd


def read_all(directory: Path) -> Counted:
    """What all processes have counted. Raises OSError when the directory cannot be read."""
    found = _read_once(directory)
    for _ in range(_TRIES):
        if _read_totals(directory).version == found.totals.version:
            break
        found = _read_once(directory)
    return found


def add_up(directory: Path) -> None:
    """Add the files of dead processes to the totals, and delete them. Raises OSError.

    Does nothing while another process does it.
    """
    with _locked(directory / _ADDING) as is_ours:
        if not is_ours:
            return
        totals = _read_totals(directory)
        for name in totals.names:
            (directory / name).unlink(missing_ok=True)
        found = _read_once(directory)
        names = {path.name for path in directory.glob(f"*{_SUFFIX}")}
        dead = [name for name in names - found.living if not _is_alive(directory / name)]
        counted = {name: found.snapshots[name].counts for name in dead if name in found.snapshots}
        if counted or totals.names:
            _replace(directory, folded(totals, counted))
        for name in dead:
            (directory / name).unlink(missing_ok=True)
        for draft in directory.glob(f"*{_DRAFT}"):
            with contextlib.suppress(FileNotFoundError):
                if time.time() - draft.stat().st_mtime > _DRAFT_S:
                    draft.unlink()


def _read_once(directory: Path) -> Counted:
    totals = _read_totals(directory)
    found = Counted(totals, {}, set())
    for path in sorted(directory.glob(f"*{_SUFFIX}")):
        if path.name in totals.names:
            continue
        with contextlib.suppress(FileNotFoundError), _opened(path) as fd:
            # In this order: what is read of one that is dead by then is its last word.
            alive = _has_owner(fd)
            snapshot = _newest(fd)
            if os.stat(path).st_ino != os.fstat(fd).st_ino:
                # It has just put a larger file there, which was written before this one was given up.
                with _opened(path) as larger:
                    alive, snapshot = _has_owner(larger), _newest(larger)
            if snapshot is not None:
                found.snapshots[path.name] = snapshot
            if alive:
                found.living.add(path.name)
    return found


def _newest(fd: int) -> Snapshot | None:
    """The newest snapshot in a file that is whole; None: there is none, or of another version."""
    half = os.fstat(fd).st_size // 2
    heads = [(_HEAD.unpack(os.pread(fd, _HEAD.size, at).ljust(_HEAD.size, b"\0")), at) for at in (0, half)]
    for (number, length, checksum), at in sorted(heads, reverse=True):
        blob = os.pread(fd, length, at + _HEAD.size) if number else b""
        if blob and zlib.crc32(blob) == checksum:
            with contextlib.suppress(msgspec.DecodeError):
                return _snapshot(blob)
    return None


def _has_owner(fd: int) -> bool:
    """Whether the process of this file lives: it holds the lock."""
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    fcntl.flock(fd, fcntl.LOCK_UN)
    return False


def _is_alive(path: Path) -> bool:
    """As `_has_owner`, for the file that is at this place now: a living process may have replaced it."""
    try:
        with _opened(path) as fd:
            return _has_owner(fd) or os.stat(path).st_ino != os.fstat(fd).st_ino
    except FileNotFoundError:
        return True


def _read_totals(directory: Path) -> Totals:
    try:
        return _totals((directory / _TOTALS).read_bytes())
    except (FileNotFoundError, msgspec.DecodeError):
        return Totals()


def _replace(directory: Path, totals: Totals) -> None:
    draft = directory / f"{_TOTALS}{_DRAFT}"
    draft.write_bytes(_encode(totals))
    os.replace(draft, directory / _TOTALS)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[int]:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[bool]:
    """Hold the lock of this file in the block; yields False when another process has it."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
    finally:
        os.close(fd)
