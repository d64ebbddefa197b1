"""The operator's calls and the organisation's balance, over the real directory."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from engine.errors import Unavailable
from engine.organisations import NewOrganisation
from engine.stores.postgres.directory import Directory
from tests.api.world import DRAFT, Api, services_with, serving


async def test_an_organisation_is_made_with_a_key_that_works(api: Api) -> None:
    status, made = await api.admin("POST", "/organisations", {"name": "Globex"})
    assert status == 201
    assert set(made) == {"id", "name", "api_key"}
    assert made["name"] == "Globex"
    assert (await api.ask("POST", "/v1/messages", DRAFT, key=made["api_key"]))[0] == 202
    assert (await api.ask("GET", "/v1/balance", key=made["api_key"]))[2] == {
        "posted": 0,
        "held": 0,
        "available": 0,
    }


async def test_organisations_are_listed_page_by_page(api: Api) -> None:
    made = [(await api.admin("POST", "/organisations", {"name": f"Page {i}"}))[1]["id"] for i in range(5)]
    after, seen = made[0] - 1, []
    while after is not None:
        status, page = await api.admin("GET", f"/organisations?after={after}&limit=2")
        assert status == 200
        assert len(page["organisations"]) <= 2
        seen += [o["id"] for o in page["organisations"]]
        after = page["next"]
    assert seen == made
    _, page = await api.admin("GET", f"/organisations?after={made[3]}")
    [last] = page["organisations"]
    assert (last["id"], last["name"], page["next"]) == (made[4], "Page 4", None)
    assert last["created_at"].endswith("Z")


@pytest.mark.parametrize("query", ["limit=0", "limit=1001", "limit=x", "after=-1", "after=" + "9" * 40])
async def test_a_page_has_its_bounds(api: Api, query: str) -> None:
    status, reply = await api.admin("GET", f"/organisations?{query}")
    assert (status, reply["code"], reply["field"]) == (422, "invalid_field", query.split("=")[0])


async def test_a_key_can_be_added_listed_and_revoked(api: Api) -> None:
    _, made = await api.admin("POST", "/organisations", {"name": "Initech"})
    path = f"/organisations/{made['id']}/keys"
    status, key = await api.admin("POST", path)
    assert status == 201
    assert set(key) == {"id", "api_key"}
    assert (await api.admin("POST", path, {}))[0] == 201
    for api_key in (made["api_key"], key["api_key"]):
        assert (await api.ask("GET", "/v1/balance", key=api_key))[0] == 200
    _, listed = await api.admin("GET", path)
    fields = {"id", "name", "scopes", "networks", "created_at", "expires_at", "revoked_at", "last_used_at"}
    assert [set(k) for k in listed["keys"]] == [fields] * 3
    assert all(k["revoked_at"] is None for k in listed["keys"])
    for _ in range(2):
        assert await api.admin("DELETE", f"{path}/{key['id']}") == (204, None)
    _, listed = await api.admin("GET", path)
    assert [k["id"] for k in listed["keys"] if k["revoked_at"]] == [key["id"]]


async def test_a_top_up_counts_once(api: Api) -> None:
    _, made = await api.admin("POST", "/organisations", {"name": "Umbrella"})
    path = f"/organisations/{made['id']}/top-ups"
    status, first = await api.admin("POST", path, {"units": 500, "reference": "invoice 1"})
    assert status == 201
    assert first == {
        "organisation_id": made["id"],
        "reference": "invoice 1",
        "units": 500,
        "at": first["at"],
        "balance": {"posted": 500, "held": 0, "available": 500},
    }
    assert await api.admin("POST", path, {"units": 500, "reference": "invoice 1"}) == (200, first)
    status, reply = await api.admin("POST", path, {"units": 501, "reference": "invoice 1"})
    assert (status, reply["code"], reply["field"]) == (409, "reference_reused", "reference")
    assert "500" in reply["detail"]
    status, second = await api.admin("POST", path, {"units": 1, "reference": "invoice 2"})
    assert (status, second["balance"]["posted"]) == (201, 501)
    balance = {"posted": 501, "held": 0, "available": 501}
    assert await api.admin("GET", f"/organisations/{made['id']}/balance") == (200, balance)
    assert (await api.ask("GET", "/v1/balance", key=made["api_key"]))[2] == balance


async def test_concurrent_identical_top_ups_add_once(api: Api) -> None:
    _, made = await api.admin("POST", "/organisations", {"name": "Race"})
    path = f"/organisations/{made['id']}/top-ups"
    asked = [api.admin("POST", path, {"units": 7, "reference": "same"}) for _ in range(20)]
    reply = await asyncio.gather(*asked)
    assert sorted(status for status, _ in reply) == [200] * 19 + [201]
    assert {answer["at"] for _, answer in reply} == {reply[0][1]["at"]}
    assert (await api.admin("GET", f"/organisations/{made['id']}/balance"))[1]["posted"] == 7


@pytest.mark.parametrize(
    ("path", "body", "status", "code", "field"),
    [
        ("/organisations", b"", 400, "invalid_json", None),
        ("/organisations", {}, 422, "invalid_field", "name"),
        ("/organisations", {"name": ""}, 422, "invalid_field", "name"),
        ("/organisations", {"name": " \t "}, 422, "invalid_field", "name"),
        ("/organisations", {"name": "x" * 201}, 422, "invalid_field", "name"),
        ("/organisations", {"name": "nul\0"}, 422, "invalid_field", "name"),
        ("/organisations", {"name": "x", "credit": 5}, 422, "invalid_field", "credit"),
        ("/organisations/1/keys", {"x": 1}, 422, "invalid_field", "x"),
        ("/organisations/1/keys", [], 422, "invalid_field", None),
        ("/organisations/999999/keys", None, 404, "not_found", None),
        ("/organisations/x/keys", None, 404, "not_found", None),
        ("/organisations/999999/top-ups", {"units": 1, "reference": "r"}, 404, "not_found", None),
        ("/organisations/" + "9" * 30 + "/top-ups", {"units": 1, "reference": "r"}, 404, "not_found", None),
        ("/organisations/1/top-ups", {"units": 0, "reference": "r"}, 422, "invalid_field", "units"),
        ("/organisations/1/top-ups", {"units": -5, "reference": "r"}, 422, "invalid_field", "units"),
        ("/organisations/1/top-ups", {"units": 10**15 + 1, "reference": "r"}, 422, "invalid_field", "units"),
        ("/organisations/1/top-ups", {"units": 10**40, "reference": "r"}, 422, "invalid_field", "units"),
        ("/organisations/1/top-ups", {"units": 1.5, "reference": "r"}, 422, "invalid_field", "units"),
        ("/organisations/1/top-ups", {"units": True, "reference": "r"}, 422, "invalid_field", "units"),
        ("/organisations/1/top-ups", {"units": 1, "reference": ""}, 422, "invalid_field", "reference"),
        ("/organisations/1/top-ups", {"units": 1}, 422, "invalid_field", "reference"),
    ],
)
async def test_a_bad_request_is_refused_with_the_field(
    api: Api, path: str, body: Any, status: int, code: str, field: str | None
) -> None:
    reply_status, reply = await api.admin("POST", path, body)
    assert (reply_status, reply["code"], reply.get("field")) == (status, code, field)


@pytest.mark.parametrize("path", ["/keys", "/balance"])
async def test_an_unknown_organisation_is_not_found(api: Api, path: str) -> None:
    for organisation in ("999999", "0", "-1", "x"):
        status, reply = await api.admin("GET", f"/organisations/{organisation}{path}")
        assert (status, reply["code"]) == (404, "not_found")


async def test_a_key_is_revoked_by_its_own_organisation_only(api: Api, acme: NewOrganisation) -> None:
    _, other = await api.admin("POST", "/organisations", {"name": "Other"})
    key_id = acme.api_key.split("_")[1]
    status, _ = await api.admin("DELETE", f"/organisations/{other['id']}/keys/{key_id}")
    assert status == 404
    assert (await api.ask("GET", "/v1/balance"))[0] == 200


async def test_a_creation_is_done_once_per_idempotency_key(api: Api) -> None:
    body = {"name": "Once"}
    status, made = await api.admin("POST", "/organisations", body, Idempotency_Key="create once")
    assert status == 201
    status, reply = await api.admin("POST", "/organisations", body, Idempotency_Key="create once")
    assert (status, reply["code"]) == (409, "idempotency_key_used")
    assert f"organisation {made['id']}" in reply["detail"]
    assert made["api_key"] not in str(reply)
    status, reply = await api.admin("POST", "/organisations", {"name": "Two"}, Idempotency_Key="create once")
    assert (status, reply["code"]) == (409, "idempotency_key_reused")
    path = f"/organisations/{made['id']}/keys"
    status, _ = await api.admin("POST", path, Idempotency_Key="another key")
    assert status == 201
    status, reply = await api.admin("POST", path, Idempotency_Key="another key")
    assert (status, reply["code"]) == (409, "idempotency_key_used")
    assert len((await api.admin("GET", path))[1]["keys"]) == 2


async def test_concurrent_identical_creations_make_one(api: Api) -> None:
    asked = [api.admin("POST", "/organisations", {"name": "Twin"}, Idempotency_Key="twin") for _ in range(10)]
    reply = await asyncio.gather(*asked)
    assert sorted(status for status, _ in reply) == [201] + [409] * 9
    assert {answer["code"] for status, answer in reply if status == 409} == {"idempotency_key_used"}


async def test_a_refused_request_does_not_use_up_its_idempotency_key(api: Api) -> None:
    status, _ = await api.admin("POST", "/organisations/999999/keys", Idempotency_Key="unused")
    assert status == 404
    status, _ = await api.admin("POST", "/organisations", {"name": "Used"}, Idempotency_Key="unused")
    assert status == 201


async def test_a_top_up_honours_an_idempotency_key_too(api: Api) -> None:
    _, made = await api.admin("POST", "/organisations", {"name": "Both"})
    path = f"/organisations/{made['id']}/top-ups"
    body = {"units": 5, "reference": "a"}
    assert (await api.admin("POST", path, body, Idempotency_Key="top-up"))[0] == 201
    assert (await api.admin("POST", path, body, Idempotency_Key="top-up"))[0] == 201
    status, reply = await api.admin("POST", path, {"units": 5, "reference": "b"}, Idempotency_Key="top-up")
    assert (status, reply["code"]) == (409, "idempotency_key_reused")


async def test_the_reports_are_passed_on(api: Api, directory: Directory) -> None:
    assert await api.admin("GET", "/status") == (200, {"node": "test", "queues": {}})
    assert await api.admin("GET", "/audit") == (200, {"verdict": "clean", "full": False, "timeout_s": 120.0})
    asked = await api.admin("GET", "/audit?timeout=600&full=true")
    assert asked == (200, {"verdict": "clean", "full": True, "timeout_s": 600.0})
    for query, field in (("timeout=0", "timeout"), ("timeout=601", "timeout"), ("full=1", "full")):
        status, reply = await api.admin("GET", f"/audit?{query}")
        assert (status, reply["field"]) == (422, field)

    async def away(**_: object) -> object:
        raise Unavailable("Redis cannot be reached.")

    async with serving(await services_with(directory, status=away, audit=away)) as other:
        for path in ("/status", "/audit"):
            status, reply = await other.admin("GET", path)
            assert (status, reply["code"]) == (503, "unavailable")


async def test_an_audit_is_not_cut_off_by_the_deadline_of_other_requests(directory: Directory) -> None:
    cut_off, found = asyncio.Event(), asyncio.Event()

    async def status() -> object:
        try:
            await found.wait()
        finally:
            cut_off.set()
        return {}

    async def audit(**_: object) -> object:
        await cut_off.wait()
        return {"verdict": "clean"}

    services = await services_with(directory, status=status, audit=audit, timeout_s=0.2)
    async with serving(services) as api:
        auditing = asyncio.create_task(api.admin("GET", "/audit"))
        assert (await api.admin("GET", "/status"))[1]["code"] == "timeout"
        assert await auditing == (200, {"verdict": "clean"})


async def test_without_an_admin_key_the_admin_calls_are_closed(directory: Directory) -> None:
    async with serving(await services_with(directory, admin_key_sha256=b"")) as api:
        assert (await api.admin("GET", "/status"))[0] == 401
        assert (await api.ask("GET", "/v1/admin/status", key=""))[0] == 401


async def test_who_waits_in_a_queue_is_told_to_the_operator(api: Api) -> None:
    status, found = await api.admin("GET", "/queues/normal")
    assert (status, found["queue"]) == (200, "normal")
    status, problem = await api.admin("GET", "/queues/other")
    assert (status, problem["detail"]) == (
        404, "There is no queue of this name: the queues are express and normal."
    )  # fmt: skip
    assert (await api.ask("GET", "/v1/admin/queues/normal", key="x"))[0] == 401
