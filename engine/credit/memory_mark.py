"""The mark from which on Redis counts as full. Steps that free memory need the room above it."""

from __future__ import annotations

from engine.errors import Full

# The share of its memory from which on no message is admitted.
MARK = 0.9
_RETRY_S = 5.0


class MemoryMark:
    """Whether Redis is above the mark; not, until its memory is known."""

    def __init__(self) -> None:
        # Whether messages are refused for want of memory.
        self.is_full = False

    def see(self, fullness: float) -> bool:
        """Note the share that is used, from 0 to 1; whether it has crossed the mark since the last one."""
        before, self.is_full = self.is_full, fullness >= MARK
        return self.is_full != before

    def check(self) -> None:
        """Raises Full while the share is at the mark or above."""
        if self.is_full:
            raise self.error()

    @staticmethod
    def error() -> Full:
        """The error with which messages are refused."""
        return Full(
            "Redis has little memory left, so no messages are accepted until some is free; "
            "send it again later.",
            retry_after=_RETRY_S,
        )
