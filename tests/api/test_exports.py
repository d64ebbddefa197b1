"""Messages as a file, from ClickHouse over the API."""

from __future__ import annotations

import asyncio
import csv
import io
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest

from engine.activity import history
from engine.activity.blocks import block_of
from engine.activity.records import ActivityEntry
from engine.errors import Unavailable
from engine.organisations import NewOrganisation
from engine.records import ActivityRow
from engine.stores.clickhouse.export import EVENT_COLUMNS, ClickHouseExport, ExportQuery
from engine.stores.postgres.directory import Directory
from engine.stream_id import StreamId
from tests.activity.world import blob_of, make_row, new_world
from tests.api.world import Api, services_with, serving

START_US = 1_793_491_200_000_000
PERIOD = "from_time=2026-11-01T00:00:00Z&until_time=2026-11-02T00:00:00Z"
COUNT = 300
# With what CSV has for those that a spreadsheet would take for a formula.
CELLS = {"=1+1": "'=1+1", "@a": "'@a", "-1+2": "'-1+2", "\t=1": "'\t=1", "+98912": "+98912", "-5": "-5"}
FORMULAS = ('quoted, "twice"', *CELLS)
HISTORIES = (
    ("accepted",),
    ("accepted", "sent", "delivered"),
    ("scheduled", "failed"),
    ("accepted", "expired"),
)


def rows_of(organisation_id: int, number: int) -> list[ActivityRow]:
    at_us = START_US + number * 1_000_000
    return [
        make_row(
            0,
            organisation_id=organisation_id,
            message_id=f"019aaaaa-0000-7000-8000-{number:012x}",
            event=event,
            accepted_at_us=at_us,
            at_us=at_us + place * 250_000,
            units=5,
            segments=1,
            attempt=place,
            provider="a" if place else "",
            reference=FORMULAS[number % len(FORMULAS)] if number else "",
            latency_us=0,
            text='Grüße, "you"' if number % 2 and not place else "",
        )
        for place, event in enumerate(HISTORIES[number % len(HISTORIES)])
    ]


class Breaking:
    """An export that fails when so many parts were given."""

    def __init__(self, url: str) -> None:
        self.whole = ClickHouseExport(url)
        self.parts_left: int | None = None
        self.begun = 0
        self.ended = asyncio.Event()

    @asynccontextmanager
    async def messages(self, query: ExportQuery) -> AsyncIterator[AsyncIterator[bytes]]:
        self.begun += 1
        async with self.whole.messages(query) as parts:
            yield self._some(parts)
        self.ended.set()

    async def _some(self, parts: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        given = 0
        async for part in parts:
            if given == self.parts_left:
                raise Unavailable("It broke off.")
            given += 1
            yield part


@pytest.fixture(scope="module")
async def exported(
    redis_url: str, clickhouse_url: str, acme: NewOrganisation
) -> AsyncIterator[tuple[Breaking, dict[str, Any]]]:
    """Where exports come from, and by id what is in ClickHouse."""
    async with new_world(redis_url, clickhouse_url) as world:
        own = [rows_of(acme.id, number) for number in range(COUNT)]
        rows = [row for rows in own for row in rows] + rows_of(acme.id + 1000, COUNT)
        entry = ActivityEntry(shard=0, id=StreamId(1, 0), blob=blob_of(rows))
        await world.store.insert(block_of([entry])[0], "t")
        source = Breaking(world.clickhouse_url)
        yield source, {view.id: view for view in map(history.describe, own)}
        await source.whole.close()


@pytest.fixture(scope="module")
async def exporting(
    directory: Directory, acme: NewOrganisation, exported: tuple[Breaking, dict[str, Any]]
) -> AsyncIterator[Api]:
    services = await services_with(directory)
    services = replace(services, reports=services.reports._replace(export=exported[0].messages))
    async with serving(services, acme.api_key) as running:
        yield running


async def fetched(api: Api, form: str) -> tuple[str, bytes]:
    url = f"http://127.0.0.1:{api.port}/v1/reports/messages?{PERIOD}&format={form}"
    async with api.session.get(url, headers={"Authorization": f"Bearer {api.api_key}"}) as answer:
        assert answer.status == 200
        return answer.headers["Content-Type"], await answer.read()


async def test_the_file_has_each_message_once_as_its_history_says(
    exporting: Api, exported: tuple[Breaking, dict[str, Any]]
) -> None:
    kind, body = await fetched(exporting, "csv")
    assert kind == "text/csv; charset=utf-8"
    # All lines end alike: the first is not ClickHouse's.
    assert body.partition(b"\n")[0].endswith(b",text")
    rows = list(csv.DictReader(io.StringIO(body.decode())))
    views = exported[1]
    assert sorted(row["id"] for row in rows) == list(views)
    for row in rows:
        view = views[row["id"]]
        cell = CELLS.get(view.reference, view.reference)
        wanted = (view.status, view.charge, view.to, cell, view.provider, view.accepted_at)
        told = ("status", "charge", "to", "reference", "provider", "accepted_at")
        assert row["text"] == (view.text or "")
        assert tuple(row[name] for name in told) == wanted
        assert (int(row["units"]), int(row["attempts"])) == (view.units, view.attempts)
        assert bool(row["delivered_at"]) == (view.status == "delivered")
    kind, body = await fetched(exporting, "jsonl")
    lines = msgspec.json.Decoder(dict[str, Any]).decode_lines(body)
    # A line of JSON has each text as it is.
    for line in lines:
        line["reference"] = CELLS.get(line["reference"], line["reference"])
    assert [{name: str(value) for name, value in line.items()} for line in lines] == rows
    kind, body = await fetched(exporting, "parquet")
    assert (kind, body[:4], body[-4:]) == ("application/vnd.apache.parquet", b"PAR1", b"PAR1")


# ClickHouse's engine is another one in a process of its own.
_READ = """
import sys, chdb
print(chdb.query("DESCRIBE TABLE file('" + sys.argv[1] + "')", "TSV"))
print(chdb.query("SELECT id, accepted_at, sent_at FROM file('" + sys.argv[1] + "') ORDER BY id", "TSV"))
"""


@pytest.mark.parametrize("rows", ["messages", "events"])
async def test_times_of_parquet_are_timestamps_and_null_where_there_is_none(
    exporting: Api, exported: tuple[Breaking, dict[str, Any]], tmp_path: Path, rows: str
) -> None:
    file = tmp_path / "file.parquet"
    file.write_bytes((await fetched(exporting, f"parquet&rows={rows}"))[1])
    code = _READ if rows == "messages" else _READ.replace("sent_at", "at")
    command = [sys.executable, "-c", code, str(file)]
    told = (await asyncio.to_thread(subprocess.run, command, capture_output=True, check=True)).stdout.decode()
    types, _, read = told.partition("\n\n")
    kinds = dict(line.split("\t")[:2] for line in types.splitlines())
    time = r"DateTime64(6, \'UTC\')"
    assert kinds["accepted_at"] == time
    if rows == "events":
        assert kinds["at"] == time
    else:
        assert kinds["sent_at"] == kinds["delivered_at"] == f"Nullable({time})"
    if rows == "messages":
        first = {
            view.id: {event.event: event.at for event in reversed(view.events)}
            for view in exported[1].values()
        }
        for line in read.split("\n"):
            if line:
                message_id, accepted_at, sent_at = line.split("\t")
                assert f"{accepted_at.replace(' ', 'T')}Z" == exported[1][message_id].accepted_at
                wanted = first[message_id].get("sent")
                assert sent_at == ("\\N" if wanted is None else wanted.replace("T", " ").removesuffix("Z"))


async def test_the_file_of_events_has_each_event_once_as_the_histories_say(
    exporting: Api, exported: tuple[Breaking, dict[str, Any]]
) -> None:
    _, body = await fetched(exporting, "jsonl&rows=events")
    lines = msgspec.json.Decoder(dict[str, Any]).decode_lines(body)
    names = ("at", "event", "attempt", "provider", "code", "latency_ms")
    told = [(line["id"], line["to"], line["from"], *(line[name] for name in names)) for line in lines]
    assert told == [
        (view.id, view.to, view.sender, *(getattr(event, name) for name in names))
        for view in exported[1].values()
        for event in view.events
    ]
    _, body = await fetched(exporting, "csv&rows=events")
    assert body.splitlines()[0].decode().split(",") == list(lines[0]) == list(EVENT_COLUMNS)


async def test_a_file_that_breaks_off_is_seen_to_be_not_whole_and_leaves_room_for_the_next(
    exporting: Api, exported: tuple[Breaking, dict[str, Any]]
) -> None:
    exported[0].parts_left = 1
    exported[0].ended.clear()
    with pytest.raises((aiohttp.ClientPayloadError, aiohttp.ClientConnectionError)):
        await fetched(exporting, "csv")
    await exported[0].ended.wait()
    exported[0].parts_left = None
    assert (await fetched(exporting, "csv"))[1].count(b"\n") == COUNT + 1


async def test_a_head_has_no_body_and_the_connection_goes_on(exporting: Api) -> None:
    request = (
        f"HEAD /v1/reports/messages?{PERIOD} HTTP/1.1\r\nHost: a\r\n"
        f"Authorization: Bearer {exporting.api_key}\r\n\r\n"
        "GET /healthz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
    )
    answer = await exporting.raw(request.encode())
    assert answer.count(b"HTTP/1.1 200") == 2
    assert answer.endswith(b'{"status":"ok"}')


@pytest.mark.parametrize(
    ("query", "field"),
    [("format=xlsx", "format"), ("from_time=2026-11-01T00:00:01Z", "from_time"), ("queue=slow", "queue")],
)
async def test_what_is_no_export_is_refused(exporting: Api, query: str, field: str) -> None:
    status, _, problem = await exporting.ask("GET", f"/v1/reports/messages?{query}")
    assert (status, problem["field"]) == (422, field)


async def test_the_operator_names_the_organisation(exporting: Api, acme: NewOrganisation) -> None:
    status, problem = await exporting.admin("GET", f"/organisations/{acme.id}/reports/messages?format=xlsx")
    assert (status, problem["field"]) == (422, "format")
    for nobody in ("none", "999999"):
        status, problem = await exporting.admin("GET", f"/organisations/{nobody}/reports/messages")
        assert (status, problem["code"]) == (404, "not_found")


async def test_an_erasure_is_begun_of_a_number_that_is_one(exporting: Api) -> None:
    status, answer = await exporting.admin("POST", "/erasures", {"number": "+4915112345678"})
    assert (status, answer) == (202, {"under_way": 0})
    assert await exporting.admin("GET", "/erasures") == (200, {"under_way": 0})
    status, problem = await exporting.admin("POST", "/erasures", {"number": "12"})
    assert (status, problem["field"]) == (422, "number")
