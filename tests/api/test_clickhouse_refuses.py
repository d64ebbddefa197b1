"""What a caller is told when ClickHouse is there and refuses, so that an operator must act.

To callers that is as a ClickHouse that is away: 503 with the sentence that the engine knows, and no frames in
the log.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit, urlunsplit

import pytest

from engine.activity.lookups import Lookups
from engine.activity.message_list import MessageLists
from engine.activity.ports import ActivityStore
from engine.api.reads import PART_S, MessageReads
from engine.api.report_ports import ReportServices
from engine.organisations import NewOrganisation
from engine.stores.clickhouse.divided.activity import DividedActivityStore
from engine.stores.clickhouse.divided.erasure import DividedErasure
from engine.stores.clickhouse.divided.export import DividedExport
from engine.stores.clickhouse.divided.reports import DividedReports
from engine.stores.clickhouse.message_list import ClickHouseMessageList
from engine.stores.postgres.directory import Directory
from engine.stores.redis.activity_stream import RedisActivityStream
from engine.stores.redis.archive_progress import RedisArchiveProgress
from engine.stores.redis.link import RedisLink
from tests.api.world import ADMIN_KEY, Api, services_with, serving
from tests.clickhouse_databases import in_database

MESSAGE_ID = "0190a0b0-0000-7000-8000-000000000001"
WRONG = {
    "password": "the user or the password is wrong",
    "database": "the database is missing: run `smsengine migrate`",
}


def wrong(url: str, what: str) -> str:
    """The URL of a server that refuses what is asked with it."""
    if what == "database":
        return in_database(url, "lost_with_its_disk")
    at = urlsplit(url)
    return urlunsplit(at._replace(netloc=f"{at.username}:wrong@{at.hostname}:{at.port}"))


@asynccontextmanager
async def refused_by(
    url: str, directory: Directory, acme: NewOrganisation, redis_url: str
) -> AsyncIterator[Api]:
    """An API whose reads go to this ClickHouse."""
    link = RedisLink(redis_url, timeout_s=60, name="refused")
    store, stream = DividedActivityStore(url), RedisActivityStream(redis_url, 16)
    reports, export, erasure = DividedReports(url), DividedExport(url), DividedErasure(url)
    one: ActivityStore = store.of(acme.id)
    lookups = Lookups(stream, one, 16, PART_S)
    lists = MessageLists(
        ClickHouseMessageList(store.of(acme.id)), RedisArchiveProgress(link, 16), 16, time.time_ns
    )
    services = await services_with(
        directory,
        history=MessageReads(lookups).message,
        lists=lists,
        reports=ReportServices(reports.summary, export.messages, erasure.erase, erasure.under_way),
    )
    async with serving(services, acme.api_key) as api:
        yield api
    await lookups.close()
    for part in (store, reports, export, erasure, stream, link):
        await part.close()


@pytest.mark.parametrize("what", WRONG)
@pytest.mark.parametrize("divisions", [1, 2])
async def test_every_read_is_503_and_says_what_clickhouse_refuses(
    directory: Directory,
    acme: NewOrganisation,
    streams_url: str,
    clickhouse_url: str,
    capsys: pytest.CaptureFixture[str],
    what: str,
    divisions: int,
) -> None:
    bad = wrong(clickhouse_url, what)
    at = urlsplit(clickhouse_url)
    own = f"ClickHouse refuses: {WRONG[what]}."
    operators = f"ClickHouse at http://{at.hostname}:{at.port} refuses: {WRONG[what]}."
    async with refused_by(" ".join([bad] * divisions), directory, acme, streams_url) as api:
        for path in (
            "/v1/reports/summary",
            "/v1/reports/messages",
            "/v1/messages",
            f"/v1/messages/{MESSAGE_ID}",
        ):
            status, headers, reply = await api.ask("GET", path)
            assert (path, status, reply["code"]) == (path, 503, "unavailable")
            assert (reply["detail"], headers["Retry-After"]) == (own, "1")
        of_one = f"/v1/admin/organisations/{acme.id}"
        for method, path, body in (
            ("GET", "/v1/admin/reports/summary", None),
            ("GET", f"{of_one}/reports/messages", None),
            ("GET", f"{of_one}/messages", None),
            ("POST", "/v1/admin/erasures", {"number": "+4915112345678"}),
            ("GET", "/v1/admin/erasures", None),
        ):
            status, _, reply = await api.ask(method, path, body, key=ADMIN_KEY)
            assert (path, status, reply["detail"]) == (path, 503, operators)
    written = capsys.readouterr()
    assert "frames" not in written.out + written.err
