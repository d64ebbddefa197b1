"""Reports: the messages that were accepted in a period, in groups, for an organisation or for the operator.

What limits them. One report of an organisation at a time is made by a process, and few of all; others wait,
so that a caller who asks for many waits for its own. ClickHouse bounds each
(`engine.stores.clickhouse.reports`).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Literal, get_args
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from aiohttp import hdrs, web

from engine.activity.countries import numbers_of
from engine.activity.reports import PERIODS, TIMES, Group, Order, Report, ReportQuery, ordered
from engine.api.auth import Keys
from engine.api.decoding import invalid
from engine.api.description import ID, TEXT, TIME, Answer, Parameter, described
from engine.api.known_organisations import check_exists
from engine.api.paging import asked, choice_asked, time_asked
from engine.api.ports import AdminServices, CommonServices
from engine.api.report_ports import ReportSource
from engine.api.response import Response, answer_of
from engine.errors import TooMany
from engine.records import QUEUES, Queue

# How long a report may take, with its wait for others, seconds.
REPORT_S = 30.0
# So many are made by a process at once.
_TOGETHER = 2
# What a report is about when the caller does not say: so much up to now, seconds.
_PERIOD_S = 86_400
_QUARTER_S = 900
# The longest periods, days of the report's time zone: of all reports, by minute, by hour, by hour and two
# groups beside the status, and by reference.
_LONGEST_DAYS = 3_660
_MINUTES_DAYS = 1
_HOURS_DAYS = 31
_HOURS_OF_GROUPS_DAYS = 7
_REFERENCES_DAYS = 31
_ROWS_MAX = 10_000
# No reference is longer.
_CAMPAIGN_MAX = 200

_GROUPS: tuple[Group, ...] = get_args(Group)
_OWN_GROUPS = tuple(name for name in _GROUPS if name != "organisation")
_ORDERS: dict[str, Order] = {name: name for name in get_args(Order)}
QUEUE_NAMES: Mapping[str, Queue | Literal[""]] = {"": "", **{queue: queue for queue in QUEUES}}

# Of reports and exports: the parameters that name a period and a queue.
PERIOD = {
    "from_time": Parameter(
        "Of messages accepted from this time on; a day before `until_time` if absent.", TIME
    ),
    "until_time": Parameter("And before this time; the end of this quarter of an hour if absent.", TIME),
    "queue": Parameter("Only those of this queue.", {"enum": list(QUEUES)}),
}

_PARAMETERS = {
    **PERIOD,
    "group_by": Parameter(
        "Names of groups with commas between; none: one row, if there is any message. Of minute, hour and "
        "day one at most. `reference` is what references begin with, up to the first of `- _ / : .` or a "
        "blank.",
        TEXT,
    ),
    "time_zone": Parameter(
        "IANA name of the time zone of hours and days.", {"type": "string", "default": "UTC"}
    ),
    "provider": Parameter("Only those that ended with this provider.", TEXT),
    "country": Parameter("Only those to this country, ISO 3166.", TEXT),
    "campaign": Parameter(
        "Only those whose reference is this, or begins with this and one of `- _ / : .` or a blank. Without "
        "`from_time` it is a report of the last 31 days.",
        {"type": "string", "maxLength": _CAMPAIGN_MAX},
    ),
    "order": Parameter(
        "By group; or the largest first, those with the lowest delivery rate, or those that take longest "
        "until a provider takes them (p95).",
        {"enum": list(_ORDERS), "default": "time"},
    ),
    "messages_min": Parameter(
        "Only groups of so many messages.", {"type": "integer", "minimum": 0, "default": 0}
    ),
    "limit": Parameter(
        "At most so many rows.",
        {"type": "integer", "minimum": 1, "maximum": _ROWS_MAX, "default": _ROWS_MAX},
    ),
}
_EXAMPLE = {
    "from_time": "2026-11-22T00:00:00+00:00",
    "until_time": "2026-11-23T00:00:00+00:00",
    "time_zone": "UTC",
    "complete": True,
    "rows": [
        {
            "messages": 100, "segments": 130, "units": 650, "accepted": 2, "sent": 3, "outcome_unknown": 0,
            "canceled": 0, "expired": 0, "failed": 1, "undelivered": 4, "delivered": 90, "retries": 5,
            "held": 10, "captured": 635, "released": 5, "delivery_rate": 0.947,
            "answer_ms": {"p50": 80.0, "p95": 150.0, "p99": 900.0},
            "sent_after_ms": {"p50": 95.0, "p95": 170.0, "p99": 950.0},
            "delivered_after_ms": {"p50": 2100.0, "p95": 5200.0, "p99": 9000.0},
        }
    ],
}  # fmt: skip
_MORE = (
    "Each message counts once, in the period of its acceptance and with the status it has now. A message is "
    f"counted about a second after its acceptance. {PERIODS}"
)


class ReportQueue:
    """Lets few reports be made at once, and one of each organisation."""

    def __init__(self) -> None:
        self._room = asyncio.Semaphore(_TOGETHER)
        self._under_way: set[int] = set()

    @asynccontextmanager
    async def turn(self, organisation_id: int | None) -> AsyncIterator[None]:
        """Wait for room. None: the operator's. Raises TooMany while another report of the organisation is
        made."""
        if organisation_id is None:
            async with self._room:
                yield
            return
        if organisation_id in self._under_way:
            raise TooMany(
                "report_under_way",
                "Another report of the organisation is being made; ask again when it has its answer.",
                "reports",
                quota=1,
                window_s=0,
                remaining=0,
                retry_after_s=1.0,
            )
        self._under_way.add(organisation_id)
        try:
            async with self._room:
                yield
        finally:
            self._under_way.discard(organisation_id)


class OwnReports:
    """The action on /v1/reports/summary."""

    def __init__(self, services: CommonServices, keys: Keys) -> None:
        self._reports = services.reports.summary
        self._now_us = services.now_us
        self._keys = keys
        self._queue = ReportQueue()

    @described(
        "get_report",
        "Count the messages that were accepted in a period, in groups.",
        more=_MORE,
        scope="read",
        query=_PARAMETERS,
        answers={200: Answer(Report, example=_EXAMPLE)},
        codes=("report_too_large", "report_under_way"),
    )
    async def summary(self, request: web.Request) -> Response:
        """`GET /v1/reports/summary`: 200 with an `activity.reports.Report`. Raises Refusal 401, 403, 422,
        429, Unavailable."""
        organisation_id = await self._keys.organisation(request.headers.get(hdrs.AUTHORIZATION), request)
        query = query_of(request, _OWN_GROUPS, organisation_id, self._now_us() // 1_000_000)
        async with self._queue.turn(organisation_id):
            return answer_of(200, await _made(request, self._reports, query))


class AllReports:
    """The action on /v1/admin/reports/summary."""

    def __init__(self, services: AdminServices) -> None:
        self._reports = services.reports.summary
        self._now_us = services.now_us
        self._queue = ReportQueue()
        self._directory = services.directory

    @described(
        "get_report_of_all",
        "Count the messages of all organisations that were accepted in a period, in groups.",
        more=_MORE,
        query={**_PARAMETERS, "organisation": Parameter("Only those of this organisation.", ID)},
        answers={200: Answer(Report, example=_EXAMPLE)},
        codes=("report_too_large", "not_found"),
    )
    async def summary(self, request: web.Request) -> Response:
        """`GET /reports/summary`: 200 with an `activity.reports.Report`. Raises Refusal 401, 403, 404, 422,
        Unavailable."""
        organisation_id = asked(request, "organisation", 0, 1) or None
        query = query_of(request, _GROUPS, organisation_id, self._now_us() // 1_000_000)
        async with self._queue.turn(None):
            report = await _made(request, self._reports, query)
        if organisation_id is not None and not report.rows:
            await check_exists(self._directory, organisation_id)
        return answer_of(200, report)


async def _made(request: web.Request, source: ReportSource, query: ReportQuery) -> Report:
    """Make the report. Raises Refusal 422, Unavailable."""
    order, limit = choice_asked(request, "order", _ORDERS), asked(request, "limit", _ROWS_MAX, 1, _ROWS_MAX)
    messages_min = asked(request, "messages_min", 0)
    if order in ("failure", "latency") and "status" in query.group_by:
        raise invalid(f"`order` must not be {order} in a report by status.", "order")
    report = await source(query)
    report.rows = ordered(report.rows, order, limit, messages_min)
    return report


def query_of(
    request: web.Request, allowed: Sequence[Group], organisation_id: int | None, now_s: int
) -> ReportQuery:
    """What the query of the URL asks for; `now_s`: seconds since 1970. Raises Refusal 422."""
    group_by = _groups(request, allowed)
    step_s = 60 if "minute" in group_by else _QUARTER_S
    campaign = _name(request, "campaign", _CAMPAIGN_MAX)
    from_s, until_s = period_of(
        request, now_s, step_s, _REFERENCES_DAYS * 86_400 if campaign and step_s > 60 else _PERIOD_S
    )
    time_zone = _zone(request)
    days, what = _LONGEST_DAYS, "a report"
    if "minute" in group_by:
        days, what = _MINUTES_DAYS, "a report by minute"
    if "hour" in group_by:
        days, what = _HOURS_DAYS, "a report by hour"
        if len(set(group_by) - {"hour", "status"}) > 1:
            days, what = _HOURS_OF_GROUPS_DAYS, "a report by hour and two other groups, beside `status`,"
    if "reference" in group_by or campaign:
        by = "by reference" if "reference" in group_by else "of a campaign"
        days, what = min(days, _REFERENCES_DAYS), f"a report {by}"
        if organisation_id is None:
            raise invalid(
                f"A report {by} must be that of one organisation: use `organisation`.", "organisation"
            )
        if (request.query.get("country") or "") or "country" in group_by:
            raise invalid(f"A report {by} must not be by country too.", "country")
    if until_s > _after(from_s, days, ZoneInfo(time_zone)):
        longest = "a day" if days == 1 else f"{days:,} days"
        otherwise = " (by day it may be)" if what.startswith("a report by hour") else ""
        raise invalid(
            f"The period of {what} must not be longer than {longest}{otherwise}; use `from_time` for a "
            "shorter one.",
            "from_time",
        )
    return ReportQuery(
        from_s=from_s,
        until_s=until_s,
        group_by=group_by,
        time_zone=time_zone,
        organisation_id=organisation_id,
        queue=choice_asked(request, "queue", QUEUE_NAMES),
        provider=_name(request, "provider"),
        country=_country(request),
        campaign=campaign,
    )


def _after(from_s: int, days: int, zone: ZoneInfo) -> int:
    """When so many days of a time zone have passed, seconds since 1970. Where the clocks go forward in them
    it is not before as many times 24 hours."""
    begin = datetime.fromtimestamp(from_s, zone)
    return max(int((begin + timedelta(days)).timestamp()), from_s + days * 86_400)


def period_of(
    request: web.Request, now_s: int, step_s: int = _QUARTER_S, period_s: int = _PERIOD_S
) -> tuple[int, int]:
    """The times `from_time` and `until_time` of the query, on whole steps of `step_s`, seconds since 1970.
    `period_s`: how long it is when the query does not say.

    Raises Refusal 422."""
    until_s = _time(request, "until_time", step_s, (now_s // step_s + 1) * step_s)
    from_s = _time(request, "from_time", step_s, max(0, until_s - period_s))
    if from_s >= until_s:
        until = "" if request.query.get("until_time") else ", which is now when it is not given"
        raise invalid(f"`from_time` must be before `until_time`{until}.", "from_time")
    return from_s, until_s


def _groups(request: web.Request, allowed: Sequence[Group]) -> tuple[Group, ...]:
    text = request.query.get("group_by") or ""
    names: Mapping[str, Group] = {name: name for name in allowed}
    wanted = [name.strip() for name in text.split(",")] if text else []
    if any(name not in names for name in wanted) or len(set(wanted)) < len(wanted):
        raise invalid(
            f"`group_by` must be some of {', '.join(allowed)}, each once, with commas between.", "group_by"
        )
    if sum(name in TIMES for name in wanted) > 1:
        raise invalid(f"`group_by` must have one of {', '.join(TIMES)} at most.", "group_by")
    return tuple(names[name] for name in wanted)


def _time(request: web.Request, name: str, step_s: int, default_s: int) -> int:
    """The time `name` of the query, whole steps, seconds since 1970. Raises Refusal 422."""
    time = time_asked(request, name)
    if time is None:
        return default_s
    time = time.astimezone(UTC)
    seconds = int(time.timestamp())
    if not 0 <= seconds < 2**32:
        raise invalid(f"`{name}` must be in the years 1970 to 2105.", name)
    if time.microsecond or seconds % step_s:
        whole = "a whole minute" if step_s == 60 else "a quarter of an hour, such as 10:00, 10:15 or 10:30"
        raise invalid(f"`{name}` must be {whole}.", name)
    return seconds


def _zone(request: web.Request) -> str:
    name = request.query.get("time_zone") or "UTC"
    try:
        # A system has files of zones that ClickHouse lacks, or that are others elsewhere.
        if name.startswith(("right/", "posix")) or name in ("localtime", "Factory"):
            raise ValueError(name)
        ZoneInfo(name).utcoffset(datetime.now(UTC))
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise invalid("`time_zone` must be an IANA name, such as Europe/Berlin.", "time_zone") from None
    return name


def _name(request: web.Request, field: str, length_max: int | None = None) -> str:
    text = request.query.get(field) or ""
    if "\0" in text:
        raise invalid(f"`{field}` must not contain U+0000.", field)
    if length_max is not None and len(text) > length_max:
        raise invalid(f"`{field}` must be at most {length_max} characters.", field)
    return text


def _country(request: web.Request) -> str:
    """The filter `country`. Raises Refusal 422 for what no message can be counted under."""
    country = (request.query.get("country") or "").upper()
    if country and not numbers_of(country):
        raise invalid(
            "`country` must be a code of ISO 3166 with two letters, such as DE. Countries that share a "
            "calling code are one, such as GB with JE.",
            "country",
        )
    return country
