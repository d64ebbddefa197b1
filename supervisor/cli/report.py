"""`smsengine report`: the messages that were accepted in a period, in groups, over the admin API."""

from __future__ import annotations

import csv
import sys
from collections.abc import Sequence
from typing import Annotated
from urllib.parse import urlencode

import msgspec
import typer
from rich.console import Console

from engine.activity.csv_texts import as_cell
from engine.activity.reports import Quantiles, Report, ReportRow
from engine.errors import ConfigError
from supervisor.cli import options, show
from supervisor.cli.times import period
from supervisor.output import exact_output

_PATH = "/v1/admin/reports/summary"
_ANSWER_S = 60.0
_GROUPS = ("time", "organisation", "status", "queue", "provider", "country", "reference")
_COUNTS = (
    "messages", "segments", "units", "accepted", "sent", "outcome_unknown", "canceled", "expired", "failed",
    "undelivered", "delivered", "retries", "held", "captured", "released",
)  # fmt: skip
_TIMES = ("answer_ms", "sent_after_ms", "delivered_after_ms")
# Of a row that is not by status, what the table always has; --json and --csv have all.
_SHOWN = (
    "messages",
    "segments",
    "captured",
    "accepted",
    "sent",
    "undelivered",
    "delivered",
    "failed",
    "expired",
)
# With them the statuses are all messages. Most reports have none, so they are shown where a row has any.
_SELDOM = ("canceled", "outcome_unknown")
_QUARTER_S, _MINUTE_S = 900, 60
_STEPS = ("minute", "hour", "day")


_By = Annotated[
    str,
    typer.Option(
        metavar="GROUPS",
        help="Groups with commas between: status, queue, provider, country, organisation, reference (with "
        "--organisation), and one of minute, hour, day.",
    ),
]
_Since = Annotated[
    str, typer.Option(metavar="TIME", help="Accepted from then on: a time, or 30d, 12h, 5m ago.")
]
_Until = Annotated[str | None, typer.Option(metavar="TIME", help="Accepted before then; now if absent.")]
_TimeZone = Annotated[str, typer.Option(metavar="ZONE", help="Whose hours and days they are: Europe/Berlin.")]
_Organisation = Annotated[
    int | None, typer.Option(metavar="ID", min=1, help="Only messages of this organisation.")
]
_Queue = Annotated[str, typer.Option(metavar="QUEUE", help="Only those of this queue.")]
_Provider = Annotated[str, typer.Option(metavar="NAME", help="Only those that ended with this provider.")]
_Country = Annotated[str, typer.Option(metavar="CODE", help="Only those to this country: DE.")]
_Campaign = Annotated[
    str,
    typer.Option(
        metavar="NAME",
        help="Only those whose reference is this, or begins with it and one of - _ / : . or a blank; with "
        "--organisation.",
    ),
]
_Order = Annotated[
    str,
    typer.Option(
        metavar="ORDER", help="time; messages: the largest first; failure, latency: the worst first."
    ),
]
_MessagesMin = Annotated[
    int, typer.Option(metavar="COUNT", min=0, help="Only groups of at least so many messages.")
]
# A report of more groups is refused, so without the option none is left out, unless it is by status too.
_ROWS_MAX = 10_000
_Limit = Annotated[int, typer.Option(metavar="COUNT", min=1, help="How many rows at most.")]
_AsCsv = Annotated[bool, typer.Option("--csv", help="Print CSV, with all numbers.")]


@options.admin_options
def report(
    by: _By = "",
    since: _Since = "24h",
    until: _Until = None,
    time_zone: _TimeZone = "UTC",
    organisation: _Organisation = None,
    queue: _Queue = "",
    provider: _Provider = "",
    country: _Country = "",
    campaign: _Campaign = "",
    order: _Order = "time",
    messages_min: _MessagesMin = 0,
    limit: _Limit = _ROWS_MAX,
    as_csv: _AsCsv = False,
    *,
    engine: options.EngineOptions,
) -> None:
    """Count the messages that were accepted in a period, in groups: by status, provider, country, hour.

    Each message counts once, in the period of its acceptance and with the
    status it has now. Periods begin and end at quarters of an hour, by minute
    at whole minutes. They are ten years long at most, 31 days by hour, by
    reference and of a campaign, 7 days by hour and two other groups beside
    status, a day by minute: days of the time zone.

    [bold]Examples[/bold]

    [cyan]smsengine report --by status[/cyan]
    [cyan]smsengine report --by day,provider --since 30d --time-zone Europe/Berlin[/cyan]
    [cyan]smsengine report --by provider --order failure --messages-min 100 --limit 10[/cyan]
    [cyan]smsengine report --by organisation --since 7d --csv > week.csv[/cyan]
    [cyan]smsengine report --by status --organisation 7 --campaign spring --since 31d[/cyan]
    """
    if as_csv and engine.as_json:
        raise ConfigError("--csv and --json cannot both be given.")
    step_s = _MINUTE_S if "minute" in map(str.strip, by.split(",")) else _QUARTER_S
    from_time, until_time = period(since, until, step_s)
    wanted: dict[str, object] = {
        "from_time": from_time, "until_time": until_time,
        "group_by": by, "time_zone": time_zone, "organisation": organisation or "", "queue": queue,
        "provider": provider, "country": country, "campaign": campaign, "order": order,
        "messages_min": messages_min, "limit": limit,
    }  # fmt: skip
    found = engine.admin(_ANSWER_S).get(f"{_PATH}?{urlencode(wanted)}", Report)
    if as_csv:
        _write_csv(found.rows, ["time" if name in _STEPS else name for name in map(str.strip, by.split(","))])
    elif not engine.print_json(found):
        _print(found)
    if len(found.rows) == limit:
        print(f"smsengine: There may be more rows than --limit {limit}.", file=sys.stderr)


def _print(found: Report) -> None:
    groups = [name for name in _GROUPS if any(_has(row, name) for row in found.rows)]
    by_status = "status" in groups
    seldom = [name for name in _SELDOM if any(_has(row, name) and getattr(row, name) for row in found.rows)]
    counts = _COUNTS[:3] if by_status else (*_SHOWN, *seldom)
    more = () if by_status else ("delivery", "sent p95", "delivered p95")
    rows = [
        [
            *(str(getattr(row, name)) or "-" for name in groups),
            *(show.number(getattr(row, name)) for name in counts),
            *(() if by_status else (_rate(row), _p95(row.sent_after_ms), _p95(row.delivered_after_ms))),
        ]
        for row in found.rows
    ]
    right = frozenset(range(len(groups), len(groups) + len(counts) + len(more)))
    Console(width=None if sys.stdout.isatty() else 250, markup=False).print(
        show.listing((*groups, *counts, *more), rows, right, none="There are no such messages.")
    )
    print(f"accepted from {found.from_time} until {found.until_time}, {found.time_zone}")
    if not found.complete:
        print("incomplete: what was recorded by an earlier version is still being counted")


def _rate(row: ReportRow) -> str:
    return f"{row.delivery_rate:.2%}" if isinstance(row.delivery_rate, float) else "?"


def _p95(of: Quantiles | msgspec.UnsetType | None) -> str:
    return show.span(round(of.p95)) if isinstance(of, Quantiles) else "?"


def _has(row: ReportRow, name: str) -> bool:
    return getattr(row, name) is not msgspec.UNSET


def _write_csv(rows: Sequence[ReportRow], groups: Sequence[str]) -> None:
    """A line of names, and of each row all groups and numbers. `groups`: what it is by."""
    by_status = "status" in groups
    counts, times = (_COUNTS[:3], ()) if by_status else ((*_COUNTS, "delivery_rate"), _TIMES)
    names = [*(name for name in _GROUPS if name in groups), *counts]
    # A terminal is a person's, who must not be shown what it would carry out.
    writer = csv.writer(sys.stdout if sys.stdout.isatty() else exact_output())
    writer.writerow([*names, *(f"{name[:-3]}_{part}_ms" for name in times for part in ("p50", "p95", "p99"))])
    for row in rows:
        quantiles = [getattr(row, name) for name in times]
        parts = [
            value
            for of in quantiles
            for value in ((of.p50, of.p95, of.p99) if isinstance(of, Quantiles) else ("", "", ""))
        ]
        values = [_cell(getattr(row, name)) for name in names]
        writer.writerow([*values, *parts])


def _cell(value: object) -> object:
    """What stands in CSV for a value; a text is no formula of a spreadsheet."""
    if isinstance(value, str):
        return as_cell(value)
    return "" if value is None else value
