"""Hours and days of time zones in SQL: as Python has them, and without a zone that is named to ClickHouse."""

from __future__ import annotations

from datetime import UTC, date, datetime
from zoneinfo import ZoneInfo

import pytest

from engine.activity.reports import Group, ReportQuery
from engine.stores.clickhouse.local_time import day_sql, hour_sql, offsets_of
from engine.stores.clickhouse.report_statements import statement
from tests.activity.world import World

_FROM = int(datetime(2025, 1, 1, tzinfo=UTC).timestamp())
_UNTIL = int(datetime(2026, 2, 1, tzinfo=UTC).timestamp())
ZONES = (
    "UTC", "Asia/Tehran", "Asia/Kathmandu", "Europe/Berlin", "America/St_Johns", "Australia/Lord_Howe",
    "Africa/Casablanca", "Pacific/Kiritimati", "Pacific/Marquesas",
)  # fmt: skip


def test_the_offsets_of_a_year_are_those_between_its_changes_of_summer_time() -> None:
    berlin = offsets_of(ZoneInfo("Europe/Berlin"), _FROM, _UNTIL)
    assert [(datetime.fromtimestamp(at, UTC).isoformat(), ahead) for at, ahead in berlin] == [
        ("2025-01-01T00:00:00+00:00", 3600),
        ("2025-03-30T01:00:00+00:00", 7200),
        ("2025-10-26T01:00:00+00:00", 3600),
    ]
    assert offsets_of(ZoneInfo("Asia/Tehran"), _FROM, _UNTIL) == [(_FROM, 12_600)]
    assert len(offsets_of(ZoneInfo("Africa/Casablanca"), _FROM, _UNTIL)) == 3


@pytest.mark.parametrize("name", ZONES)
async def test_the_hours_and_days_of_a_zone_are_those_of_its_clocks(world: World, name: str) -> None:
    zone = ZoneInfo(name)
    offsets = offsets_of(zone, _FROM, _UNTIL)
    time = "fromUnixTimestamp(toUInt32(at))"
    found = await world.query(
        f"SELECT at, {hour_sql(time, offsets)}, {day_sql(time, offsets)} "
        f"FROM (SELECT {_FROM} + number * 900 AS at FROM numbers({(_UNTIL - _FROM) // 900}))"
    )
    for at, hour, day in found:
        local = datetime.fromtimestamp(at, zone)
        assert day == (local.date() - date(1970, 1, 1)).days
        assert at - hour == local.minute * 60


@pytest.mark.parametrize("group", ["hour", "day"])
def test_a_report_names_no_zone_to_clickhouse_which_would_keep_a_table_of_it_for_good(group: Group) -> None:
    query = ReportQuery(
        organisation_id=7, from_s=_FROM, until_s=_UNTIL, time_zone="Europe/Berlin", group_by=(group,)
    )
    sql, parameters = statement(query)
    assert "Berlin" not in sql
    assert "Europe/Berlin" not in parameters.values()
