"""Tells that the disk of the data directory hangs, or is nearly full, in time, and afterwards that it was.

The log may be on that disk: what is said while it is full is lost, so it is said before, when room is scarce,
and again when there is room. See `engine.disk_space` for what is scarce, and what is full.
"""

from __future__ import annotations

from typing import Any, Literal

from engine.disk_space import FULL, DiskSpace

# Room is scarce until there is so many times more than what was too little: else a line a second might
# follow a store that writes and removes the same file.
_AMPLE = 1.25
# A disk that has not answered for so long hangs, seconds. A store that syncs much may take some.
HANGS_S = 10.0

Level = Literal["ample", "low", "full"]


class DiskWatch:
    """Judges the disks of one data directory."""

    def __init__(self, data_dir: str, log: Any) -> None:
        """Without a data directory nothing is looked at."""
        self._data_dir, self._log = data_dir, log
        # Whether it hangs, and since when; the loop's time.
        self.hangs, self._hangs_at = False, 0.0
        self._level: Level = "ample"
        # Since when it is full; the loop's time.
        self._full_at = 0.0

    def judge(self, space: DiskSpace | None, silent_s: float, now: float) -> str:
        """Log what has changed; what an operator must know while the disk hangs or room is scarce, or "".

        `space`: what a look has found last, None for nothing. `silent_s`: for how long it has not answered.
        """
        if silent_s >= HANGS_S:
            sentence = (
                f"The disk of the data directory {self._data_dir} does not answer; see whether it is broken,"
                " or its server away. No embedded server is started again meanwhile."
            )
            if not self.hangs:
                self.hangs, self._hangs_at = True, now - silent_s
                self._log.error("disk_hangs", why=sentence)
            return sentence
        if self.hangs:
            self.hangs = False
            held_s = round(now - self._hangs_at)
            self._log.warning(
                "disk_answers_again",
                why=f"The disk of the data directory {self._data_dir} did not answer for {held_s} s.",
            )
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
