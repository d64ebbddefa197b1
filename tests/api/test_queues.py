"""The operator's calls that pause a queue, over a real PostgreSQL."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from engine.stores.postgres.closures import PostgresClosures
from engine.stores.postgres.routing import Routing
from supervisor import cli
from tests.api.world import ADMIN_KEY, Api

NEITHER = {"queue": "normal", "pause": None, "drain": None}


@pytest.fixture(autouse=True)
async def none_is_paused(api: Api) -> AsyncIterator[None]:
    yield
    for queue in ("express", "normal"):
        await api.behind_admin.routing.pause_queue(queue, None)  # type: ignore[arg-type]


async def test_a_queue_is_paused_and_resumed_and_again_changes_nothing(api: Api) -> None:
    before = await api.behind_admin.routing.read()
    assert before.paused_queues == ()
    status, reply = await api.admin("POST", "/queues/normal/pause", {"reason": "a wrong text"})
    assert (status, reply["queue"], reply["pause"]["reason"]) == (200, "normal", "a wrong text")
    assert await api.admin("POST", "/queues/normal/pause") == (200, reply), "since when and why stay"
    plan = await api.behind_admin.routing.read()
    assert (plan.version, plan.paused_queues) == (before.version + 1, ("normal",))
    for _ in range(2):
        assert await api.admin("POST", "/queues/normal/resume") == (200, NEITHER)
    plan = await api.behind_admin.routing.read()
    assert (plan.version, plan.paused_queues) == (before.version + 2, ())


async def test_a_repeated_pause_does_not_undo_a_later_resume(api: Api) -> None:
    key = {"Idempotency_Key": "pause normal"}
    first = await api.admin("POST", "/queues/normal/pause", **key)
    await api.admin("POST", "/queues/normal/resume")
    assert await api.admin("POST", "/queues/normal/pause", **key) == first, "the answer to the first"
    assert await api.behind_admin.routing.queue_pauses() == {}  # type: ignore[attr-defined]
    status, reply = await api.admin("POST", "/queues/express/pause", **key)
    assert (status, reply["code"]) == (409, "idempotency_key_reused")


async def test_what_cannot_be_is_refused(api: Api) -> None:
    for body, field in (({"reason": 5}, "reason"), ({"reason": "x" * 201}, "reason"), ({"why": "x"}, "why")):
        status, reply = await api.admin("POST", "/queues/normal/pause", body)
        assert (status, reply["field"]) == (422, field)
    assert (await api.admin("POST", "/queues/normal/resume", {"reason": "x"}))[0] == 422
    assert (await api.admin("POST", "/queues/slow/pause"))[0] == 404
    for path in ("pause", "resume"):
        assert (await api.ask("POST", f"/v1/admin/queues/normal/{path}"))[0] == 401
    assert isinstance(api.behind_admin.routing, Routing)
    assert await api.behind_admin.routing.queue_pauses() == {}


async def test_a_drain_stands_until_the_queue_is_resumed_and_a_paused_queue_is_not_drained(api: Api) -> None:
    routing, closures = api.behind_admin.routing, PostgresClosures(api.services.directory._pool, "here")  # type: ignore[attr-defined]
    status, reply = await api.admin("POST", "/queues/normal/drain", {"reason": "new address"})
    assert (status, reply["pause"], reply["drain"]["reason"]) == (200, None, "new address")
    assert await api.admin("POST", "/queues/normal/drain") == (200, reply), "since when and why stay"
    assert await closures.closed() == ({"normal"}, False)
    # It may be paused meanwhile; whoever resumes it ends both.
    assert (await api.admin("POST", "/queues/normal/pause"))[1]["drain"] == reply["drain"]
    status, refused = await api.admin("POST", "/queues/normal/drain")
    assert (status, refused["code"]) == (409, "queue_paused")
    assert await api.admin("POST", "/queues/normal/resume") == (200, NEITHER)
    assert await closures.closed() == (frozenset(), False)
    assert (await routing.queue_pauses(), await routing.queue_drains()) == ({}, {})
    for body, field in (({"reason": 5}, "reason"), ({"force": True}, "force")):
        assert (await api.admin("POST", "/queues/normal/drain", body))[1]["field"] == field
    assert (await api.ask("POST", "/v1/admin/queues/normal/drain"))[0] == 401


async def test_a_repeated_drain_does_not_undo_a_later_resume(api: Api) -> None:
    key = {"Idempotency_Key": "drain normal"}
    first = await api.admin("POST", "/queues/normal/drain", **key)
    await api.admin("POST", "/queues/normal/resume")
    assert await api.admin("POST", "/queues/normal/drain", **key) == first, "the answer to the first"
    assert await api.behind_admin.routing.queue_drains() == {}  # type: ignore[attr-defined]


async def test_the_commands_pause_and_resume(api: Api, capsys: pytest.CaptureFixture[str]) -> None:
    async def run(*words: str) -> tuple[int, str]:
        url = f"http://127.0.0.1:{api.port}"
        code = await asyncio.to_thread(cli.run, ["queue", *words, "--url", url, "--admin-key", ADMIN_KEY])
        return code, capsys.readouterr().out

    code, shown = await run("pause", "express", "--reason", "maintenance")
    assert code == 0
    assert shown.startswith("the queue express is paused since 20")
    assert shown.endswith("(maintenance)\n")
    assert await run("resume", "express") == (0, "the queue express sends\n")
