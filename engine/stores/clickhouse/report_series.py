"""The series of counts that reports can be read from, as far as one process knows.

It is asked once for many reports: what is read of a series says whether it is still there, and how far it is
counted. Nothing is lost with this process.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence

import msgspec

from engine.activity.report_rolling import Series

# So long it is taken to be known which series there are, seconds.
_KEPT_S = 20.0


class KnownSeries:
    """Of one server."""

    def __init__(self, ask: Callable[[], Awaitable[tuple[int, list[Series]]]]) -> None:
        """`ask` gives the time of the server, seconds since 1970, and the series that can be read."""
        self._ask = ask
        # When they were asked for, seconds of this machine; the server's time, and the series.
        self._kept: tuple[float, int, list[Series]] | None = None

    async def known(self, *, anew: bool) -> tuple[float, list[Series], bool]:
        """The time of the server, seconds since 1970, and the series that can be read, as they were some
        seconds ago, unless `anew`. And whether this is new. Raises what `ask` raises."""
        if anew or self._kept is None or time.monotonic() - self._kept[0] > _KEPT_S:
            now_s, series = await self._ask()
            self._kept = (time.monotonic(), now_s, series)
            return now_s, series, True
        kept_s, now_s, series = self._kept
        return now_s + time.monotonic() - kept_s, series, False

    def went_on(self, series: Sequence[Series], counted: Sequence[int]) -> None:
        """Note how far series are counted, milliseconds since 1970; a late answer sets none back."""
        if self._kept is None:
            return
        kept_s, now_s, known = self._kept
        until = {(of.zone, of.from_ms): ms for of, ms in zip(series, counted, strict=True)}
        self._kept = (
            kept_s,
            now_s,
            [
                msgspec.structs.replace(of, until_ms=max(of.until_ms, until.get((of.zone, of.from_ms), 0)))
                for of in known
            ],
        )
