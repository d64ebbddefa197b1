"""`smsengine report`: what it asks for and prints, from answers of a server."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread
from urllib.parse import parse_qs, urlsplit

import msgspec
import pytest

from engine.activity.reports import PERIODS, Quantiles, Report, ReportRow
from supervisor import cli


class Answers(BaseHTTPRequestHandler):
    """Gives one report to whoever asks, and remembers the last query."""

    report = Report(from_time="A", until_time="B", time_zone="UTC", complete=True, rows=[])
    asked: dict[str, list[str]]

    def do_GET(self) -> None:
        type(self).asked = parse_qs(urlsplit(self.path).query)
        body = msgspec.json.encode(self.report)
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), Answers)
    Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def run(url: str, *arguments: str) -> int:
    return cli.run(["report", *arguments, "--url", url, "--admin-key", "k"])


ROW = ReportRow(
    provider="a", messages=1200, segments=1300, units=6500, accepted=0, sent=200, outcome_unknown=0,
    canceled=0,
    expired=0, failed=0, undelivered=100, delivered=900, retries=4, held=0, captured=6500, released=0,
    delivery_rate=0.9, answer_ms=Quantiles(1.0, 2.0, 3.0), sent_after_ms=Quantiles(10.0, 1500.0, 30.0),
    delivered_after_ms=None,
)  # fmt: skip


def test_a_report_is_a_table_whose_times_are_rounded_to_quarters(
    url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Answers.report = Report(from_time="A", until_time="B", time_zone="UTC", complete=False, rows=[ROW])
    times = ("--since", "2026-11-01T10:07:00+01:00", "--until", "2026-11-01T11:00:01Z")
    assert run(url, "--by", "provider", *times) == 0
    printed = capsys.readouterr().out
    for word in ("provider", "1,200", "90.00%", "1 s", "incomplete"):
        assert word in printed
    assert Answers.asked["from_time"] == ["2026-11-01T10:00:00+01:00"]
    assert Answers.asked["until_time"] == ["2026-11-01T11:15:00+00:00"]


def test_the_statuses_of_a_table_add_up_to_its_messages(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    seldom = msgspec.structs.replace(ROW, sent=190, canceled=7, outcome_unknown=3)
    for rows, are_shown in (([ROW], False), ([ROW, seldom], True)):
        Answers.report = Report(from_time="A", until_time="B", time_zone="UTC", complete=True, rows=rows)
        assert run(url, "--by", "provider") == 0
        head, _, *lines = capsys.readouterr().out.splitlines()
        names = head.split("delivery")[0].split()
        assert ({"canceled", "outcome_unknown"} <= set(names)) is are_shown
        for line in lines[: len(rows)]:
            counts = [int(cell.replace(",", "")) for cell in line.split()[1 : len(names)]]
            numbers = dict(zip(names[1:], counts, strict=True))
            assert (
                numbers.pop("messages") == sum(numbers.values()) - numbers["segments"] - numbers["captured"]
            )


def test_json_and_csv_have_all_numbers(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    Answers.report = Report(from_time="A", until_time="B", time_zone="UTC", complete=True, rows=[ROW])
    assert run(url, "--json") == 0
    assert json.loads(capsys.readouterr().out)["rows"][0]["delivered"] == 900
    assert run(url, "--csv", "--by", "provider") == 0
    # As many groups as a report has at most: none is left out unasked.
    assert Answers.asked["limit"] == ["10000"]
    [row] = csv.DictReader(io.StringIO(capsys.readouterr().out))
    assert (row["provider"], row["captured"], row["sent_after_p95_ms"]) == ("a", "6500", "1500.0")
    assert row["delivered_after_p50_ms"] == ""


def test_a_reference_in_csv_is_no_formula_of_a_spreadsheet(
    url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = {
        "=1+1": "'=1+1",
        "@SUM(A1)": "'@SUM(A1)",
        "-1+2": "'-1+2",
        "+98912": "+98912",
        "-5": "-5",
        "a=b": "a=b",
    }
    rows = [msgspec.structs.replace(ROW, provider=msgspec.UNSET, reference=text) for text in texts]
    Answers.report = Report(from_time="A", until_time="B", time_zone="UTC", complete=True, rows=rows)
    assert run(url, "--csv", "--by", "reference", "--organisation", "7") == 0
    printed = csv.DictReader(io.StringIO(capsys.readouterr().out))
    assert [row["reference"] for row in printed] == list(texts.values())


OF_STATUS = ReportRow(status="sent", messages=1, segments=1, units=1)
OF_DAY = msgspec.structs.replace(ROW, provider=msgspec.UNSET, time="2026-11-01T00:00:00+00:00")


@pytest.mark.parametrize(
    ("by", "row", "first"),
    [("provider", ROW, "provider"), ("status", OF_STATUS, "status"), ("day", OF_DAY, "time")],
)
def test_csv_has_the_same_names_without_rows(
    url: str, capsys: pytest.CaptureFixture[str], by: str, row: ReportRow, first: str
) -> None:
    names = []
    for rows in ([row], []):
        Answers.report = Report(from_time="A", until_time="B", time_zone="UTC", complete=True, rows=rows)
        assert run(url, "--csv", "--by", by) == 0
        names.append(capsys.readouterr().out.splitlines()[0])
    assert names[0] == names[1]
    assert names[0].startswith(f"{first},messages,")


def test_a_report_that_ends_at_its_limit_says_so(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    Answers.report = Report(from_time="A", until_time="B", time_zone="UTC", complete=True, rows=[ROW])
    for limit, said in ((1, "smsengine: There may be more rows than --limit 1.\n"), (2, "")):
        assert run(url, "--limit", str(limit)) == 0
        assert capsys.readouterr().err == said


def test_csv_and_json_together_are_refused(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(url, "--csv", "--json") == 2
    assert capsys.readouterr().err == "smsengine: --csv and --json cannot both be given.\n"


def test_a_wrong_time_is_told_in_a_sentence(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(url, "--since", "yesterday") == 2
    assert capsys.readouterr().err.startswith("smsengine: --since must be a time with its time zone")


def test_by_minute_a_period_begins_at_a_minute_however_the_groups_are_written(url: str) -> None:
    assert run(url, "--by", "queue, minute", "--since", "2026-11-01T10:07:30Z") == 0
    assert Answers.asked["from_time"] == ["2026-11-01T10:07:00+00:00"]


def test_the_command_line_says_of_periods_what_the_api_says(
    url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(url, "--help") == 0
    printed = " ".join(word for word in capsys.readouterr().out.split() if word != "│")
    assert PERIODS in printed


@pytest.mark.parametrize(
    ("words", "length"),
    [
        (("--by", "minute"), timedelta(days=1)),
        (("--by", "hour", "--since", "31d"), timedelta(days=31)),
        (("--since", "48h", "--until", "24h"), timedelta(days=1)),
    ],
)
def test_a_period_of_so_far_ago_is_as_long_as_that(url: str, words: Sequence[str], length: timedelta) -> None:
    before = datetime.now(UTC)
    assert run(url, *words) == 0
    step = timedelta(minutes=1 if "minute" in words else 15)
    begins = datetime.fromisoformat(Answers.asked["from_time"][0])
    # Without an end it is the step that has begun.
    ends = Answers.asked.get("until_time")
    if ends:
        assert datetime.fromisoformat(ends[0]) - begins == length
    assert timedelta() <= begins + length + (timedelta(days=1) if ends else timedelta()) - before <= step


@pytest.mark.parametrize(("since", "length"), [("5m", timedelta(minutes=5)), ("12h", timedelta(hours=12))])
def test_a_period_of_less_than_a_day_has_all_that_was_asked_for(
    url: str, since: str, length: timedelta
) -> None:
    assert run(url, "--since", since) == 0
    begins = datetime.fromisoformat(Answers.asked["from_time"][0])
    assert length <= datetime.now(UTC) - begins <= length + timedelta(minutes=16)
