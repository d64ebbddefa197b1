"""Activity that is archived bit by bit, the counting of it, and what reports of it must say."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import UTC, date, datetime, timedelta
from functools import cache
from random import Random
from typing import Any
from zoneinfo import ZoneInfo

import msgspec

from engine.activity.blocks import block_of
from engine.activity.records import ActivityEntry
from engine.activity.report_rolling import Progress, ReportRounds, Series
from engine.activity.reports import COUNTED, Group, ReportQuery, ReportRow
from engine.records import ActivityRow
from engine.stores.clickhouse.report_periods import ClickHouseReportPeriods
from engine.stores.clickhouse.reports import ClickHouseReports
from tests.activity.plain_reports import EventSum, rows_of
from tests.activity.world import World, blob_of, make_row
from tests.stores.clickhouse.test_reports import COUNTRIES, HISTORIES, NUMBERS, fields_of

DAY_S = 86_400
ZONES = (
    "UTC", "Asia/Tehran", "Asia/Kolkata", "America/New_York", "Africa/Cairo", "Australia/Lord_Howe",
    "Asia/Kathmandu",
)  # fmt: skip
TIMES = ("answer_ms", "sent_after_ms", "delivered_after_ms")
# Now, at whatever time the tests are run: summer time has ended or begun within the last year wherever there
# is one.
NOW_S = int(datetime(2026, 11, 30, 8, 39, 27, tzinfo=UTC).timestamp())
FIRST_S = NOW_S - 400 * DAY_S
NAMED = dict(zip(NUMBERS, (49, 1416, 1, 77, 98, 1868), strict=True))


def message(number: int, rng: Random, from_s: int, until_s: int) -> list[ActivityRow]:
    """The rows of a message that was accepted after one time and not after another."""
    accepted_at_us = (until_s - rng.randrange(until_s - from_s)) * 1_000_000 + rng.randrange(1_000_000)
    same = fields_of(number, rng, accepted_at_us)
    same["units"] = same["segments"] * 5
    rows = [make_row(0, at_us=accepted_at_us, event="accepted", provider="", latency_us=0, **same)]
    for place, (event, provider) in enumerate(rng.choice(HISTORIES), 1):
        again = event == "resent"
        at_us = accepted_at_us + rng.randrange(1_000, 5_000_000_000)
        rows.append(
            make_row(
                0,
                at_us=at_us,
                # Every third was scheduled.
                due_at_us=(accepted_at_us + 9 * at_us) // 10 if event == "sent" and number % 3 == 0 else 0,
                event="retrying" if again else event,
                provider=provider,
                provider_message_id="id" if again or event == "sent" else "",
                latency_us=rng.randrange(1_000, 900_000) if event == "sent" else 0,
                attempt=place,
                **same,
            )
        )
    return rows


@cache
def changes_clocks(days_ago: int) -> bool:
    """Whether summer time begins or ends in one of the zones, in that day of UTC."""
    begin_s = (NOW_S // DAY_S - days_ago) * DAY_S
    times = [datetime.fromtimestamp(at_s, UTC) for at_s in (begin_s, begin_s + DAY_S)]
    return any(len({at.astimezone(ZoneInfo(zone)).utcoffset() for at in times}) > 1 for zone in ZONES)


class Activity:
    """Messages, and what has been archived of them."""

    def __init__(self, world: World, seed: int) -> None:
        self.world, self.rng = world, Random(seed)
        # What is to come of each message.
        self.left: list[list[ActivityRow]] = []
        self.archived: list[ActivityRow] = []
        self._blocks = 0

    def accept(self, count: int, days: int) -> None:
        """Messages of the last so many days; when they are more than a month, of some of these."""
        some = [n for n in range(1, days) if n % 10 == 1 or changes_clocks(n)] if days > 30 else []
        for _ in range(count):
            if some:
                begin_s = (NOW_S // DAY_S - self.rng.choice(some)) * DAY_S
                self.accept_at(begin_s, begin_s + DAY_S)
            else:
                self.accept_at(NOW_S - days * DAY_S, NOW_S)

    def accept_at(self, from_s: int, until_s: int) -> None:
        """A message after one time and not after another."""
        self.left.append(message(len(self.left), self.rng, from_s, until_s))

    async def archive(self, from_ms: int, until_ms: int, part: float) -> None:
        """Archive a part of what is to come of each message, as if it came to the streams in that time."""
        # Blocks of not too many days, which `outstanding` has in partitions. A partition costs as much as
        # hundreds of rows, so `accept` leaves days out.
        entries = defaultdict[int, list[ActivityEntry]](list)
        for rows in self.left:
            while rows and self.rng.random() < part:
                at = (self.rng.randrange(from_ms, until_ms), self.rng.randrange(1000))
                entry = ActivityEntry(shard=0, id=at, blob=blob_of([rows[0]]))
                entries[rows[0].at_us // (50 * DAY_S * 1_000_000)].append(entry)
                self.archived.append(rows.pop(0))
        for of_days in entries.values():
            self._blocks += 1
            await self.world.store.insert(block_of(of_days)[0], f"block {self._blocks}")

    def report(self, query: ReportQuery) -> list[ReportRow]:
        """The report, from the rows themselves, without times."""
        zone, sums = ZoneInfo(query.time_zone), defaultdict[tuple[Any, ...], list[int]](lambda: [0, 0, 0])
        for row in self.archived:
            if row.event in COUNTED and wanted(row, query):
                event = "resent" if row.event == "retrying" and row.provider_message_id else row.event
                of = sums[*(value(row, name, zone) for name in query.group_by if name != "status"), event]
                for place, more in enumerate((1, row.segments, row.units)):
                    of[place] += more
        found = [
            EventSum(group=key[:-1], event=key[-1], events=of[0], segments=of[1], units=of[2])
            for key, of in sums.items()
        ]
        return rows_of(found, query.group_by, zone, of_provider=bool(query.provider))


def wanted(row: ActivityRow, query: ReportQuery) -> bool:
    at_s = row.accepted_at_us / 1_000_000
    country = COUNTRIES[NUMBERS.index(row.to)]
    return query.from_s <= at_s < query.until_s and all(
        not asked or asked == has
        for asked, has in (
            (query.organisation_id, row.organisation_id),
            (query.queue, row.queue),
            (query.provider, row.provider),
            (query.country, country),
        )
    )


def value(row: ActivityRow, name: Group, zone: ZoneInfo) -> Any:
    if name == "day":
        day = datetime.fromtimestamp(row.accepted_at_us / 1_000_000, zone).date()
        return int(datetime(day.year, day.month, day.day, tzinfo=zone).timestamp())
    if name == "hour":
        at_s = row.accepted_at_us // 1_000_000
        at = datetime.fromtimestamp(at_s, zone)
        return at_s - 60 * at.minute - at.second
    of: dict[str, Any] = {
        "queue": row.queue, "provider": row.provider, "organisation": row.organisation_id,
        "country": NAMED[row.to],
    }  # fmt: skip
    return of[name]


def counts(rows: Iterable[ReportRow]) -> list[dict[str, Any]]:
    return [
        {name: value for name, value in msgspec.to_builtins(row).items() if name not in TIMES} for row in rows
    ]


def queries() -> list[ReportQuery]:
    """Reports of all kinds that are put together."""
    rng, found = Random(5), []
    groups: tuple[tuple[Group, ...], ...] = (
        (), ("status",), ("day",), ("day", "status"), ("organisation",), ("organisation", "queue"),
        ("country", "provider"), ("status", "country"), ("organisation", "day"), ("provider", "day", "queue"),
        ("organisation", "status"), ("hour",), ("country", "hour"),
        ("day",), ("hour",), ("organisation", "country"), ("day", "provider"), ("organisation", "hour"),
    )  # fmt: skip
    filters: tuple[dict[str, Any], ...] = (
        {}, {}, {"organisation_id": 2}, {"organisation_id": 1, "queue": "normal"}, {"provider": "a"},
        {"country": "CA"}, {"country": "DE", "organisation_id": 3, "provider": "b"},
    )  # fmt: skip
    for zone in ZONES:
        for group_by in groups:
            begin, end = sorted(rng.sample(range(FIRST_S - 5 * DAY_S, NOW_S, 900), 2))
            day = datetime.fromtimestamp(begin, ZoneInfo(zone)).date()
            times = [
                # Whole days, up to now, of any times, of part of the last month.
                (midnight(day, zone), midnight(day + timedelta(90), zone)),
                (midnight(day, zone), (NOW_S // 900 + 1) * 900),
                (begin // 900 * 900, max(end, begin + 4 * DAY_S) // 900 * 900),
                ((NOW_S - 20 * DAY_S) // 900 * 900, (NOW_S - 3 * DAY_S) // 900 * 900),
                (midnight(day, zone) + 12 * 3600, midnight(day + timedelta(60), zone) + 12 * 3600),
            ]
            for from_s, until_s in times:
                found.append(
                    ReportQuery(
                        from_s=from_s,
                        until_s=until_s,
                        group_by=group_by,
                        time_zone=zone,
                        **rng.choice(filters),
                    )
                )
    return found


def midnight(day: date, zone: str) -> int:
    return int(datetime(day.year, day.month, day.day, tzinfo=ZoneInfo(zone)).timestamp()) // 900 * 900


QUERIES = queries()


class Archiver:
    """The part of an archiver that counts; its clock is `now_ms`."""

    def __init__(self, world: World) -> None:
        self.now_ms = NOW_S * 1000
        self.periods = ClickHouseReportPeriods(world.clickhouse_url)
        self.progress = Progress()
        self.rounds = ReportRounds(
            self.periods, world.stream, lambda: True, lambda: self.now_ms * 1000, self.progress, visible_s=0
        )


class Reader(ClickHouseReports):
    """Reads reports now."""

    async def _series(self) -> tuple[int, list[Series]]:
        return NOW_S, (await super()._series())[1]


async def ask(world: World, *zones: str) -> None:
    for zone in zones:
        await world.query(f"INSERT INTO report_zones VALUES ('{zone}', today(), today())")


async def assert_all_agree(
    reader: ClickHouseReports, activity: Activity, most: int = 25, zones: Sequence[str] = ZONES
) -> None:
    wrong = []
    for query in activity.rng.sample([q for q in QUERIES if q.time_zone in zones], most):
        found, expected = (await reader.summary(query)).rows, activity.report(query)
        if counts(found) != counts(expected):
            wrong.append(query)
    assert not wrong


async def few(world: World, archiver: Archiver, seed: int, days: int = 70) -> Activity:
    """A little activity, archived before now."""
    activity = Activity(world, seed)
    activity.accept(150, days)
    begun_ms = archiver.now_ms - 60_000
    await activity.archive(begun_ms - days * DAY_S * 1000, begun_ms, 0.6)
    return activity
