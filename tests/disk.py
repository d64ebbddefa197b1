"""A small disk that a test fills, and one that hangs."""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest


class Disk:
    """A small file system of its own."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self._ballast = place / "ballast"

    def fill_up_to(self, free_mb: int) -> None:
        """Leave so much room, MiB."""
        with self._ballast.open("ab", buffering=0) as file:
            while shutil.disk_usage(self.place).free > free_mb << 20:
                file.write(b"x" * (1 << 20))

    def fill(self) -> None:
        """Leave no byte of room."""
        with contextlib.suppress(OSError), self._ballast.open("ab", buffering=0) as file:
            while True:
                file.write(b"x" * 4096)

    def make_room(self) -> None:
        """Undo `fill`."""
        self._ballast.unlink(missing_ok=True)


@contextlib.contextmanager
def hung_disk(place: Path) -> Iterator[None]:
    """At `place`, a directory, a file system whose calls never return; those under way fail at the end.

    It is one of FUSE that nobody serves. Skips the test where nobody may mount it.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    try:
        fd = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        pytest.skip("there is no FUSE here")
    options = b"fd=%d,rootmode=40000,user_id=0,group_id=0" % fd
    if libc.mount(b"hung", bytes(place), b"fuse", 0, options):
        os.close(fd)
        pytest.skip("only root may mount a disk here")
    try:
        yield
    finally:
        os.close(fd)
        subprocess.run(["umount", "--lazy", str(place)], check=True)


@contextlib.contextmanager
def small_disk(place: Path, size_mb: int) -> Iterator[Disk]:
    """A disk of `size_mb` at `place`, an empty directory. Skips the test where nobody may mount."""
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size_mb}m,mode=755", "tmpfs", str(place)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("only root may mount a small disk here")
    try:
        yield Disk(place)
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)
