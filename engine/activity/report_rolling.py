"""Service: events counted by the days and months of time zones, for reports over months.

Counting as each row is archived would cost each insert as much as the activity itself. So an archiver counts
once a minute what has been archived since, and a report adds what came after. A zone has counts when a
report was asked for in its days. UTC has them always, and by the quarter of an hour too: the parts of days
at both ends of a report are read from these, in every zone.

Narrow counts have one of queue, country and provider or none of them, and those of UTC are by the hour as
well, so that a report over a year by hour, or by the days of a zone that is not counted yet, reads few rows
(`engine.stores.clickhouse.report_narrow_sql`). A series of an earlier version has none, and loses them when a
process of that version counts on. Another one is then made from it and follows it; until that is filled,
reports use the first without its narrow counts.

What is counted of a zone is a series. It has two parts: all rows of the streams before `from_ms`, made once
as a whole (`fill`; `derive` for another zone than UTC), and those after it, window by window (`roll`). Only
rows before which nothing waits in the streams are counted, so that none comes late.

One process does this, the archiver that has shard 0, once a minute; the first time as soon as what it saw
archived when it began is there to be read, so that one that is restarted again and again counts too. What
happens when it is stopped, and another goes on:

  step    killed                              frozen, wakes after the take-over
  begin   the series is there or is not       a second series of the zone begins; the later one is used, the
                                              other dropped
  fill    nothing of it is counted, or all    it replaces the same by the same
  derive  the series is there or is not,      it fills a series of its own, or the same by the same; one that
          and not filled: it is dropped and   was dropped meanwhile has no end, and is dropped once more
          another one begun
  roll    the window is counted or is not,    the store compares where the window begins with how far all is
          and says itself that it is          counted, and keeps one of two that come at once
  drop    its later part is gone, or both:    dropped once more
          reports do not use such a series

  An insert of the archiver that was sent twice may be answered before the first of the two is there to be
  read. So what left the streams less than `VISIBLE_S` ago is not counted yet.

  ClickHouse away   the next round goes on; reports read what is counted so far, and what came after it
  never answered    the next round looks how far all is counted
  a zone fails      the others are counted all the same; it is tried again after a minute, and then ever more
                    rarely, once an hour at least
  the clock of      rows may come to the streams before the end of a series. Set back by less than
  Redis set back    `MARGIN_MS` none does; by more, the next round sees it and drops the series. It begins
                    anew, and reports read the counts by quarters meanwhile

A zone that no report was asked for in 60 days loses its counts.

Bound. When a Redis comes back with an older state, rows are archived twice (`engine.activity.archiver`).
Those that were counted before count once here, and twice in the counts by minute and by quarter.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable, Sequence
from functools import partial
from typing import Protocol

import msgspec
import structlog

from engine.activity.ports import ActivityStream
from engine.clocks.backoff import Backoff
from engine.errors import ConfigError, Unavailable

log = structlog.get_logger()

# How often it is counted, seconds.
EVERY_S = 60.0
# Series of so many zones are kept beside UTC.
ZONES_MAX = 12
# What is younger than this may still come to the streams before something else, milliseconds. Where the clock
# of Redis is set back by more, the next round finds it so much before the end of a series, and begins anew.
MARGIN_MS = 150_000
_BACK_MS = 60_000
# What left the streams is there to be read so long after, seconds.
VISIBLE_S = 30.0
# While another process counts, this one looks so often whether it is its turn; no pause is shorter, seconds.
_TURN_S = 2.0
# The longest pause after a zone could not be filled, seconds.
_FAILED_MAX_S = 3600.0
# A window is so long at most, when much is to be caught up, milliseconds.
_WINDOW_MS = 3_600_000


class Series(msgspec.Struct, frozen=True, kw_only=True):
    """The counts of a time zone that were begun at one time."""

    # IANA name.
    zone: str
    # Where the first window begins, milliseconds since 1970.
    from_ms: int
    # Whether all before it is counted.
    filled: bool
    # Rows of the streams before this time are counted, of the windows, milliseconds since 1970.
    until_ms: int
    # Whether it has the narrow counts, which a series of an earlier version lacks.
    narrow: bool


class Progress(msgspec.Struct):
    """How far the counting is, for whoever shows it."""

    # Zones that have no counts yet, and which part of them is made, from 0 to 1.
    filling: dict[str, float] = msgspec.field(default_factory=dict)
    # Rows of the streams before this time are counted in all zones that have counts, milliseconds since 1970;
    # 0: none has, or another process counts.
    until_ms: int = 0

    def clear(self) -> None:
        """Note that this process does not count, or not yet."""
        self.filling, self.until_ms = {}, 0


class ReportPeriods(Protocol):
    """Where the series are. Every call raises Unavailable, and ConfigError when an operator must act."""

    async def ready(self) -> bool:
        """Whether what a series is filled from is complete."""

    async def zones(self) -> list[str]:
        """The zones that reports were asked for lately, the longest known first."""

    async def series(self) -> list[Series]:
        """All series, in no order."""

    async def tidy(self) -> None:
        """Remove what fillings left behind that were stopped. One that goes on elsewhere fails."""

    async def begin(self, zone: str, from_ms: int) -> None:
        """Begin a series. Safe to repeat."""

    def fill(self, series: Series) -> AsyncGenerator[float, None]:
        """Count all rows of the streams before the series, which is of UTC: they must all be archived. Yields
        from time to time which part is done, from 0 to 1. Nothing is counted before it ends by itself, then
        everything is."""

    def derive(self, zone: str, utc: Series) -> AsyncGenerator[float, None]:
        """Begin and fill a series of a zone with what is counted of UTC. As `fill`; nothing is done when that
        is dropped meanwhile."""

    async def roll(self, series: Series, until_ms: int) -> None:
        """Count the rows of the streams from where the series ends to `until_ms`: they must all be archived.
        Does nothing when the series does not end there any more."""

    async def drop(self, series: Series) -> None:
        """Remove a series."""


async def roll_reports(
    periods: ReportPeriods,
    stream: ActivityStream,
    draining: asyncio.Event,
    *,
    active: Callable[[], bool],
    now_us: Callable[[], int],
    every_s: float = EVERY_S,
    progress: Progress | None = None,
) -> None:
    """Count until `draining` is set. `active`: whether this process is the one that does; `now_us`: the time
    of Redis, microseconds; `progress` is kept up to date."""
    progress = Progress() if progress is None else progress
    rounds = ReportRounds(
        periods, stream, lambda: active() and not draining.is_set(), now_us, progress, visible_s=VISIBLE_S
    )
    backoff = Backoff(every_s, 10 * every_s)
    while not draining.is_set():
        pause_s = every_s
        try:
            if active():
                await rounds.make()
                backoff.reset()
                # A process that is restarted again and again counts as soon as it may.
                if unseen_s := rounds.unseen_s():
                    pause_s = min(every_s, max(_TURN_S, unseen_s))
            else:
                progress.clear()
                pause_s = min(every_s, _TURN_S)
        except (Unavailable, ConfigError) as e:
            log.warning("events cannot be counted by day; reports take longer", reason=str(e))
            pause_s = backoff.next()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(draining.wait(), pause_s)


class ReportRounds:
    """Rounds of counting; see the module."""

    def __init__(
        self,
        periods: ReportPeriods,
        stream: ActivityStream,
        active: Callable[[], bool],
        now_us: Callable[[], int],
        progress: Progress | None = None,
        *,
        visible_s: float = VISIBLE_S,
    ) -> None:
        """`active`: whether to go on. `now_us`: the time of Redis, microseconds. `progress` is kept up to
        date. `visible_s`: see `VISIBLE_S`."""
        self._periods = periods
        self._stream = stream
        self._active = active
        self._now_us = now_us
        self._progress = Progress() if progress is None else progress
        self._visible_us = int(visible_s * 1_000_000)
        # Looks at the streams: when, microseconds, and before which time nothing waited, milliseconds. The
        # first is the last of those that are old enough, if any is.
        self._looks: list[tuple[int, int]] = []
        # The time before which all was archived at the last look, though perhaps not there to be read,
        # milliseconds.
        self._archived_ms = 0
        # Zones that could not be filled: their pauses, and when each is tried again, microseconds.
        self._failed: dict[str, tuple[Backoff, int]] = {}

    async def make(self) -> None:
        """One round: every series of a wanted zone counts all that is archived. Raises Unavailable,
        ConfigError; not of what concerns one zone alone, which does not stop the others."""
        if not await self._periods.ready():
            return
        zones = ["UTC", *(await self._periods.zones())[:ZONES_MAX]]
        settled_ms = await self._settled_ms()
        if settled_ms is None:
            return
        series = await self._periods.series()
        # By now, and not by an older look: since that another process may have counted further.
        used = [s for s in in_use(series, zones) if s.until_ms <= self._archived_ms + _BACK_MS]
        for each in series:
            if each not in used:
                await self._periods.drop(each)
        await self._periods.tidy()
        if all(each.zone != "UTC" for each in used):
            await self._periods.begin("UTC", settled_ms)
        await self._roll()
        used = in_use(await self._periods.series(), zones)
        self._progress.filling = {zone: 0.0 for zone in zones if not _complete(used, zone)}
        if begun := next((each for each in used if not each.filled), None):
            await self._fill("UTC", partial(self._periods.fill, begun))
            used = in_use(await self._periods.series(), zones)
        # First those that have no counts at all, then those of an earlier version.
        for zone in sorted(zones, key=lambda zone: _filled(used, zone) is not None):
            utc = _filled(in_use(await self._periods.series(), zones), "UTC")
            if utc and not _complete(used, zone) and self._active():
                await self._fill(zone, partial(self._periods.derive, zone, utc))

    def unseen_s(self) -> float:
        """How long it takes until what was archived at the first look is there to be read, seconds; 0: it is,
        or nobody has looked yet."""
        if not self._looks:
            return 0.0
        return max(0, self._looks[0][0] + self._visible_us - self._now_us()) / 1_000_000

    async def _fill(self, zone: str, steps: Callable[[], AsyncGenerator[float, None]]) -> None:
        """Fill a series of a zone, unless it failed lately; when it fails, log why."""
        backoff, due_us = self._failed.get(zone, (Backoff(EVERY_S, _FAILED_MAX_S), 0))
        if self._now_us() < due_us:
            return
        try:
            await self._go_through(zone, steps())
        except (Unavailable, ConfigError) as e:
            self._failed[zone] = (backoff, self._now_us() + int(backoff.next() * 1_000_000))
            log.warning("events cannot be counted by the days of a time zone", time_zone=zone, reason=str(e))
        else:
            self._failed.pop(zone, None)

    async def _go_through(self, zone: str, filling: AsyncGenerator[float, None]) -> None:
        """Fill a series; the others go on meanwhile."""
        log.info("events are counted by the days of a time zone", time_zone=zone)
        rolled_us = self._now_us()
        async with contextlib.aclosing(filling):
            async for part in filling:
                self._progress.filling[zone] = part
                if not self._active():
                    return
                if self._now_us() - rolled_us >= EVERY_S * 1_000_000:
                    await self._roll()
                    rolled_us = self._now_us()
        self._progress.filling.pop(zone, None)
        log.info("events have been counted by the days of a time zone", time_zone=zone)
        await self._roll()

    async def _roll(self) -> None:
        """Have the series that are filled count what is archived."""
        settled_ms = await self._settled_ms()
        if settled_ms is None:
            return
        ends = []
        for series in await self._periods.series():
            try:
                while series.filled and series.until_ms < settled_ms and self._active():
                    until_ms = min(settled_ms, series.until_ms + _WINDOW_MS)
                    await self._periods.roll(series, until_ms)
                    series = msgspec.structs.replace(series, until_ms=until_ms)
            except (Unavailable, ConfigError) as e:
                log.warning(
                    "events cannot be counted by the days of a time zone",
                    time_zone=series.zone, reason=str(e),
                )  # fmt: skip
            if series.filled:
                ends.append(series.until_ms)
        self._progress.until_ms = min(ends, default=0)

    async def _settled_ms(self) -> int | None:
        """A time of the streams before which everything is archived and there to be read, milliseconds since
        1970; None: that is not known yet."""
        # First the time: what is put on the streams later is later.
        now_us = self._now_us()
        waiting = [part.first.ms for part in await self._stream.backlog() if part.first is not None]
        before_ms = min([now_us // 1000, *waiting])
        looks = [*(look for look in self._looks if look[0] <= now_us), (now_us, before_ms)]
        visible = [look for look in looks if look[0] <= now_us - self._visible_us]
        self._looks = looks[max(0, len(visible) - 1) :]
        self._archived_ms = min(now_us // 1000 - MARGIN_MS, before_ms)
        if not visible:
            return None
        return min(self._archived_ms, visible[-1][1])


def in_use(series: Sequence[Series], zones: Sequence[str]) -> list[Series]:
    """Of each zone that is wanted the latest series that is filled; of UTC also one that is to be filled from
    what the views count, while there is no other. An earlier version would have begun that without the narrow
    counts."""
    used = []
    for zone in zones:
        # One without an end is half dropped.
        of_zone = sorted((s for s in series if s.zone == zone and s.until_ms), key=lambda s: s.from_ms)
        filled = [s for s in of_zone if s.filled]
        used += filled[-1:]
        if zone == "UTC" and not filled:
            used += [s for s in of_zone if s.narrow][-1:]
    return used


def _filled(series: Sequence[Series], zone: str) -> Series | None:
    return next((each for each in series if each.zone == zone and each.filled), None)


def _complete(series: Sequence[Series], zone: str) -> bool:
    """Whether the zone has a series with everything that this version counts."""
    return any(each.zone == zone and each.filled and each.narrow for each in series)
