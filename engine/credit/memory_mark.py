"""The mark above which Redis counts as full, so that what frees memory has room below its limit."""

from __future__ import annotations

from engine.errors import Full

# The share of its memory from which on nothing new is taken in.
MARK = 0.9
_RETRY_S = 5.0


class MemoryMark:
    """What is known of the memory of Redis; as long as nothing is, it has enough."""

    def __init__(self) -> None:
        self._full = False

    def see(self, fullness: float) -> bool:
        """Take note of the share that is used; whether it went over the mark, or back below it."""
        before, self._full = self._full, fullness >= MARK
        return self._full != before

    def check(self) -> None:
        """Raises Full while the share is at the mark or above."""
        if self._full:
            raise self.error()

    @staticmethod
    def error() -> Full:
        """Why a message is refused."""
        return Full(
            "Redis has little memory left, so no messages are accepted until some is free; "
            "send it again later.",
            retry_after=_RETRY_S,
        )
