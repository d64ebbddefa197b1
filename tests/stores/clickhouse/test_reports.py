"""Reports from real activity, beside what the history of each message says."""

from __future__ import annotations

import asyncio
import shutil
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import Any
from zoneinfo import ZoneInfo

import phonenumbers
import pytest

from engine.activity import history
from engine.activity.blocks import block_of
from engine.activity.countries import country_of, numbers_of
from engine.activity.records import ActivityEntry
from engine.activity.report_filling import fill_reports
from engine.activity.reports import COUNTED, Group, ReportQuery, ReportRow
from engine.errors import Refusal
from engine.records import ActivityRow
from engine.stores import migrate
from engine.stores.clickhouse import reports
from engine.stores.clickhouse.report_fill import ClickHouseReportFill
from engine.stores.clickhouse.reports import ClickHouseReports
from engine.stores.migrate import migrate_clickhouse
from tests.activity.world import World, blob_of, make_row, new_world

# 2026-10-24 20:00 UTC: in Berlin the next night has an hour twice.
START_S = int(datetime(2026, 10, 24, 20, tzinfo=UTC).timestamp())
DAY_S = 86_400
NUMBERS = ("+4915112345678", "+14165550123", "+12125550123", "+77012345678", "+989121234567", "+18685550123")
COUNTRIES = ("DE", "CA", "US", "KZ", "IR", "TT")
# What may come after the acceptance: (event, provider) each.
HISTORIES: tuple[tuple[tuple[str, str], ...], ...] = (
    (),
    (("retrying", "a"),),
    (("sent", "a"),),
    (("sent", "a"), ("delivered", "a")),
    (("sent", "b"), ("receipt", "b"), ("undelivered", "b")),
    (("retrying", "a"), ("retrying", "b"), ("failed", "b")),
    (("expired", ""),),
    (("canceled", ""),),
    (("retrying", "a"), ("outcome_unknown", "a")),
    (("outcome_unknown_released", "b"),),
    (("dead", ""), ("retrying", ""), ("sent", "a"), ("delivered", "a")),
    # Sent again after its receipt: by another provider, which delivers it.
    (("sent", "a"), ("resent", "a"), ("sent", "b"), ("delivered", "b")),
)


def fields_of(number: int, rng: Random, accepted_at_us: int) -> dict[str, Any]:
    """What all rows of a message have, without its units."""
    return {
        "organisation_id": 1 + number % 3,
        "message_id": f"019aaaaa-0000-7000-8000-{number:012x}",
        "accepted_at_us": accepted_at_us,
        "queue": "express" if number % 4 == 0 else "normal",
        "segments": rng.choice((1, 1, 2, 3)),
        "to": rng.choice(NUMBERS),
    }


def message(number: int, rng: Random) -> list[ActivityRow]:
    """The rows of one message, accepted within a day and a bit."""
    accepted_at_us = (START_S + rng.randrange(DAY_S + 7200)) * 1_000_000 + rng.randrange(1_000_000)
    same = fields_of(number, rng, accepted_at_us)
    same["reference"] = rng.choice(("", "spring-1", f"spring-{number}", "bill:7"))
    units = same["segments"] * 5
    rows = [
        make_row(
            0, at_us=accepted_at_us, event=rng.choice(("accepted", "accepted", "scheduled")),
            units=units, provider="", latency_us=0, **same,
        )
    ]  # fmt: skip
    paid = False
    for place, (event, provider) in enumerate(rng.choice(HISTORIES), 1):
        again = event == "resent"
        rows.append(
            make_row(
                0,
                at_us=accepted_at_us + place * 1_500_000,
                event="retrying" if again else event,
                # What is sent again holds no units.
                units=0 if paid else units,
                provider=provider,
                provider_message_id="id" if again or event == "sent" else "",
                latency_us=40_000 if event == "sent" else 0,
                attempt=place,
                **same,
            )
        )
        paid = paid or again
    return rows


def messages(count: int, seed: int) -> list[list[ActivityRow]]:
    rng = Random(seed)
    return [message(number, rng) for number in range(count)]


async def insert(world: World, found: Iterable[list[ActivityRow]], token: str, ms: int = 1) -> None:
    rows = [row for rows in found for row in rows]
    await world.store.insert(block_of([ActivityEntry(shard=0, id=(ms, 0), blob=blob_of(rows))])[0], token)


@pytest.fixture(scope="module")
async def world(redis_url: str, clickhouse_url: str) -> AsyncIterator[World]:
    """A day of messages, which every test here reads."""
    async with new_world(redis_url, clickhouse_url) as world:
        half = len(SENT) // 2
        await insert(world, SENT[:half], "first")
        await insert(world, SENT[half:], "second")
        # Sent twice, as after an insert that was not answered.
        await insert(world, SENT[half:], "second")
        yield world


SENT = messages(600, seed=7)


@pytest.fixture(scope="module")
async def reader(world: World) -> AsyncIterator[ClickHouseReports]:
    reader = ClickHouseReports(world.clickhouse_url)
    yield reader
    await reader.close()


async def report(reader: ClickHouseReports, *group_by: Group, **wanted: Any) -> list[ReportRow]:
    query = {"from_s": START_S, "until_s": START_S + 2 * DAY_S, "group_by": group_by, **wanted}
    found = await reader.summary(ReportQuery(**query))
    assert found.complete
    return found.rows


def expected(key: Callable[[Any, ActivityRow], Any], of: Iterable[list[ActivityRow]] = SENT) -> Counter[Any]:
    """How many messages there are of each key, by what the history of each says."""
    counts: Counter[Any] = Counter()
    for rows in of:
        view = history.describe(rows)
        counts[key(view, rows[0])] += 1
    return counts


def status_of(view: Any) -> str:
    """The status of a message in reports, which do not tell what is scheduled from what waits."""
    return "accepted" if view.status == "scheduled" else str(view.status)


async def test_messages_by_status_are_those_of_their_histories_with_segments_and_units(
    reader: ClickHouseReports,
) -> None:
    rows = await report(reader, "status")
    assert Counter({r.status: r.messages for r in rows}) == expected(lambda view, _: status_of(view))
    segments, units = Counter[str](), Counter[str]()
    for found in SENT:
        view = history.describe(found)
        segments[status_of(view)] += view.segments
        units[status_of(view)] += view.units
    assert Counter({r.status: r.segments for r in rows}) == segments
    assert sum(r.units for r in rows) == sum(units.values())
    assert {r.units for r in rows if r.status == "failed"} == {units["failed"]}


async def test_each_group_adds_up_to_its_messages_and_its_units_to_the_charges(
    reader: ClickHouseReports,
) -> None:
    [whole] = await report(reader)
    charges = Counter[str]()
    for found in SENT:
        view = history.describe(found)
        charges[view.charge] += view.units
    assert (whole.messages, whole.units) == (len(SENT), sum(charges.values()))
    assert (whole.held, whole.captured, whole.released) == (
        charges["held"], charges["captured"], charges["released"],
    )  # fmt: skip
    for groups in (
        ("queue",),
        ("provider",),
        ("country",),
        ("hour",),
        ("day", "provider", "queue"),
        ("minute",),
    ):
        rows = await report(reader, *groups)
        for field in (
            "messages",
            "segments",
            "units",
            "held",
            "captured",
            "released",
            "delivered",
            "accepted",
        ):
            assert sum(getattr(r, field) for r in rows) == getattr(whole, field), (groups, field)
        for row in rows:
            parts = (row.accepted, row.sent, row.outcome_unknown, row.canceled, row.expired, row.failed)
            assert row.messages == sum(parts) + row.undelivered + row.delivered
    assert whole.answer_ms is not None
    assert whole.answer_ms.p95 == pytest.approx(40, rel=0.01)


async def test_each_kind_of_group_has_the_messages_it_should(reader: ClickHouseReports) -> None:
    by_country = await report(reader, "country", "status", organisation_id=2)
    names = dict(zip(NUMBERS, COUNTRIES, strict=True))
    own = [rows for rows in SENT if rows[0].organisation_id == 2]
    assert Counter({(r.country, r.status): r.messages for r in by_country}) == expected(
        lambda view, row: (names[row.to], status_of(view)), own
    )
    by_organisation = await report(reader, "organisation", "queue", country="CA")
    canadian = [rows for rows in SENT if rows[0].to == NUMBERS[1]]
    assert Counter({(r.organisation, r.queue): r.messages for r in by_organisation}) == expected(
        lambda _, row: (row.organisation_id, row.queue), canadian
    )
    by_reference = await report(reader, "reference", "status", organisation_id=1)
    first = [rows for rows in SENT if rows[0].organisation_id == 1]
    assert Counter({(r.reference, r.status): r.messages for r in by_reference}) == expected(
        lambda view, row: (row.reference.split("-")[0].split(":")[0], status_of(view)), first
    )
    by_minute = await report(reader, "minute", "reference", organisation_id=1)
    assert sum(row.messages for row in by_minute) == len(first)


@pytest.mark.parametrize("campaign", ["spring", "spring-1", "bill", "bil"])
async def test_a_campaign_has_the_messages_whose_reference_is_its_name_or_begins_with_it_and_a_mark(
    reader: ClickHouseReports, campaign: str
) -> None:
    own = [
        rows
        for rows in SENT
        if rows[0].organisation_id == 1
        and (rows[0].reference + "-").replace(":", "-").startswith(campaign + "-")
    ]
    rows = await report(reader, "status", organisation_id=1, campaign=campaign)
    assert Counter({(r.status,): r.messages for r in rows}) == expected(
        lambda view, _: (status_of(view),), own
    )
    assert bool(own) == (campaign != "bil")


async def test_a_day_is_that_of_the_time_zone_also_when_its_clocks_change(reader: ClickHouseReports) -> None:
    zone = ZoneInfo("Europe/Berlin")
    for group in ("day", "hour"):
        rows = await report(reader, group, time_zone="Europe/Berlin")
        counts: Counter[str] = Counter()
        for found in SENT:
            at = datetime.fromtimestamp(found[0].accepted_at_us // 1_000_000, UTC).astimezone(zone)
            begins = at.replace(minute=0, second=0, hour=0 if group == "day" else at.hour)
            counts[begins.isoformat()] += 1
        assert Counter({r.time: r.messages for r in rows}) == counts
    # Both hours from two to three are there.
    times = [r.time for r in await report(reader, "hour", time_zone="Europe/Berlin")]
    assert {"2026-10-25T02:00:00+02:00", "2026-10-25T02:00:00+01:00"} <= {*times}


async def test_what_ended_with_one_provider_is_shown_without_what_waits(reader: ClickHouseReports) -> None:
    [row] = await report(reader, provider="b")
    assert row.accepted == 0
    of_all = {r.provider: r for r in await report(reader, "provider")}
    assert (row.messages, row.delivered, row.captured) == (
        of_all["b"].messages, of_all["b"].delivered, of_all["b"].captured,
    )  # fmt: skip


async def test_a_report_with_too_many_groups_is_refused(
    reader: ClickHouseReports, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reports, "GROUPS_MAX", 20)
    with pytest.raises(Refusal, match="more than 20 groups") as refused:
        await report(reader, "minute")
    assert refused.value.code == "report_too_large"


def test_every_event_that_moves_a_message_is_counted() -> None:
    script = Path(migrate.__file__).parent / "clickhouse" / "migrations" / "0006_reports.sql"
    counted = script.read_text().partition("activity.event IN (")[2].partition(")")[0]
    assert {word.strip(" \n'") for word in counted.split(",")} == {*COUNTED}


async def test_the_number_of_a_country_is_made_as_it_is_read(world: World) -> None:
    """For every calling code and every area code of +1, against the library of phone numbers."""
    samples = [
        phonenumbers.example_number_for_type(region, phonenumbers.PhoneNumberType.MOBILE)
        or phonenumbers.example_number(region)
        for region in phonenumbers.SUPPORTED_REGIONS
    ]
    numbers = [f"+{n.country_code}{n.national_number}" for n in samples if n is not None]
    rows = [
        make_row(0, at_us=1, accepted_at_us=1, organisation_id=i, event="accepted", to=to, provider="")
        for i, to in enumerate(numbers, 1000)
    ]
    await insert(world, [rows], "countries")
    found = dict(
        await world.query("SELECT organisation_id, country FROM report_minutes WHERE organisation_id > 999")
    )
    wrong = {}
    for place, number in enumerate(numbers, 1000):
        parsed = phonenumbers.parse(number)
        regions = phonenumbers.region_codes_for_country_code(parsed.country_code)
        wanted = phonenumbers.region_code_for_number(parsed)
        if parsed.country_code not in (1, 7):
            wanted = regions[0]
        if country_of(found[place]) != wanted:
            wrong[number] = (found[place], wanted)
    assert not wrong
    assert found[1000] in numbers_of(country_of(found[1000]))


@pytest.fixture(scope="module")
async def upgraded(
    redis_url: str, clickhouse_url: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[World]:
    """Tables that had a third of the messages before they were brought to this version, and one each since:
    from before the views stood for certain, and after."""
    folder, earlier = (
        Path(migrate.__file__).parent / "clickhouse" / "migrations",
        tmp_path_factory.mktemp("sql"),
    )
    for script in folder.glob("000[1-5]_*.sql"):
        shutil.copy(script, earlier)
    async with new_world(redis_url, clickhouse_url, earlier) as world:
        await world.query(
            "ALTER TABLE activity ADD COLUMN callback_url String, ADD COLUMN text String, "
            "ADD COLUMN receipts_by UInt16"
        )
        await insert(world, SENT[:200], "first")
        # Also when it is done twice, as when it was killed before it was noted.
        await migrate_clickhouse(world.clickhouse_url)
        await world.query("TRUNCATE TABLE smsengine_migrations")
        await migrate_clickhouse(world.clickhouse_url)
        await insert(world, SENT[200:400], "second", ms=2)
        await insert(world, SENT[400:], "third", ms=2**41)
        yield world


async def filled(world: World) -> dict[str, int]:
    reader = ClickHouseReports(world.clickhouse_url)
    query = ReportQuery(from_s=START_S, until_s=START_S + 2 * DAY_S, group_by=("status",))
    found = await reader.summary(query)
    await reader.close()
    return {"complete": found.complete, **{str(r.status): r.messages for r in found.rows}}


EVERY = {"complete": True, **expected(lambda view, _: status_of(view))}


class Killed(Exception):
    """The process ends here."""


class Dying(ClickHouseReportFill):
    """Ends after so many statements that change something."""

    left = 0

    async def _run(self, sql: str) -> None:
        if not self.left:
            raise Killed
        self.left -= 1
        await super()._run(sql)


async def test_rows_of_before_the_reports_are_counted_once_wherever_the_filling_ends(upgraded: World) -> None:
    fill = Dying(upgraded.clickhouse_url)
    due_ms = await fill.due_ms()
    assert due_ms
    steps = 0
    while True:
        fill.left = steps
        try:
            await fill.fill(due_ms)
            break
        except Killed:
            assert not (await filled(upgraded))["complete"]
            steps += 3
    assert steps > 6
    assert await filled(upgraded) == EVERY
    minutes = await upgraded.query("SELECT sum(events), sum(units) FROM report_minutes")
    assert minutes == await upgraded.query("SELECT sum(events), sum(units) FROM report_quarters")
    assert not await fill.due_ms()
    await fill.close()


async def test_two_fillings_at_once_count_once(upgraded: World) -> None:
    await upgraded.query("TRUNCATE TABLE report_filled")
    fills = [ClickHouseReportFill(upgraded.clickhouse_url) for _ in range(2)]
    due_ms = await fills[0].due_ms()
    # One drops what the other works on, which then fails and is done again.
    await asyncio.gather(*(fill.fill(due_ms) for fill in fills), return_exceptions=True)
    await fills[0].fill(due_ms)
    assert await filled(upgraded) == EVERY
    for fill in fills:
        await fill.close()


async def test_the_filling_waits_until_the_streams_are_archived_so_far(upgraded: World) -> None:
    await upgraded.query("TRUNCATE TABLE report_filled")
    fill, draining = ClickHouseReportFill(upgraded.clickhouse_url), asyncio.Event()
    due_us = 1000 * await fill.due_ms()
    await upgraded.put(1)
    looks: asyncio.Queue[None] = asyncio.Queue()

    def active() -> bool:
        looks.put_nowait(None)
        return True

    filling = asyncio.create_task(
        fill_reports(
            fill, upgraded.stream, draining, active=active, now_us=lambda: due_us + 1000, look_s=0.01
        )
    )
    for _ in range(3):
        await looks.get()
    assert not (await filled(upgraded))["complete"]
    await upgraded.redis.flushdb()
    await filling
    assert await filled(upgraded) == EVERY
    await fill.close()
