"""The history over HTTP while the archiver is stopped: what is missing is said, never left out in silence."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import pytest

from engine.activity.lookups import Lookups
from engine.api.reads import PART_S, MessageReads
from engine.organisations import NewOrganisation
from engine.records import ActivityRow
from engine.redis_keys import activity_key
from engine.shards import shard_of
from engine.stores.postgres.directory import Directory
from supervisor.embedded.servers import Server, start_clickhouse
from tests.activity.world import SHARDS, World, blob_of, make_row, new_world
from tests.api.world import ADMIN_KEY, Api, services_with, serving
from tests.credit.audit_world import freeze

ENTRIES_MAX = 10_000
ACCEPTED_US = 1_795_335_960_000_000
MESSAGE_ID = f"{ACCEPTED_US // 1000 >> 16:08x}-{ACCEPTED_US // 1000 & 0xFFFF:04x}-7000-8000-000000000001"
PATH = f"/v1/messages/{MESSAGE_ID}"


class Behind(NamedTuple):
    """An API, and streams that nobody archives."""

    api: Api
    world: World
    acme: NewOrganisation

    def row(self, event: str, at_us: int, **values: Any) -> ActivityRow:
        fields = {"accepted_at_us": ACCEPTED_US, "segments": 1} | values
        return make_row(
            0, event=event, at_us=at_us, organisation_id=self.acme.id, message_id=MESSAGE_ID, **fields
        )

    async def put(self, *rows: ActivityRow) -> None:
        """Each in an entry of its own, at its time."""
        for row in rows:
            await self.world.redis.xadd(self.key, {b"b": blob_of([row])}, id=f"{row.at_us // 1000}-*")

    async def fill(self, entries: int, at_us: int) -> None:
        """Entries of others, all of one millisecond."""
        pipe = self.world.redis.pipeline(transaction=False)
        blob = blob_of([make_row(1)])
        for _ in range(entries):
            pipe.xadd(self.key, {b"b": blob}, id=f"{at_us // 1000}-*")
        await pipe.execute()

    @property
    def key(self) -> bytes:
        return activity_key(shard_of(self.acme.id, SHARDS))


@pytest.fixture
async def behind(
    directory: Directory, acme: NewOrganisation, redis_url: str, clickhouse_url: str
) -> AsyncIterator[Behind]:
    async with behind_of(directory, acme, redis_url, clickhouse_url) as behind:
        yield behind


@asynccontextmanager
async def behind_of(
    directory: Directory,
    acme: NewOrganisation,
    redis_url: str,
    clickhouse_url: str,
    connected: bool = False,
    store_s: float = PART_S,
) -> AsyncIterator[Behind]:
    """`connected`: the process has asked this ClickHouse before."""
    async with new_world(redis_url, clickhouse_url) as world:
        if connected:
            await world.store.ping(10)
        lookups = Lookups(world.stream, world.store, SHARDS, store_s)
        views = MessageReads(lookups)
        services = await services_with(directory, history=views.message)
        async with serving(services, acme.api_key) as api:
            yield Behind(api, world, acme)


async def test_a_history_within_the_bound_is_whole(behind: Behind) -> None:
    await behind.put(behind.row("accepted", ACCEPTED_US))
    await behind.fill(ENTRIES_MAX - 500, ACCEPTED_US + 1_000_000)
    await behind.put(behind.row("sent", ACCEPTED_US + 2_000_000, attempt=1))
    status, _, reply = await behind.api.ask("GET", PATH)
    assert (status, reply["status"], reply["history_complete"]) == (200, "sent", True)


async def test_a_history_cut_short_says_so(behind: Behind) -> None:
    await behind.put(behind.row("accepted", ACCEPTED_US))
    await behind.fill(ENTRIES_MAX, ACCEPTED_US + 1_000_000)
    await behind.put(behind.row("sent", ACCEPTED_US + 2_000_000, attempt=1))
    status, _, reply = await behind.api.ask("GET", PATH)
    assert (status, reply["status"], reply["history_complete"]) == (200, "accepted", False)


async def test_nothing_before_the_time_of_a_scheduled_message_is_passed_over(behind: Behind) -> None:
    """It may be canceled at any time until then."""
    due_at_us = ACCEPTED_US + 3_600_000_000
    await behind.put(behind.row("scheduled", ACCEPTED_US, due_at_us=due_at_us))
    await behind.put(behind.row("canceled", ACCEPTED_US + 60_000_000))
    status, _, reply = await behind.api.ask("GET", PATH)
    assert (status, reply["status"], reply["history_complete"]) == (200, "canceled", True)


async def test_a_message_beyond_the_bound_is_not_denied(behind: Behind) -> None:
    await behind.fill(ENTRIES_MAX + 1, ACCEPTED_US)
    await behind.put(behind.row("accepted", ACCEPTED_US + 1000))
    status, headers, reply = await behind.api.ask("GET", PATH)
    assert (status, reply["code"], headers["Retry-After"]) == (503, "unavailable", "10")


@pytest.fixture(scope="module")
def own_clickhouse(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One that may be frozen."""
    server = start_clickhouse(tmp_path_factory.mktemp("clickhouse"))
    yield server
    server.stop(10)


@pytest.fixture
async def frozen(
    directory: Directory,
    acme: NewOrganisation,
    redis_url: str,
    own_clickhouse: Server,
) -> AsyncIterator[Behind]:
    """As `behind`, with a ClickHouse that gives no answer any more."""
    url = own_clickhouse.url
    async with behind_of(directory, acme, redis_url, url, connected=True, store_s=0.3) as behind:
        freeze(own_clickhouse.pid)
        try:
            yield behind
        finally:
            freeze(own_clickhouse.pid, signal.SIGCONT)


async def test_while_clickhouse_hangs_what_redis_has_whole_is_shown(frozen: Behind) -> None:
    await frozen.put(frozen.row("accepted", ACCEPTED_US), frozen.row("sent", ACCEPTED_US + 1000, attempt=1))
    status, _, reply = await frozen.api.ask("GET", PATH)
    assert (status, reply.get("status"), reply.get("history_complete")) == (200, "sent", True), reply


@pytest.mark.parametrize("rows", [(), ("sent",)])
async def test_while_clickhouse_hangs_the_problem_names_it(frozen: Behind, rows: tuple[str, ...]) -> None:
    """Also when only its later events are in Redis: they do not say what it cost."""
    await frozen.put(*(frozen.row(event, ACCEPTED_US + 1000) for event in rows))
    status, _, reply = await frozen.api.ask("GET", PATH)
    assert (status, reply["code"]) == (503, "unavailable"), reply
    assert "ClickHouse" in reply["detail"]
    assert "within 0.3 s" in reply["detail"]


async def test_a_message_that_is_nowhere_is_not_found(behind: Behind) -> None:
    status, _, _ = await behind.api.ask("GET", PATH)
    assert status == 404


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/admin/organisations/{}/messages"])
@pytest.mark.parametrize(
    ("since", "until"),
    [
        ("2026-11-23T00:00:00Z", "2026-11-22T00:00:00Z"),
        ("2026-11-22T00:00:00Z", "2026-11-22T00:00:00Z"),
        ("2026-11-22T00:00:00Z", "2026-11-22T03:00:00%2B03:30"),
    ],
)
async def test_a_list_of_a_time_that_ends_before_it_begins_is_refused(
    behind: Behind, path: str, since: str, until: str
) -> None:
    key = ADMIN_KEY if "admin" in path else None
    query = f"{path.format(behind.acme.id)}?since={since}&until={until}"
    status, _, reply = await behind.api.ask("GET", query, key=key)
    assert (status, reply["code"], reply["field"]) == (422, "invalid_field", "since")
    assert reply["detail"] == "`since` must be before `until`."


async def test_a_list_of_a_time_that_no_message_is_of_is_empty(behind: Behind) -> None:
    query = "since=2200-01-01T00:00:00Z&until=2300-01-01T00:00:00Z"
    status, _, reply = await behind.api.ask("GET", f"/v1/messages?{query}")
    assert (status, reply["messages"]) == (200, [])
