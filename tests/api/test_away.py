"""What a caller is told while a store is away, and what goes on when the caller has gone."""

from __future__ import annotations

import asyncio
import time

import pytest

from engine.activity.message_list import MessageLists
from engine.organisations import NewOrganisation
from engine.stores.clickhouse.activity import ClickHouseActivityStore
from engine.stores.clickhouse.message_list import ClickHouseMessageList
from engine.stores.postgres.directory import Directory
from engine.stores.redis.archive_progress import RedisArchiveProgress
from engine.stores.redis.link import RedisLink
from tests.api.world import ADMIN_KEY, DRAFT, DeskIngest, services_with, serving


@pytest.mark.parametrize("spends", [True, False])
async def test_without_postgres_a_process_is_ready_while_it_knows_keys_and_has_quota(
    directory: Directory, acme: NewOrganisation, spends: bool
) -> None:
    parts = {"redis": "ok", "postgres": "no answer within 1 s"}

    async def ready() -> dict[str, str]:
        return dict(parts)

    services = await services_with(directory, ready=ready, can_spend=lambda: spends)
    async with serving(services, acme.api_key) as api:
        # It knows no key yet, so it could authenticate nobody.
        assert (await api.ask("GET", "/readyz"))[::2] == (503, {"status": "unavailable", "parts": parts})
        assert (await api.ask("POST", "/v1/messages", DRAFT))[0] == 202
        status = "limited" if spends else "unavailable"
        answer = await api.ask("GET", "/readyz")
        assert answer[::2] == (200 if spends else 503, {"status": status, "parts": parts})
        parts["redis"] = "no answer within 1 s"
        assert (await api.ask("GET", "/readyz"))[0] == 503


@pytest.mark.parametrize(
    ("method", "path", "headers", "advice"),
    [
        ("GET", "/v1/admin/status", {}, "was not answered within 0.2 seconds; try again later."),
        (
            "POST",
            "/v1/messages",
            {"Idempotency_Key": "k"},
            "effect; try again with the same Idempotency-Key.",
        ),
        ("POST", "/v1/messages", {}, "may have taken effect; it had no Idempotency-Key"),
    ],
)
async def test_a_late_answer_names_the_store_that_is_away_and_says_what_fits_the_method(
    directory: Directory,
    acme: NewOrganisation,
    method: str,
    path: str,
    headers: dict[str, str],
    advice: str,
) -> None:
    parts = {"redis": "ok", "postgres": "no answer within 1 s"}

    async def ready() -> dict[str, str]:
        return parts

    async def status() -> object:
        return await asyncio.get_running_loop().create_future()

    ingest = DeskIngest()
    ingest.gate.clear()
    services = await services_with(directory, ready=ready, status=status, ingest=ingest, timeout_s=0.2)
    async with serving(services, acme.api_key) as api:
        key = ADMIN_KEY if "admin" in path else acme.api_key
        body = DRAFT if method == "POST" else None
        answer, _, reply = await api.ask(method, path, body, key=key, **headers)
        assert (answer, reply["code"]) == (503, "timeout")
        assert reply["detail"].startswith("PostgreSQL does not answer, so the request")
        assert advice in reply["detail"]
        parts["postgres"] = "ok"
        reply = (await api.ask(method, path, body, key=key, **headers))[2]
        assert reply["detail"].startswith("The request was not answered within 0.2 seconds")


async def test_a_list_without_clickhouse_is_503_with_retry_after_and_says_so(
    directory: Directory, acme: NewOrganisation, streams_url: str
) -> None:
    link = RedisLink(streams_url, timeout_s=60, name="lists")
    # Nobody listens there.
    store = ClickHouseActivityStore("http://127.0.0.1:9")
    lists = MessageLists(ClickHouseMessageList(store), RedisArchiveProgress(link, 16), 16, time.time_ns)
    async with serving(await services_with(directory, lists=lists), acme.api_key) as api:
        operators = f"/v1/admin/organisations/{acme.id}/messages"
        for path, key, where in (
            ("/v1/messages", acme.api_key, ""),
            (operators, ADMIN_KEY, " at http://127.0.0.1:9"),
        ):
            status, headers, reply = await api.ask("GET", path, key=key)
            assert (status, reply["code"], headers["Retry-After"]) == (503, "unavailable", "1")
            assert reply["detail"] == f"ClickHouse{where} cannot be reached: nothing listens there."
    await store.close()
    await link.close()


async def test_only_a_call_that_reads_for_long_ends_when_its_caller_hangs_up(
    directory: Directory, acme: NewOrganisation
) -> None:
    began, ended, never = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def audit(**_: object) -> object:
        began.set()
        try:
            await never.wait()
        finally:
            ended.set()
        return {}

    ingest = DeskIngest()
    ingest.gate.clear()
    async with serving(await services_with(directory, audit=audit, ingest=ingest), acme.api_key) as api:
        calls = [
            asyncio.create_task(api.admin("GET", "/audit")),
            asyncio.create_task(api.ask("POST", "/v1/messages", DRAFT)),
        ]
        async with asyncio.timeout(60):
            await began.wait()
            await ingest.entered.wait()
            # The client closes the connections of calls that are canceled.
            for call in calls:
                call.cancel()
            await asyncio.wait(calls)
            await ended.wait()
            ingest.gate.set()
            while not ingest.accepted:  # noqa: ASYNC110 - nobody is told
                await asyncio.sleep(0.01)
