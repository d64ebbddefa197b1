"""The operator's calls on routes and providers, over a real PostgreSQL."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from engine.stores.postgres.routing import Routing
from tests.api.world import Api

PLAIN = {"prefix": "", "sender": "", "queue": "", "providers": ["first"], "weights": [], "reroute": False}


@pytest.fixture(autouse=True)
async def as_configured(api: Api) -> AsyncIterator[None]:
    yield
    routing = api.behind_admin.routing
    await routing.replace([])
    for p in api.behind_admin.providers:
        await routing.set_paused(p.name, False)
        await routing.set_throughput(p.name, None)


async def put(api: Api, routes: object, **more: object) -> tuple[int, Any]:
    return await api.admin("PUT", "/routes", {"routes": routes, **more})


async def test_routes_are_shown_and_replaced_as_a_whole(api: Api) -> None:
    _, before = await api.admin("GET", "/routes")
    assert before["routes"] == []
    reply_route = {"prefix": "+98", "queue": "express", "providers": ["second", "first"], "weights": [3, 1]}
    status, reply = await put(api, [reply_route, {"providers": ["first"]}])
    assert (status, reply["version"]) == (200, before["version"] + 1)
    assert reply["routes"] == [PLAIN, {**PLAIN, **reply_route}]
    assert await api.admin("GET", "/routes") == (200, reply)
    assert await put(api, [PLAIN, reply_route]) == (200, reply), "the order means nothing"
    status, none = await put(api, [])
    assert (status, none) == (200, {"version": reply["version"] + 1, "routes": []})


async def test_a_change_can_be_bound_to_the_version_it_is_based_on(api: Api) -> None:
    _, now = await put(api, [PLAIN])
    status, changed = await put(api, [{"providers": ["second"]}], version=now["version"])
    assert (status, changed["version"]) == (200, now["version"] + 1)
    status, reply = await put(api, [], version=now["version"])
    assert (status, reply["code"], reply["field"]) == (409, "version_conflict", "version")
    assert await put(api, [{"providers": ["second"]}], version=now["version"]) == (200, changed)


@pytest.mark.parametrize(
    ("body", "status", "code", "field"),
    [
        (b"", 400, "invalid_json", None),
        (b'{"routes": [{"prefix": "+9}]}', 400, "invalid_json", None),
        ([], 422, "invalid_field", None),
        ({}, 422, "invalid_field", "routes"),
        ({"routes": {}}, 422, "invalid_field", "routes"),
        ({"routes": [], "version": "1"}, 422, "invalid_field", "version"),
        ({"routes": [], "base": 1}, 422, "invalid_field", "base"),
        ({"routes": [PLAIN, 5]}, 422, "invalid_field", "routes.1"),
        ({"routes": [{"providers": "first"}]}, 422, "invalid_field", "routes.0.providers"),
        ({"routes": [{"providers": [1]}]}, 422, "invalid_field", "routes.0.providers"),
        ({"routes": [{"providers": []}]}, 422, "invalid_field", "routes.0.providers"),
        ({"routes": [{}]}, 422, "invalid_field", "routes.0.providers"),
        ({"routes": [{"providers": ["third"]}]}, 422, "invalid_field", "routes.0.providers"),
        ({"routes": [{**PLAIN, "queue": "slow"}]}, 422, "invalid_field", "routes.0.queue"),
        ({"routes": [{**PLAIN, "prefix": "98"}]}, 422, "invalid_field", "routes.0.prefix"),
        ({"routes": [{**PLAIN, "sender": "x" * 17}]}, 422, "invalid_field", "routes.0.sender"),
        ({"routes": [{**PLAIN, "sender": "a\0"}]}, 422, "invalid_field", "routes.0.sender"),
        ({"routes": [{**PLAIN, "weights": [1, 2]}]}, 422, "invalid_field", "routes.0.weights"),
        ({"routes": [{**PLAIN, "weights": [0.5]}]}, 422, "invalid_field", "routes.0.weights"),
        ({"routes": [{**PLAIN, "weights": [10**30]}]}, 422, "invalid_field", "routes.0.weights"),
        ({"routes": [{**PLAIN, "reroute": 1}]}, 422, "invalid_field", "routes.0.reroute"),
        ({"routes": [{**PLAIN, "via": "first"}]}, 422, "invalid_field", "routes.0.via"),
        ({"routes": [PLAIN, PLAIN]}, 422, "invalid_field", "routes.1"),
    ],
)
async def test_what_is_no_routing_table_is_refused_with_the_field(
    api: Api, body: Any, status: int, code: str, field: str | None
) -> None:
    before = await api.admin("GET", "/routes")
    reply_status, reply = await api.admin("PUT", "/routes", body)
    assert (reply_status, reply["code"], reply.get("field")) == (status, code, field), reply
    assert "Traceback" not in reply["detail"]
    assert await api.admin("GET", "/routes") == before


async def test_providers_are_listed_as_configured_and_as_they_are(api: Api) -> None:
    status, reply = await api.admin("GET", "/providers")
    assert status == 200
    assert reply["providers"] == [
        {"name": "first", "type": "simulated", "paused": False, "pause": None,
         "throughput": {"configured": 100.0, "in_force": 100.0}},
        {"name": "second", "type": "simulated", "paused": False, "pause": None,
         "throughput": {"configured": None, "in_force": None}},
    ]  # fmt: skip
    assert await api.admin("GET", "/providers/second") == (200, reply["providers"][1])


async def test_a_provider_is_paused_and_resumed_and_again_changes_nothing(api: Api) -> None:
    _, before = await api.admin("GET", "/providers")
    for path, paused in (("pause", True), ("pause", True), ("resume", False), ("resume", False)):
        status, reply = await api.admin("POST", f"/providers/first/{path}", {} if paused else None)
        assert (status, reply["name"], reply["paused"]) == (200, "first", paused)
        assert await api.admin("GET", "/providers/first") == (200, reply)
    _, after = await api.admin("GET", "/providers")
    assert after == {**before, "version": before["version"] + 2}


async def test_a_provider_is_paused_for_a_reason_which_stays_until_it_is_resumed(api: Api) -> None:
    status, paused = await api.admin("POST", "/providers/first/pause", {"reason": "no receipts"})
    assert (status, paused["paused"], paused["pause"]["reason"]) == (200, True, "no receipts")
    assert await api.admin("POST", "/providers/first/pause") == (200, paused), "since when and why stay"
    assert await api.admin("PUT", "/providers/first", {"throughput": None}) == (200, paused)
    assert (await api.admin("GET", "/providers"))[1]["providers"][0] == paused
    _, other = await api.admin("POST", "/providers/first/pause", {"reason": "wrong bills"})
    assert other["pause"] == {**paused["pause"], "reason": "wrong bills"}
    for body, field in (({"reason": 5}, "reason"), ({"reason": "x" * 201}, "reason"), ({"why": ""}, "why")):
        status, reply = await api.admin("POST", "/providers/first/pause", body)
        assert (status, reply["field"]) == (422, field)
    assert (await api.admin("POST", "/providers/first/resume", {"reason": "over"}))[0] == 422
    assert (await api.admin("GET", "/providers/first"))[1] == other
    assert (await api.admin("POST", "/providers/first/resume"))[1]["pause"] is None


async def test_a_repeated_pause_does_not_undo_a_later_resume(api: Api) -> None:
    key = {"Idempotency_Key": "pause first"}
    first = await api.admin("POST", "/providers/first/pause", **key)
    await api.admin("POST", "/providers/first/resume")
    assert await api.admin("POST", "/providers/first/pause", **key) == first, "the answer to the first"
    assert (await api.admin("GET", "/providers/first"))[1]["paused"] is False
    status, reply = await api.admin("POST", "/providers/second/pause", **key)
    assert (status, reply["code"]) == (409, "idempotency_key_reused")


async def test_a_throughput_is_set_and_given_back_to_the_configuration(api: Api) -> None:
    for name, configured in (("first", 100.0), ("second", None)):
        for wanted, in_force in ((12.5, 12.5), (12.5, 12.5), (7, 7.0), (None, configured)):
            status, reply = await api.admin("PUT", f"/providers/{name}", {"throughput": wanted})
            assert status == 200
            assert reply["throughput"] == {"configured": configured, "in_force": in_force}


@pytest.mark.parametrize(
    ("body", "status", "field"),
    [
        (b"x", 400, None),
        ({}, 422, "throughput"),
        ({"throughput": 0}, 422, "throughput"),
        ({"throughput": -5}, 422, "throughput"),
        ({"throughput": 1_000_001}, 422, "throughput"),
        ({"throughput": "5"}, 422, "throughput"),
        ({"throughput": True}, 422, "throughput"),
        ({"throughput": 5, "paused": True}, 422, "paused"),
    ],
)
async def test_a_throughput_that_cannot_be_is_refused(
    api: Api, body: Any, status: int, field: str | None
) -> None:
    reply_status, reply = await api.admin("PUT", "/providers/first", body)
    assert (reply_status, reply.get("field")) == (status, field)
    assert (await api.admin("GET", "/providers/first"))[1]["throughput"]["in_force"] == 100.0


async def test_a_provider_that_is_not_configured_is_not_found(api: Api) -> None:
    for method, path, body in (
        ("GET", "/providers/third", None),
        ("PUT", "/providers/third", {"throughput": 5}),
        ("POST", "/providers/third/pause", None),
        ("POST", "/providers/third/resume", None),
        ("POST", "/providers/%2e%2e/pause", None),
    ):
        status, reply = await api.admin(method, path, body)
        assert (status, reply["code"]) == (404, "not_found")
    assert (await api.admin("POST", "/providers/first"))[0] == 405
    assert (await api.admin("GET", "/providers/first/pause"))[0] == 405


async def test_all_of_it_is_the_operators_alone(api: Api) -> None:
    assert isinstance(api.behind_admin.routing, Routing)
    version = await api.behind_admin.routing.version()
    for method, path, body in (
        ("GET", "/v1/admin/routes", None),
        ("PUT", "/v1/admin/routes", {"routes": [PLAIN]}),
        ("GET", "/v1/admin/providers", None),
        ("GET", "/v1/admin/providers/first", None),
        ("PUT", "/v1/admin/providers/first", {"throughput": 1}),
        ("POST", "/v1/admin/providers/first/pause", None),
        ("POST", "/v1/admin/providers/first/resume", None),
    ):
        for key in ("", api.api_key):
            assert (await api.ask(method, path, body, key=key))[0] == 401
    assert await api.behind_admin.routing.version() == version


async def test_of_changes_at_once_each_is_answered_by_what_stood_then(api: Api) -> None:
    reply = await asyncio.gather(
        *(api.admin("PUT", "/providers/first", {"throughput": n}) for n in range(1, 20))
    )
    assert sorted(answer["throughput"]["in_force"] for _, answer in reply) == list(range(1, 20))
