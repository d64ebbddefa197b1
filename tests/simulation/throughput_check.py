"""A provider with a throughput is given no more than that, all workers together."""

from __future__ import annotations

from collections import deque

from engine.routing.timing import timing


class ThroughputCheck:
    """What one provider was given, in true time."""

    def __init__(self, rate: float) -> None:
        """`rate`: its throughput, segments a second."""
        self._most = timing(rate).most
        self._lately: deque[tuple[float, int]] = deque()
        self._segments = 0

    def given(self, segments: int, now_s: float) -> str:
        """It is given a message. What is wrong, or ""."""
        lately = self._lately
        # A nanosecond: what is exactly a second apart is not in one.
        while lately and lately[0][0] <= now_s - 1 + 1e-9:
            self._segments -= lately.popleft()[1]
        lately.append((now_s, segments))
        self._segments += segments
        if self._segments <= self._most or len(lately) == 1:
            return ""
        return f"a provider is given {self._segments} segments within a second, allowed are {self._most}"
