"""What was lost, and what is rebuilt of it, over the admin API and the command line."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from engine.organisations import LossSum, NewOrganisation, Rebuilding, RebuiltUsage
from engine.stores.postgres.directory import Directory
from engine.stores.postgres.rebuilt_usage import LostUsage
from supervisor.cli import run
from tests.api.world import ADMIN_KEY, Api, services_with, serving

_LOST = """
INSERT INTO losses (shard, who, cause, from_ms, until_ms, released, settled_at, uncharged_units,
    uncharged_messages, gone_messages)
VALUES (0, 'redis', 'Redis went back', 1, 2, 4, now(), 6, 3, 1),
    (1, 'redis', 'Redis went back', 1, 2, 0, NULL, NULL, NULL, NULL),
    (2, 'postgres', 'PostgreSQL went back', 1, 2, 0, NULL, NULL, NULL, NULL)"""
_REBUILT = """
INSERT INTO rebuilt (loss_id, organisation_id, held, captured, released, messages, unbooked)
SELECT id, 7, 30, 30, 0, 15, 0 FROM losses WHERE shard = 2"""


class Losses:
    """The losses in the books, and a rebuilding that is known beforehand."""

    def __init__(self, lost: LostUsage) -> None:
        self._lost = lost
        self.why_not: list[str] = []

    async def losses(self) -> list[LossSum]:
        return await self._lost.losses(10)

    async def rebuild(self, *, dry_run: bool, timeout_s: float) -> Rebuilding:
        usage = RebuiltUsage(
            organisation_id=7, shard=2, captured=1200, released=-5, messages=600, unbooked=200
        )
        return Rebuilding(dry_run=dry_run, rebuilt=[usage], not_rebuilt=self.why_not)


@pytest.fixture
async def losses(directory: Directory) -> AsyncIterator[Losses]:
    pool = directory._pool
    async with pool.connection() as connection:
        await connection.execute(_LOST)
        await connection.execute(_REBUILT)
    yield Losses(LostUsage(pool))
    async with pool.connection() as connection:
        await connection.execute("TRUNCATE losses, rebuilt")


@pytest.fixture
async def losing(directory: Directory, acme: NewOrganisation, losses: Losses) -> AsyncIterator[Api]:
    async with serving(await services_with(directory, losses=losses), acme.api_key) as api:
        yield api


async def test_what_was_lost_is_listed_together_and_what_is_to_do_is_said(losing: Api) -> None:
    status, found = await losing.admin("GET", "/losses")
    listed = [{k: v for k, v in one.items() if k != "at"} for one in found["losses"]]
    nothing = dict.fromkeys(("uncharged_units", "uncharged_messages", "gone_messages"))
    assert status == 200
    assert listed == [
        {"who": "postgres", "cause": "PostgreSQL went back", "shards": [2], "released": 0, "reopened": 0,
         **nothing, "rebuilt_units": 30, "rebuilt_messages": 15, "to_rebuild": 1},
        {"who": "redis", "cause": "Redis went back", "shards": [0, 1], "released": 4, "reopened": 0,
         "uncharged_units": 6, "uncharged_messages": 3, "gone_messages": 1, "rebuilt_units": 0,
         "rebuilt_messages": 0, "to_rebuild": 0},
    ]  # fmt: skip


@pytest.mark.parametrize("body", [{"dry_run": 1}, {"dry": True}])
async def test_what_is_rebuilt_has_its_bounds(losing: Api, body: dict[str, Any]) -> None:
    status, refused = await losing.admin("POST", "/losses/rebuild", body)
    assert (status, refused["field"]) == (422, next(iter(body)))


async def test_the_commands_list_losses_and_rebuild(
    losing: Api, losses: Losses, capsys: pytest.CaptureFixture[str]
) -> None:
    async def command(*words: str) -> tuple[int, str, str]:
        engine = ["--url", f"http://127.0.0.1:{losing.port}", "--admin-key", ADMIN_KEY]
        code = await asyncio.to_thread(run, ["books", *words, *engine])
        return (code, *capsys.readouterr())

    code, shown, _ = await command("show")
    assert code == 0
    assert [line.partition("UTC  ")[2] or line.strip() for line in shown.splitlines()] == [
        "PostgreSQL went back (1 shard)",
        "rebuilt from the recorded activity: 30 units of 15 messages, 1 shard to do",
        "Redis went back (2 shards)",
        "4 units given back, 6 units (3 messages) sent and not charged, 1 message gone unsent",
    ]
    code, said, _ = await command("repair")
    assert (code, said.splitlines()[0]) == (
        0,
        "PostgreSQL lost usage of 1 shard: smsengine books repair --from-activity --dry-run",
    )
    code, said, _ = await command("repair", "--from-activity", "--dry-run")
    assert code == 0
    assert "From the recorded activity would be booked: 1,200 units of 600 messages." in said.splitlines()
    assert any(line.split() == ["7", "1,200", "600", "-5", "200"] for line in said.splitlines())
    losses.why_not = ["Usage of shard 3 cannot be rebuilt."]
    code, said, _ = await command("repair", "--from-activity")
    assert (code, said.splitlines()[-1]) == (1, "Usage of shard 3 cannot be rebuilt.")
    assert "From the recorded activity booked: 1,200 units of 600 messages." in said.splitlines()
    code, said, _ = await command("repair", "--from-activity", "--json")
    assert (code, json.loads(said)["rebuilt"][0]["unbooked"]) == (1, 200)
    for wrong, sentence in (
        (["--from-activity", "--organisation", "7"], "--from-activity books for all organisations"),
        (["--dry-run"], "--dry-run needs --from-activity"),
    ):
        code, _, error = await command("repair", *wrong)
        assert (code, sentence in error) == (2, True)
