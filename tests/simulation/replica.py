"""The replica of the simulated Redis: how much of what was written it has.

It follows at once, except while it is *behind*: from a moment on it gets nothing, until it has caught up, or
until it becomes the master and what it has not is lost.
"""

from __future__ import annotations


class Replica:
    def __init__(self) -> None:
        # How many commands have written on the master.
        self.offset = 0
        # Of each time that it is behind now, by its number: how much it had when that began.
        self._had: dict[int, int] = {}
        self._number = 0

    def has(self, offset: int) -> bool:
        return offset <= min(self._had.values(), default=self.offset)

    def fall_behind(self) -> int:
        """From now on; the number of this time, for `catch_up`."""
        self._number += 1
        self._had[self._number] = self.offset
        return self._number

    def catch_up(self, number: int) -> None:
        del self._had[number]
