"""How much room is left on the disks of the data directory: of the directory itself, and of stores in it that
have a disk of their own."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

# The embedded servers, by the names of their directories.
_STORES = ("redis", "postgres", "clickhouse")
_MIB = 1 << 20
# Room is scarce below a twentieth of the disk, but never below more than the first, nor less than the second;
# with less than the third a store does not start again. MiB.
_LOW_MAX, _LOW_MIN, FULL = 512, 200, 20


class DiskSpace(msgspec.Struct, frozen=True, kw_only=True):
    """The room on the disk of the data directory that is nearest to full, MiB."""

    # A directory on that disk.
    place: str
    free_mb: int
    total_mb: int
    # With less than this, room is scarce.
    low_below_mb: int

    @property
    def is_low(self) -> bool:
        """Whether room is scarce."""
        return self.free_mb < self.low_below_mb


def scarcest(data_dir: str) -> DiskSpace | None:
    """The one of its disks that is nearest to full; None where there is no data directory, or no answer.

    A disk that hangs holds the caller up, as each write to it would."""
    if not data_dir:
        return None
    seen: dict[int, DiskSpace] = {}
    for place in (Path(data_dir), *(Path(data_dir, name) for name in _STORES)):
        try:
            disk = place.stat().st_dev
            if disk not in seen:
                seen[disk] = _space(place)
        except OSError:
            continue
    return min(seen.values(), key=lambda space: space.free_mb / space.low_below_mb, default=None)


def _space(place: Path) -> DiskSpace:
    """Of the disk that holds `place`. Raises OSError."""
    found = os.statvfs(place)
    total_mb = found.f_blocks * found.f_frsize // _MIB
    return DiskSpace(
        place=str(place),
        free_mb=found.f_bavail * found.f_frsize // _MIB,
        total_mb=total_mb,
        low_below_mb=max(_LOW_MIN, min(_LOW_MAX, total_mb // 20)),
    )
