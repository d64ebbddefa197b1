"""Rule: whether Redis counts as away, by how it answers the flushes of one holder. Pure.

It counts as away when it has given nothing but refusals and broken connections for `DEAD_S`, or has owed the
outcome of a flush for `SILENT_S`, as a busy one may for a moment. It does not any more when an outcome comes,
unless it still owes another for so long.

Times are seconds of one monotonic clock.
"""

from __future__ import annotations

from collections.abc import Iterable

DEAD_S = 0.3
SILENT_S = 1.0


class RedisAnswers:
    """What is owed to one holder, and what came of it."""

    def __init__(self) -> None:
        self.away = False
        # Why it counts as away, a sentence; "" when it does not.
        self.obstacle = ""
        # By shard, when its flush under way was first sent, and when one first failed since any was answered.
        self._sent_s: dict[int, float] = {}
        self._failed_s: float | None = None
        # Why the last flush that was not answered was not, "" since another was.
        self._reason = ""

    def sent(self, shards: Iterable[int], now_s: float) -> None:
        """Note that the flushes of these shards are sent for the first time."""
        self._sent_s |= dict.fromkeys(shards, now_s)

    def ended(self, shard: int) -> None:
        """Note that the outcome of a shard's flush is known."""
        self._sent_s.pop(shard, None)

    def forget(self) -> None:
        """Nothing is owed any more: the epoch is over."""
        self._sent_s.clear()

    def failed(self, reason: str, now_s: float) -> bool:
        """Note that flushes were not answered; whether the reason is another than that of the last ones."""
        is_new, self._reason = reason != self._reason, reason
        if self._failed_s is None:
            self._failed_s = now_s
        return is_new

    def answered(self, now_s: float) -> None:
        """Note that an outcome came."""
        self._failed_s = None
        self._reason = ""
        if self.away:
            self.away = any(sent_s <= now_s - SILENT_S for sent_s in self._sent_s.values())
            self.obstacle = self.obstacle if self.away else ""

    def look(self, now_s: float) -> bool:
        """Whether it has come to be away now."""
        if self.away:
            return False
        silent = now_s - min(self._sent_s.values(), default=now_s) >= SILENT_S
        dead = self._failed_s is not None and now_s - self._failed_s >= DEAD_S
        self.away = silent or dead
        if self.away:
            self.obstacle = self._reason or "Redis gives no answer."
        return self.away
