"""Rule: which lines of a log are written when one kind of event comes again and again.

A store that is away fails every request and every step, and each failure is a line. Of each kind the
first `LINES` of a window are written, and then one line that says how many were left out. A window is
`WINDOW_S` long at first. Each that had to leave lines out makes the next twice as long, up to
`WINDOW_S_MAX`, so that a fault of a day writes some thousand lines and fills no disk. After a
window in which none was left out the first length counts again.

A kind is a level and the name of an event. Times are monotonic, in seconds.
"""

from __future__ import annotations

from typing import NamedTuple

LINES = 30
WINDOW_S, WINDOW_S_MAX = 10.0, 600.0
# Beyond so many kinds at a time the rest count as one. A kind is a name in the code: there are fewer.
_KINDS_MAX = 500

Kind = tuple[str, str]
_OTHERS: Kind = ("warning", "other events")


class LeftOut(NamedTuple):
    """What is said of a kind of which lines were left out: how many, within how many seconds."""

    kind: Kind
    lines: int
    seconds: float


class _Window:
    __slots__ = ("began_at", "lasts_s", "left_out", "lines")

    def __init__(self, now: float, lasts_s: float) -> None:
        self.began_at, self.lasts_s = now, lasts_s
        self.lines = self.left_out = 0


class Bursts:
    """Counts the lines of one process."""

    def __init__(self) -> None:
        self._windows: dict[Kind, _Window] = {}

    def forget(self) -> None:
        """Begin anew: in a process that was forked, the counts are its parent's."""
        self._windows.clear()

    def admit(self, kind: Kind, now: float) -> bool:
        """Whether a line of this kind is to be written now. It counts from then on."""
        if kind not in self._windows and len(self._windows) >= _KINDS_MAX:
            kind = _OTHERS
        window = self._windows.get(kind)
        if window is None:
            window = self._windows[kind] = _Window(now, WINDOW_S)
        if window.lines < LINES:
            window.lines += 1
            return True
        window.left_out += 1
        return False

    def ended(self, now: float, *, all_of_them: bool = False) -> list[LeftOut]:
        """End each window whose time is over, or all; what was left out in them is to be written."""
        found: list[LeftOut] = []
        for kind, window in list(self._windows.items()):
            seconds = now - window.began_at
            if seconds < window.lasts_s and not all_of_them:
                continue
            if window.left_out:
                found.append(LeftOut(kind, window.left_out, seconds))
                self._windows[kind] = _Window(now, min(window.lasts_s * 2, WINDOW_S_MAX))
            else:
                del self._windows[kind]
        return found
