"""How a report is asked for, and what is refused. What it counts: tests/stores/clickhouse/test_reports.py."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from engine.activity.reports import Report, ReportQuery, ReportRow
from engine.organisations import NewOrganisation
from engine.stores.postgres.directory import Directory
from tests.api.world import Api, services_with, serving, until

DAY_S = 86_400
FROM = "2026-11-01T00:00:00Z"
FROM_S = 1_793_491_200


class Source:
    """Remembers what was asked for, and waits when a test wishes so."""

    def __init__(self) -> None:
        self.asked: list[ReportQuery] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.rows: list[ReportRow] = []

    async def __call__(self, query: ReportQuery) -> Report:
        self.asked.append(query)
        await self.gate.wait()
        return Report(
            from_time="", until_time="", time_zone=query.time_zone, complete=True, rows=list(self.rows)
        )


@pytest.fixture(scope="module")
def source() -> Source:
    return Source()


@pytest.fixture(scope="module")
async def reporting(directory: Directory, acme: NewOrganisation, source: Source) -> AsyncIterator[Api]:
    services = await services_with(directory, now_us=lambda: (FROM_S + 1000) * 1_000_000)
    services = replace(services, reports=services.reports._replace(summary=source))
    assert services.admin is not None
    services = replace(services, admin=replace(services.admin, reports=services.reports))
    async with serving(services, acme.api_key) as running:
        yield running


async def test_a_report_is_about_the_callers_messages_of_the_last_day_if_it_does_not_say(
    reporting: Api, acme: NewOrganisation, source: Source
) -> None:
    assert (await reporting.ask("GET", "/v1/reports/summary"))[0] == 200
    assert source.asked[-1] == ReportQuery(
        from_s=FROM_S + 1800 - DAY_S, until_s=FROM_S + 1800, group_by=(), organisation_id=acme.id
    )
    path = (
        f"/v1/reports/summary?from_time={FROM}&until_time=2026-11-02T01:00:00%2B01:00&group_by=day,status"
        "&time_zone=Asia/Kathmandu&queue=express&provider=a&country=de"
    )
    assert (await reporting.ask("GET", path))[0] == 200
    assert source.asked[-1] == ReportQuery(
        from_s=FROM_S, until_s=FROM_S + DAY_S, group_by=("day", "status"), time_zone="Asia/Kathmandu",
        organisation_id=acme.id, queue="express", provider="a", country="DE",
    )  # fmt: skip


async def test_the_operator_sees_all_and_the_worst_first(reporting: Api, source: Source) -> None:
    source.rows = [
        ReportRow(provider=name, messages=messages, delivery_rate=rate)
        for name, messages, rate in (("a", 500, 0.9), ("b", 900, 0.4), ("c", 3, 0.0), ("", 10, None))
    ]
    status, found = await reporting.admin(
        "GET", "/reports/summary?group_by=provider&order=failure&messages_min=100&limit=1"
    )
    assert status == 200
    assert found["rows"] == [
        {"provider": "b", "messages": 900, "segments": 0, "units": 0, "delivery_rate": 0.4}
    ]
    assert source.asked[-1].organisation_id is None
    assert (await reporting.admin("GET", "/reports/summary?organisation=7"))[0] == 200
    assert source.asked[-1].organisation_id == 7
    source.rows = []


@pytest.mark.parametrize(
    ("query", "sentence"),
    [
        ("group_by=organisation", "`group_by` must be some of status, queue, provider, country, reference, "),
        ("group_by=status,status", "`group_by` must be some of"),
        ("group_by=hour,day", "`group_by` must have one of minute, hour, day at most."),
        ("time_zone=Berlin", "`time_zone` must be an IANA name, such as Europe/Berlin."),
        ("time_zone=../../etc/passwd", "`time_zone` must be an IANA name"),
        ("time_zone=right/UTC", "`time_zone` must be an IANA name"),
        ("time_zone=localtime", "`time_zone` must be an IANA name"),
        ("from_time=1900-01-01T00:00:00Z", "`from_time` must be in the years 1970 to 2105."),
        ("until_time=2150-01-01T00:00:00Z", "`until_time` must be in the years 1970 to 2105."),
        ("from_time=2026-11-01", "`from_time` must be a time with its time zone"),
        ("from_time=2026-11-01T00:01:00Z", "`from_time` must be a quarter of an hour"),
        ("group_by=minute&from_time=2026-11-01T00:00:01Z", "`from_time` must be a whole minute."),
        (f"until_time={FROM}&from_time={FROM}", "`from_time` must be before `until_time`."),
        (
            "from_time=1990-01-01T00:00:00Z",
            "The period of a report must not be longer than 3,660 days; use `from_time` for a shorter one.",
        ),
        (
            "from_time=2026-10-30T00:00:00Z&group_by=minute",
            "by minute must not be longer than a day; use `from_time` for a shorter one.",
        ),
        (
            "from_time=2026-09-30T00:00:00Z&group_by=reference",
            "must not be longer than 31 days; use `from_time` for a shorter one.",
        ),
        (
            "from_time=2026-09-30T00:00:00Z&group_by=hour,country",
            "The period of a report by hour must not be longer than 31 days (by day it may be); use `from",
        ),
        (
            "from_time=2026-11-01T00:00:00Z&until_time=2026-11-09T00:00:00Z&group_by=hour,country,provider",
            "two other groups, beside `status`, must not be longer than 7 days (by day it may be); use",
        ),
        ("group_by=reference,country", "A report by reference must not be by country too."),
        ("campaign=spring&country=DE", "A report of a campaign must not be by country too."),
        (
            "campaign=spring&from_time=2026-09-30T00:00:00Z",
            "a campaign must not be longer than 31 days; use `from_time` for a shorter one.",
        ),
        ("campaign=%00", "`campaign` must not contain U+0000."),
        ("queue=slow", "`queue` must be"),
        ("provider=%00", "`provider` must not contain U+0000."),
        ("country=IRAN", "`country` must be a code of ISO 3166 with two letters, such as DE."),
        ("country=XX", "`country` must be a code of ISO 3166"),
        # No message is counted under it: its numbers are those of GB.
        ("country=JE", "Countries that share a calling code are one, such as GB with JE."),
        (f"campaign={'x' * 201}", "`campaign` must be at most 200 characters."),
        ("order=worst", "`order` must be time or messages or failure or latency."),
        ("order=failure&group_by=status", "`order` must not be failure in a report by status."),
        ("limit=0", "`limit` must be a whole number from 1 to 10000."),
    ],
)
async def test_what_is_no_report_is_refused_in_a_sentence(reporting: Api, query: str, sentence: str) -> None:
    status, _, problem = await reporting.ask("GET", f"/v1/reports/summary?{query}")
    assert (status, problem["code"]) == (422, "invalid_field")
    assert sentence in problem["detail"]


async def test_a_report_by_reference_of_all_organisations_is_refused(reporting: Api) -> None:
    status, problem = await reporting.admin("GET", "/reports/summary?group_by=reference")
    assert (status, problem["field"]) == (422, "organisation")
    assert problem["detail"].endswith("that of one organisation: use `organisation`.")


async def test_a_report_of_a_campaign_is_of_the_last_31_days_if_it_does_not_say(
    reporting: Api, source: Source
) -> None:
    assert (await reporting.ask("GET", "/v1/reports/summary?campaign=spring"))[0] == 200
    asked = source.asked[-1]
    assert (asked.campaign, asked.until_s - asked.from_s) == ("spring", 31 * DAY_S)


async def test_one_report_of_an_organisation_at_a_time_and_others_are_not_kept_waiting_by_it(
    reporting: Api, source: Source, directory: Directory
) -> None:
    other = await directory.create_organisation("Other")
    source.gate.clear()
    count = len(source.asked)
    first = asyncio.create_task(reporting.ask("GET", "/v1/reports/summary"))
    await until(lambda: len(source.asked) == count + 1)
    status, headers, problem = await reporting.ask("GET", "/v1/reports/summary")
    assert (status, problem["code"], headers["Retry-After"]) == (429, "report_under_way", "1")
    another = asyncio.create_task(reporting.ask("GET", "/v1/reports/summary", key=other.api_key))
    await until(lambda: len(source.asked) == count + 2)
    source.gate.set()
    assert [(await first)[0], (await another)[0]] == [200, 200]
    assert (await reporting.ask("GET", "/v1/reports/summary"))[0] == 200


@pytest.mark.parametrize(
    ("groups", "until"), [("hour,status,country", "2026-11-01"), ("hour,queue,country", "2026-10-26")]
)
async def test_a_report_by_hour_may_have_the_hour_with_which_summer_time_ends(
    reporting: Api, groups: str, until: str
) -> None:
    begin = "2026-10-01" if until.startswith("2026-11") else "2026-10-19"
    offsets = "%2B02:00", "%2B01:00"
    times = f"from_time={begin}T00:00:00{offsets[0]}&until_time={until}T00:00:00{offsets[1]}"
    status, _, _ = await reporting.ask(
        "GET", f"/v1/reports/summary?group_by={groups}&time_zone=Europe/Berlin&{times}"
    )
    assert status == 200


BERLIN = "time_zone=Europe/Berlin&from_time="


@pytest.mark.parametrize(
    ("query", "is_made"),
    [
        # Summer time ended on 25 October 2026: 31 days and an hour there.
        (
            f"group_by=reference&{BERLIN}2026-10-01T00:00:00%2B02:00&until_time=2026-11-01T00:00:00%2B01:00",
            True,
        ),
        (
            f"group_by=reference&{BERLIN}2026-10-01T00:00:00%2B02:00&until_time=2026-11-01T00:15:00%2B01:00",
            False,
        ),
        ("group_by=reference&from_time=2026-09-30T22:00:00Z&until_time=2026-10-31T23:00:00Z", False),
        (f"campaign=spring&{BERLIN}2026-10-01T00:00:00%2B02:00&until_time=2026-11-01T00:00:00%2B01:00", True),
        (f"group_by=hour&{BERLIN}2026-10-01T00:00:00%2B02:00&until_time=2026-11-01T00:00:00%2B01:00", True),
        (f"group_by=minute&{BERLIN}2026-10-25T00:00:00%2B02:00&until_time=2026-10-26T00:00:00%2B01:00", True),
        (
            f"group_by=minute&{BERLIN}2026-10-25T00:00:00%2B02:00&until_time=2026-10-26T00:01:00%2B01:00",
            False,
        ),
        # It began on 29 March 2026: what the period is without `from_time` is never too long.
        ("campaign=spring&time_zone=Europe/Berlin&until_time=2026-04-01T00:00:00%2B02:00", True),
        (
            f"group_by=hour,status,country,provider&{BERLIN}2026-10-19T00:00:00%2B02:00"
            "&until_time=2026-10-26T00:00:00%2B01:00",
            True,
        ),
        (
            f"group_by=hour,status,country&{BERLIN}2026-10-01T00:00:00%2B02:00"
            "&until_time=2026-11-01T00:00:00%2B01:00",
            True,
        ),
    ],
)
async def test_the_longest_period_is_counted_in_days_of_the_time_zone(
    reporting: Api, query: str, *, is_made: bool
) -> None:
    status, _, reply = await reporting.ask("GET", f"/v1/reports/summary?{query}")
    assert (status == 200) == is_made, reply
    assert is_made or "must not be longer than" in reply["detail"]
