"""The operator's calls on dead letters and the commands that make them, over a real Redis."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from functools import partial

import msgspec
import pytest

from engine.errors import Unavailable
from engine.organisations import NewOrganisation
from engine.redis_keys import activity_key, dead_key, due_key, held_by_key, held_key
from engine.shards import shard_of
from engine.stores.postgres.directory import Directory
from engine.stores.redis.dead_letters import RedisDeadLetters
from engine.stores.redis.link import RedisLink
from supervisor import cli
from tests.api.world import ADMIN_KEY, Api, services_with, serving
from tests.conftest import own_database
from tests.stores.redis.kit import message, now_us

_DATABASE = 13
_SHARDS = 16


@pytest.fixture
async def link(redis_url: str) -> AsyncIterator[RedisLink]:
    async with own_database(redis_url, _DATABASE) as link:
        yield link


class View(msgspec.Struct):
    """What is recorded of a message, as far as it concerns these calls."""

    to: str
    events: list[dict[str, object]]


async def history(organisation_id: int, message_id: str) -> View | None:
    match message_id:
        case "away":
            raise Unavailable("ClickHouse does not answer.")
        case "known":
            event = {"at": "2026-11-28T10:00:00.000000Z", "event": "retrying", "attempt": 2,
                     "provider": "acme", "code": "500", "latency_ms": 1250.4}  # fmt: skip
            return View("+989121234567", [event])
    return None


@pytest.fixture
async def engine(directory: Directory, acme: NewOrganisation, link: RedisLink) -> AsyncIterator[Api]:
    letters = RedisDeadLetters(link, _SHARDS, partial(shard_of, shards=_SHARDS), now_us)
    services = await services_with(directory, dead_letters=letters, history=history)
    async with serving(services, acme.api_key) as running:
        yield running


async def dead(link: RedisLink, organisation_id: int, name: str, queue: str = "normal", **of: object) -> None:
    one = message(name, organisation_id=organisation_id, **of)
    shard = shard_of(organisation_id, _SHARDS)
    await link.batch([
        ("XADD", dead_key(shard, queue), "*", "m", msgspec.msgpack.encode(one)),  # type: ignore[arg-type]
        ("INCRBY", held_key(shard), one.units),
        ("HINCRBY", held_by_key(shard), organisation_id, one.units),
    ])  # fmt: skip


async def held(link: RedisLink, organisation_id: int) -> int:
    shard = shard_of(organisation_id, _SHARDS)
    return int(await link.call("HGET", held_by_key(shard), organisation_id) or 0)


async def test_dead_letters_are_listed_in_pages_shown_replayed_and_dropped(
    engine: Api, link: RedisLink
) -> None:
    for organisation in (7, 8):
        for n in range(3):
            await dead(link, organisation, f"{organisation}-{n}")
    await dead(link, 7, "urgent", "express")
    found, cursor = [], ""
    while cursor is not None:
        status, page = await engine.admin("GET", f"/dead-letters?limit=2&cursor={cursor}")
        assert status == 200
        found += page["dead_letters"]
        cursor = page["next"]
    assert len({letter["id"] for letter in found}) == len(found) == 7
    assert found[0]["message_id"] == "urgent"
    assert {**found[0], "id": "", "dead_at": "", "accepted_at": ""} == {
        "id": "", "queue": "express", "readable": True, "dead_at": "", "message_id": "urgent",
        "organisation_id": 7, "to": "+989***", "from": "Acme", "reference": "", "segments": 2, "units": 2,
        "attempts": 0, "accepted_at": "", "expires_at": "2096-10-02T07:06:40.000000Z", "expired": False,
    }  # fmt: skip
    _, of_7 = await engine.admin("GET", "/dead-letters?organisation=7&queue=normal")
    assert [letter["message_id"] for letter in of_7["dead_letters"]] == ["7-0", "7-1", "7-2"]
    first, second, third = of_7["dead_letters"]
    shown = first | {"events": None, "events_missing": "No event of the message is recorded."}
    assert await engine.admin("GET", f"/dead-letters/{first['id']}") == (200, shown)
    assert await engine.admin("POST", f"/dead-letters/{first['id']}/replay") == (200, first)
    assert await engine.admin("POST", f"/dead-letters/{second['id']}/drop", {}) == (200, second)
    for path in ("", "/replay", "/drop"):
        method = "POST" if path else "GET"
        status, reply = await engine.admin(method, f"/dead-letters/{second['id']}{path}")
        assert (status, reply["code"]) == (404, "not_found")
    for letter, state in ((first, "replayed"), (second, "dropped")):
        _, recorded = await engine.admin("GET", f"/changes?path=/v1/admin/dead-letters/{letter['id']}/")
        *_, ended, begun = recorded["changes"]
        assert (ended["outcome"], ended["begun_id"], begun["outcome"]) == ("done", begun["id"], "begun")
        of = {"message_id": letter["message_id"], "organisation_id": 7, "units": 2}
        assert (ended["before"], ended["after"]) == (of | {"state": "dead"}, of | {"state": state})
    _, left = await engine.admin("GET", "/dead-letters?organisation=7&queue=normal")
    assert left == {"dead_letters": [third], "next": None}
    assert await held(link, 7) == 6
    shard = shard_of(7, _SHARDS)
    assert await link.call("ZCARD", due_key(shard, "normal")) == 1
    assert await link.call("XLEN", activity_key(shard)) == 2


async def test_one_is_shown_with_the_history_of_its_message(
    engine: Api, link: RedisLink, capsys: pytest.CaptureFixture[str]
) -> None:
    await dead(link, 7, "known")
    await dead(link, 8, "away")
    _, page = await engine.admin("GET", "/dead-letters")
    known, away = page["dead_letters"]
    status, reply = await engine.admin("GET", f"/dead-letters/{known['id']}")
    assert (status, reply["events"][0]["code"], reply["events_missing"]) == (200, "500", "")
    assert "+989121234567" not in str(reply)
    _, reply = await engine.admin("GET", f"/dead-letters/{away['id']}")
    assert (reply["events"], reply["events_missing"]) == (None, "ClickHouse does not answer.")
    for letter, words in ((known, ("retrying", "acme", "1 s")), (away, ("not known: ClickHouse",))):
        url = f"http://127.0.0.1:{engine.port}"
        arguments = ["dead", "show", letter["id"], "--url", url, "--admin-key", ADMIN_KEY]
        assert await asyncio.to_thread(cli.run, arguments) == 0
        printed = capsys.readouterr().out
        assert all(word in printed for word in words), printed


async def test_two_operators_at_once_end_it_once(engine: Api, link: RedisLink) -> None:
    await dead(link, 7, "one")
    _, page = await engine.admin("GET", "/dead-letters")
    at = f"/dead-letters/{page['dead_letters'][0]['id']}"
    answers = await asyncio.gather(*[engine.admin("POST", f"{at}/{v}") for v in ("drop", "replay") * 8])
    assert sorted(status for status, _ in answers) == [200] + [404] * 15


async def test_what_cannot_be_is_refused_with_the_field(engine: Api, link: RedisLink) -> None:
    await dead(link, 7, "late", expires_at_us=5)
    for query, field in (("queue=slow", "queue"), ("cursor=x", "cursor"), ("limit=0", "limit"),
                         ("organisation=x", "organisation")):  # fmt: skip
        status, reply = await engine.admin("GET", f"/dead-letters?{query}")
        assert (status, reply["code"], reply["field"]) == (422, "invalid_field", field)
    assert (await engine.admin("GET", "/dead-letters/none"))[0] == 404
    _, page = await engine.admin("GET", "/dead-letters")
    letter = page["dead_letters"][0]
    assert letter["expired"]
    status, reply = await engine.admin("POST", f"/dead-letters/{letter['id']}/replay", {"at": 1})
    assert (status, reply["field"]) == (422, "at")
    status, reply = await engine.admin("POST", f"/dead-letters/{letter['id']}/replay")
    assert (status, reply["code"]) == (409, "validity_over")


async def test_all_of_it_is_the_operators_alone(engine: Api, link: RedisLink) -> None:
    await dead(link, 7, "one")
    _, page = await engine.admin("GET", "/dead-letters")
    letter_id = page["dead_letters"][0]["id"]
    for method, path in (("GET", ""), ("GET", f"/{letter_id}"), ("POST", f"/{letter_id}/replay"),
                         ("POST", f"/{letter_id}/drop")):  # fmt: skip
        assert (await engine.ask(method, f"/v1/admin/dead-letters{path}"))[0] == 401
    assert (await engine.admin("GET", "/dead-letters"))[1] == page


async def test_the_commands_list_show_replay_and_drop(
    engine: Api, link: RedisLink, capsys: pytest.CaptureFixture[str]
) -> None:
    async def run(*words: str) -> tuple[int, str]:
        url = f"http://127.0.0.1:{engine.port}"
        code = await asyncio.to_thread(cli.run, ["dead", *words, "--url", url, "--admin-key", ADMIN_KEY])
        printed = capsys.readouterr()
        return code, printed.out + printed.err

    assert await run("list") == (0, "There are no dead letters.\n")
    for n in range(3):
        await dead(link, 7, f"m{n}")
    await dead(link, 8, "late", "express", expires_at_us=5)
    code, shown = await run("list", "--json")
    letters = [json.loads(line) for line in shown.splitlines()]
    assert (code, [letter["message_id"] for letter in letters]) == (0, ["late", "m0", "m1", "m2"])
    late, one, *_ = (letter["id"] for letter in letters)
    assert "Your code" not in shown
    assert "expired" in (await run("list", "express"))[1]
    assert "valid until   1970-01-01 00:00:00, which is over" in (await run("show", late))[1]
    assert await run("replay", one) == (0, "replayed 1 (2 units held)\n")
    code, shown = await run("drop", one)
    assert (code, shown.splitlines()[0]) == (1, "dropped 0 (0 units released)")
    code, shown = await run("replay", "--all", "--json")
    done = json.loads(shown)
    assert (code, len(done["done"]), [left["code"] for left in done["left"]]) == (1, 2, ["validity_over"])
    assert await run("drop", "--all", "--organisation", "8") == (0, "dropped 1 (2 units released)\n")
    assert await run("list") == (0, "There are no dead letters.\n")
    assert (await held(link, 7), await held(link, 8)) == (6, 0)
    for wrong in (["drop"], ["drop", "--all", one], ["replay", one, "--organisation", "7"], ["show", "none"]):
        code, shown = await run(*wrong)
        assert (code, shown.count("\n")) == (2, 1), shown
