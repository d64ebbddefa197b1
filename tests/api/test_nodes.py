"""The operator's calls about nodes, over a real PostgreSQL and a real Redis."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from engine.capacity import plan as plan_of
from engine.nodes.control import NodeControl
from engine.nodes.flow import NodeFlow
from engine.nodes.records import NodeNote, NodeWish, ProcessNote
from engine.nodes.standing import GONE_US, NODES_MAX, forgotten
from engine.organisations import NewOrganisation
from engine.redis_keys import NODE_FLOWS, NODES
from engine.stores.postgres.closures import PostgresClosures
from engine.stores.postgres.directory import Directory
from engine.stores.postgres.nodes import PostgresNodeWishes
from engine.stores.redis.link import RedisLink
from engine.stores.redis.node_notes import RedisNodeNotes, note_commands, notes_of
from supervisor import cli
from tests.api.world import ADMIN_KEY, Api, services_with, serving
from tests.conftest import own_database

_ROLES = ("ledger", "archiver", "express", "normal", "ingest")


_AT_US = time.time_ns() // 1000


def now_us() -> int:
    """A clock that stands still: no node here goes because a test waits for its machine."""
    return _AT_US


def note(name: str, *roles: str, **changes: Any) -> NodeNote:
    """A node with one ready process of each role; of all roles when none is named."""
    count = dict.fromkeys(roles or _ROLES, 1)
    ready = [ProcessNote(role=role, index=1, pid=7, state="ready") for role in count]
    made = NodeNote(
        name=name, at_us=now_us(), version="1.2.3", roles=count, configured=count, processes=ready
    )
    return msgspec.structs.replace(made, **changes)


@pytest.fixture
async def link(redis_url: str) -> AsyncIterator[RedisLink]:
    async with own_database(redis_url, 11) as link:
        yield link


@pytest.fixture
async def nodes(
    directory: Directory, acme: NewOrganisation, link: RedisLink, edge: bool
) -> AsyncIterator[Api]:
    """An API on the node `a`; `b` stands beside it, and neither is drained."""
    wishes = PostgresNodeWishes(directory._pool)
    control = NodeControl("a", RedisNodeNotes(link), wishes, now_us)
    for name in ("a", "b"):
        await put(link, note(name))
    async with directory._pool.connection() as connection:
        await connection.execute("DELETE FROM node_wishes")
    async with serving(await services_with(directory, nodes=control), acme.api_key) as api:
        yield api
    async with directory._pool.connection() as connection:
        await connection.execute("DELETE FROM node_wishes")


async def put(link: RedisLink, noted: NodeNote, *forget: str) -> dict[str, NodeNote]:
    flow = NodeFlow(at_us=noted.at_us)
    return notes_of(await link.batch(note_commands(noted, flow, forget)))


async def test_all_nodes_are_listed_and_who_is_silent_is_gone(nodes: Api, link: RedisLink) -> None:
    await put(link, note("b", at_us=now_us() - GONE_US - 1_000_000))
    await put(link, note("c", state="stopped", at_us=now_us() - GONE_US - 1_000_000))
    await link.call("HSET", NODES, "d", b"not a note")
    status, reply = await nodes.admin("GET", "/nodes")
    assert (status, reply["node"]) == (200, "a")
    assert {n["name"]: n["seen"] for n in reply["nodes"]} == {"a": "running", "b": "gone", "c": "stopped"}
    assert reply["nodes"][0]["processes"][0]["state"] == "ready"
    assert (await nodes.ask("GET", "/v1/admin/nodes"))[0] == 401


async def test_a_drain_stands_until_the_node_is_resumed(nodes: Api) -> None:
    closures = PostgresClosures(nodes.services.directory._pool, "b")  # type: ignore[attr-defined]
    status, reply = await nodes.admin("POST", "/nodes/b/drain", {"reason": "new disk"})
    assert (status, reply["wish"]["reason"]) == (200, "new disk")
    assert await nodes.admin("POST", "/nodes/b/drain") == (200, reply), "since when and why stay"
    assert await closures.closed() == (frozenset(), True)
    listed = (await nodes.admin("GET", "/nodes"))[1]["nodes"]
    assert [n["drain_wished"] for n in listed] == [False, True]
    status, reply = await nodes.admin("POST", "/nodes/b/resume")
    assert (status, reply["wish"]) == (
        200,
        {"drained_at": None, "reason": "", "processes": {}, "concurrency": {}},
    )
    assert await closures.closed() == (frozenset(), False)


@pytest.mark.parametrize("other", ["away", "without a ledger", "not ready", "drains"])
async def test_the_last_node_that_does_something_is_not_drained(
    nodes: Api, link: RedisLink, other: str
) -> None:
    match other:
        case "away":
            await put(link, note("b", at_us=now_us() - GONE_US - 1_000_000))
        case "without a ledger":
            await put(link, note("b", *_ROLES[1:]))
        case "not ready":
            await put(
                link, note("b", processes=[ProcessNote(role=r, index=1, state="starting") for r in _ROLES])
            )
        case "drains":
            assert (await nodes.admin("POST", "/nodes/b/drain"))[0] == 200
    status, reply = await nodes.admin("POST", "/nodes/a/drain")
    assert (status, reply["code"]) == (409, "last_node")
    assert "no other node has a ledger" in reply["detail"]
    assert (await nodes.admin("POST", "/nodes/a/drain", {"force": True}))[0] == 200


async def test_of_two_drains_at_once_of_the_last_two_nodes_one_is_refused(nodes: Api) -> None:
    both = await asyncio.gather(*(nodes.admin("POST", f"/nodes/{name}/drain") for name in ("a", "b")))
    assert sorted(status for status, _ in both) == [200, 409]


async def test_the_number_of_workers_is_set_for_one_node_and_never_to_none_at_all(
    nodes: Api, link: RedisLink
) -> None:
    async def scale(**body: object) -> tuple[int, Any]:
        return await nodes.admin("POST", "/queues/express/scale", body)

    scaled = {"queue": "express", "node": "a", "processes": 4, "concurrency": None}
    assert await scale(processes=4) == (200, scaled)
    assert await scale(processes=4, concurrency=800) == (200, scaled | {"concurrency": 800})
    assert await scale(processes=4) == (200, scaled | {"concurrency": 800}), "what is left out stays"
    assert await scale(processes=4, concurrency=None) == (200, scaled)
    assert (await scale(processes=0, node="b"))[0] == 200, "a has some"
    await put(link, note("b", *(role for role in _ROLES if role != "express")))
    status, reply = await scale(processes=0)
    assert (status, reply["code"]) == (409, "last_node")
    assert (await scale(processes=0, force=True))[0] == 200
    assert (await scale(processes=None))[1]["processes"] is None
    wishes = await PostgresNodeWishes(nodes.services.directory._pool).all()  # type: ignore[attr-defined]
    assert {name: wish.processes for name, wish in wishes.items()} == {"a": {}, "b": {"express": 0}}
    for body, field in (
        ({"processes": 257}, "processes"), ({"processes": -1}, "processes"),
        ({"processes": "2"}, "processes"), ({}, "processes"),
        ({"processes": 1, "concurrency": 0}, "concurrency"),
        ({"processes": 1, "concurrency": 10_001}, "concurrency"),
        ({"processes": 1, "node": 5}, "node"), ({"processes": 1, "force": 1}, "force"),
    ):  # fmt: skip
        status, reply = await scale(**body)
        assert (status, reply["field"]) == (422, field), body
    assert (await nodes.admin("POST", "/queues/slow/scale", {"processes": 1}))[0] == 404


async def test_a_node_without_providers_gets_no_workers(nodes: Api, link: RedisLink) -> None:
    async def scale(processes: int | None) -> tuple[int, Any]:
        return await nodes.admin("POST", "/queues/express/scale", {"processes": processes, "node": "b"})

    await put(link, note("b", "ingest", providers=0))
    status, reply = await scale(2)
    assert (status, reply["code"]) == (409, "no_providers")
    assert "has no [[providers]] in its configuration" in reply["detail"]
    assert (await scale(None))[0] == (await scale(0))[0] == 200
    await put(link, note("b", "ingest", providers=1))
    assert (await scale(2))[0] == 200
    # One of a version that does not say.
    await put(link, note("b", "ingest", providers=None))
    assert (await scale(3))[0] == 200


async def test_an_unknown_node_is_named_beside_those_that_are_known(nodes: Api) -> None:
    for path in ("/nodes/x/drain", "/nodes/x/resume"):
        status, reply = await nodes.admin("POST", path)
        assert (status, reply["detail"]) == (404, "There is no node of this name; known are: a, b.")
    assert (await nodes.admin("POST", "/queues/normal/scale", {"processes": 1, "node": "x"}))[0] == 404


async def test_a_repeated_drain_does_not_undo_a_later_resume(nodes: Api) -> None:
    key = {"Idempotency_Key": "drain b"}
    assert (await nodes.admin("POST", "/nodes/b/drain", **key))[1]["wish"]["drained_at"]
    await nodes.admin("POST", "/nodes/b/resume")
    assert (await nodes.admin("POST", "/nodes/b/drain", **key))[0] == 200
    (b,) = [node for node in (await nodes.admin("GET", "/nodes"))[1]["nodes"] if node["name"] == "b"]
    assert b["drain_wished"] is False


async def test_old_notes_are_forgotten_and_there_are_never_too_many(link: RedisLink) -> None:
    many = {f"n{i}": NodeNote(name=f"n{i}", at_us=i) for i in range(NODES_MAX + 2)}
    assert sorted(forgotten(many, now_us=NODES_MAX)) == ["n0", "n1"]
    assert forgotten({"old": NodeNote(name="old", at_us=0)}, now_us=86_400_000_001) == ["old"]
    await put(link, note("a"))
    assert (await put(link, note("b"), "a")).keys() == {"b"}
    assert await link.call("HKEYS", NODE_FLOWS) == [b"b"]
    # A note is bounded, and the keys end by themselves.
    await put(link, note("c", reason="x" * 100_000))
    assert (await put(link, note("b"))).keys() == {"b"}
    assert 0 < await link.call("TTL", NODES) <= 86_400


async def test_the_commands_say_what_they_did_and_what_is_refused(
    nodes: Api, link: RedisLink, capsys: pytest.CaptureFixture[str]
) -> None:
    async def run(*words: str) -> tuple[int, str]:
        url = f"http://127.0.0.1:{nodes.port}"
        code = await asyncio.to_thread(cli.run, [*words, "--url", url, "--admin-key", ADMIN_KEY])
        printed = capsys.readouterr()
        return code, printed.out + printed.err

    assert await run("node", "drain", "b") == (0, "The node b takes nothing new.\n")
    code, said = await run("node", "drain", "a")
    assert code == 2
    assert "The node a cannot be drained: no other node has" in said
    await put(link, note("b", state="drained", processes=[]))
    assert await run("node", "drain", "b", "--wait") == (0, "The node b is drained.\n")
    assert await run("node", "resume", "b") == (0, "The node b works again.\n")
    code, said = await run("node", "drain")
    assert code == 2
    assert "The name of a node is needed" in said
    code, said = await run("node", "list")
    assert (code, "1.2.3" in said) == (0, True)
    assert await run("queue", "scale", "express", "3", "--node", "b") == (
        0, "The node b has 3 workers of express.\n",
    )  # fmt: skip
    assert await run("queue", "scale", "express", "3", "--concurrency", "800", "--node", "b") == (
        0, "The node b has 3 workers of express, each with 800 sends in flight.\n",
    )  # fmt: skip
    code, said = await run("queue", "scale", "express", "as-configured", "--node", "b")
    assert (code, said) == (0, "The node b has workers of express, as many as configured.\n")
    code, said = await run("queue", "scale", "express", "many", "--node", "b")
    assert code == 2
    assert "N must be a whole number" in said
    code, said = await run("queue", "scale", "express", "1", "--concurrency", "0", "--node", "b")
    assert (code, "--concurrency must be a whole number from 1 to 10000" in said) == (2, True)


async def test_a_plan_is_applied_to_the_nodes_that_run_and_is_refused_when_it_misses(
    nodes: Api,
    link: RedisLink,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Shorter simulations: the figures do not matter here.
    monkeypatch.setattr(plan_of, "_FINAL", (100_000, 400_000))
    monkeypatch.setattr(plan_of, "_COMPARED", (50_000, 200_000))
    url = f"http://127.0.0.1:{nodes.port}"
    file = tmp_path / "peaks.csv"
    head = "organisation,queue,messages_per_second,burst\n"
    # Of normal nothing is promised, so it keeps what it has.
    file.write_text(f"{head}bank,express,100,1\nbank,normal,10,1\n")

    async def plan(*words: str) -> tuple[int, str, str]:
        given = ["plan", "--peaks", str(file), "--response-times", "constant(50ms)", *words]
        code = await asyncio.to_thread(cli.run, [*given, "--url", url, "--admin-key", ADMIN_KEY])
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    async def wished() -> dict[str, NodeWish]:
        return await PostgresNodeWishes(nodes.services.directory._pool).all()  # type: ignore[attr-defined]

    met, missed = ("--target", "express p99 <= 2s"), ("--target", "express p99 <= 20ms")
    code, _, err = await plan(*missed, "--apply", "--yes")
    assert (code, "The plan is not applied, because none meets the targets:" in err) == (1, True)
    code, out, err = await plan(*met, "--apply")
    assert (code, "needs --yes" in err, "1 × 300" in out) == (1, True, False)
    assert await wished() == {}

    await put(link, note("b", concurrency={"express": 300}))
    await put(link, note("c", state="drained"))
    code, out, _ = await plan(*met, "--apply", "--yes")
    assert (code, "1 × 300" in out, "[queues.express]" in out) == (0, True, True)
    assert "until this is run:\n\nsmsengine queue scale express as-configured\n" in out
    shape = (await wished())["a"]
    assert shape.processes == {"express": 1}
    assert 5 <= shape.concurrency["express"] <= 20
    assert await wished() == {"a": shape, "b": shape}, "the drained one gets nothing"
    code, out, _ = await plan(*met, "--apply", "--yes", "--json")
    assert [change["node"] for change in msgspec.json.decode(out)["applied"]] == ["a", "b"]

    file.write_text(f"{head}bank,normal,10,1\n")
    code, _, err = await plan(*met, "--apply", "--yes")
    assert (code, "nothing arrives in a queue that has a target" in err) == (1, True)
