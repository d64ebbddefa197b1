"""An export whose ClickHouse dies or hangs: one warning names it and what was broken off, and nothing else is
logged; before the first octet it is a 503 that names it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import NamedTuple

import aiohttp
import pytest
from structlog.testing import capture_logs

from engine.activity.blocks import block_of
from engine.activity.records import ActivityEntry
from engine.organisations import NewOrganisation
from engine.stores.clickhouse import export
from engine.stores.clickhouse.export import ClickHouseExport
from engine.stores.postgres.directory import Directory
from engine.stream_id import StreamId
from tests.activity.world import blob_of, make_row, new_world
from tests.adversity.proxy import Proxy
from tests.api.world import ADMIN_KEY, Api, services_with, serving

START_US = 1_793_491_200_000_000
PERIOD = "from_time=2026-11-01T00:00:00Z&until_time=2026-11-02T00:00:00Z"
COUNT = 2_000
# More than the head of the answer, and less than the rows.
BEGUN_BYTES = 20_000


class Cuttable(NamedTuple):
    """An API that exports from a ClickHouse behind a proxy."""

    api: Api
    proxy: Proxy
    url: str


@pytest.fixture
async def cuttable(
    directory: Directory, acme: NewOrganisation, redis_url: str, clickhouse_url: str
) -> AsyncIterator[Cuttable]:
    async with new_world(redis_url, clickhouse_url) as world, Proxy.to(world.clickhouse_url) as proxy:
        rows = [
            make_row(
                0, organisation_id=acme.id, message_id=f"019aaaaa-0000-7000-8000-{number:012x}",
                accepted_at_us=START_US + number, at_us=START_US + number,
            )
            for number in range(COUNT)
        ]  # fmt: skip
        entry = ActivityEntry(shard=0, id=StreamId(1, 0), blob=blob_of(rows))
        await world.store.insert(block_of([entry])[0], "t")
        url = proxy.url(world.clickhouse_url)
        source = ClickHouseExport(url)
        # An export may take longer to begin than other calls may take.
        services = await services_with(directory, timeout_s=0.1)
        services = replace(services, reports=services.reports._replace(export=source.messages))
        services = replace(
            services, admin=replace(services.admin, reports=services.reports) if services.admin else None
        )
        async with serving(services, acme.api_key) as api:
            await fetched(api)
            yield Cuttable(api, proxy, url)
            proxy.flow()
        await source.close()


async def fetched(api: Api) -> bytes:
    url = f"http://127.0.0.1:{api.port}/v1/reports/messages?{PERIOD}"
    async with api.session.get(url, headers={"Authorization": f"Bearer {api.api_key}"}) as answer:
        assert answer.status == 200
        return await answer.read()


@pytest.mark.parametrize("how", ["dies", "hangs"])
async def test_what_breaks_off_is_one_warning_that_names_clickhouse(
    cuttable: Cuttable,
    acme: NewOrganisation,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    how: str,
) -> None:
    monkeypatch.setattr(export, "_BEGIN_S", 5.0 if how == "dies" else 0.5)
    if how == "dies":
        cuttable.proxy.truncate_after(BEGUN_BYTES)
    else:
        cuttable.proxy.stall_after(BEGUN_BYTES)
    with capture_logs() as said, caplog.at_level(logging.INFO):
        with pytest.raises((aiohttp.ClientPayloadError, aiohttp.ClientConnectionError)):
            await fetched(cuttable.api)
        # What the server does with the connection afterwards would be logged by then.
        await asyncio.sleep(0.1)
    [warning] = said
    assert (warning["log_level"], warning["event"]) == (
        "warning",
        "export broken off; its file is not whole",
    )
    assert (warning["organisation"], warning["rows"], warning["format"]) == (acme.id, "messages", "csv")
    assert warning["reason"].startswith("ClickHouse at http://127.0.0.1:")
    wanted = "it closed the connection" if how == "dies" else "gives no answer within 0.5 s"
    assert wanted in warning["reason"]
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


async def test_an_export_that_does_not_begin_names_clickhouse(
    cuttable: Cuttable, acme: NewOrganisation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "_BEGIN_S", 0.5)
    cuttable.proxy.stall()
    of_one = f"/v1/admin/organisations/{acme.id}"
    for path, key in ((f"/v1/reports/messages?{PERIOD}", None), (f"{of_one}/reports/messages", ADMIN_KEY)):
        status, _, reply = await cuttable.api.ask("GET", path, key=key)
        assert (path, status, reply["code"]) == (path, 503, "unavailable")
        assert reply["detail"].startswith("ClickHouse")
        assert reply["detail"].endswith("gives no answer within 0.5 s.")
