"""Tells that the disk of the data directory is nearly full, in time, and afterwards that it was.

The log may be on that disk: what is said while it is full is lost, so it is said before, when room is scarce,
and again when there is room. See `engine.disk_space` for what is scarce, and what is full.
"""

from __future__ import annotations

from typing import Any, Literal

from engine.disk_space import FULL, DiskSpace, scarcest

# Room is scarce until there is so many times more than what was too little: else a line a second might
# follow a store that writes and removes the same file.
_AMPLE = 1.25

Level = Literal["ample", "low", "full"]


class DiskWatch:
    """Looks at the disks of one data directory."""

    def __init__(self, data_dir: str, log: Any) -> None:
        """Without a data directory nothing is looked at."""
        self._data_dir, self._log = data_dir, log
        self._level: Level = "ample"
        # Since when it is full; the loop's time.
        self._full_at = 0.0

    def look(self, now: float) -> str:
        """Look once, and log what has changed; what an operator must know while room is scarce, or ""."""
        space = scarcest(self._data_dir)
        if space is None:
            return ""
        before, self._level = self._level, self._level_of(space)
        of = f"The disk of the data directory {space.place}"
        if before == "full" and self._level != "full":
            held_s = round(now - self._full_at)
            self._log.warning("disk_was_full", why=f"{of} had less than {FULL} MB free for {held_s} s.")
        sentence = f"{of} has {space.free_mb} MB free, of {space.total_mb} MB; make room."
        if self._level == "full":
            sentence = f"{of} has less than {FULL} MB free; make room."
            if before != "full":
                self._full_at = now
                self._log.error("disk_full", why=sentence)
        elif self._level == "low" and before == "ample":
            self._log.warning("disk_low", why=sentence)
        return "" if self._level == "ample" else sentence

    def _level_of(self, space: DiskSpace) -> Level:
        if space.free_mb < FULL:
            return "full"
        least_mb = space.low_below_mb * (1.0 if self._level == "ample" else _AMPLE)
        return "low" if space.free_mb < least_mb else "ample"
