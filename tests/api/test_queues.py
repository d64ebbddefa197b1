"""The operator's calls that pause a queue, over a real PostgreSQL."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from engine.stores.postgres.routing import Routing
from supervisor import cli
from tests.api.world import ADMIN_KEY, Api


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
        assert await api.admin("POST", "/queues/normal/resume") == (200, {"queue": "normal", "pause": None})
    plan = await api.behind_admin.routing.read()
    assert (plan.version, plan.paused_queues) == (before.version + 2, ())


async def test_a_repeated_pause_does_not_undo_a_later_resume(api: Api) -> None:
    key = {"Idempotency_Key": "pause normal"}
    assert (await api.admin("POST", "/queues/normal/pause", **key))[1]["pause"]
    await api.admin("POST", "/queues/normal/resume")
    assert await api.admin("POST", "/queues/normal/pause", **key) == (200, {"queue": "normal", "pause": None})
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
