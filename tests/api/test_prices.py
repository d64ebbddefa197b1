"""The operator's calls on prices and thresholds, over the real directory."""

from __future__ import annotations

from typing import Any

import pytest

from engine.organisations import NewOrganisation
from engine.stores.postgres.prices import Prices
from tests.api.world import Api


async def put(api: Api, prices: object, **more: object) -> tuple[int, Any]:
    return await api.admin("PUT", "/prices", {"prices": prices, **more})


async def test_the_table_is_shown_and_replaced_as_a_whole(api: Api) -> None:
    _, before = await api.admin("GET", "/prices")
    status, reply = await put(api, {"+98": 2, "": 1, "+4477": 5})
    assert status == 200
    assert reply["prices"] == {"": 1, "+4477": 5, "+98": 2}
    assert reply["version"] == before["version"] + 1
    assert await api.admin("GET", "/prices") == (200, reply)
    assert await put(api, {"": 1, "+98": 2, "+4477": 5}) == (200, reply)
    status, other = await put(api, {"": 7})
    assert (status, other["prices"], other["version"]) == (200, {"": 7}, reply["version"] + 1)


async def test_a_change_can_be_bound_to_the_version_it_is_based_on(api: Api) -> None:
    _, now = await put(api, {"": 21})
    status, changed = await put(api, {"": 22}, version=now["version"])
    assert (status, changed["version"]) == (200, now["version"] + 1)
    status, reply = await put(api, {"": 23}, version=now["version"])
    assert (status, reply["code"], reply["field"]) == (409, "version_conflict", "version")
    assert await put(api, {"": 22}, version=now["version"]) == (200, changed)


@pytest.mark.parametrize(
    ("body", "status", "code", "field"),
    [
        (b"", 400, "invalid_json", None),
        ([], 422, "invalid_field", None),
        ({}, 422, "invalid_field", "prices"),
        ({"prices": []}, 422, "invalid_field", "prices"),
        ({"prices": {}}, 422, "invalid_field", "prices"),
        ({"prices": {"+98": 1}}, 422, "invalid_field", "prices"),
        ({"prices": {"": 1.5}}, 422, "invalid_field", "prices"),
        ({"prices": {"": "1"}}, 422, "invalid_field", "prices"),
        ({"prices": {"": True}}, 422, "invalid_field", "prices"),
        ({"prices": {"": 0}}, 422, "invalid_field", 'prices[""]'),
        ({"prices": {"": 1, "+98": 1_000_001}}, 422, "invalid_field", 'prices["+98"]'),
        ({"prices": {"": 1, "+98": 10**40}}, 422, "invalid_field", 'prices["+98"]'),
        ({"prices": {"": 1, "0098": 2}}, 422, "invalid_field", 'prices["0098"]'),
        ({"prices": {"": 1, "+1234567890123456": 2}}, 422, "invalid_field", 'prices["+1234567890123456"]'),
        ({"prices": {"": 1}, "version": "1"}, 422, "invalid_field", "version"),
        ({"prices": {"": 1}, "base": 1}, 422, "invalid_field", "base"),
    ],
)
async def test_what_is_no_price_table_is_refused_with_the_field(
    api: Api, body: Any, status: int, code: str, field: str | None
) -> None:
    before = await api.admin("GET", "/prices")
    reply_status, reply = await api.admin("PUT", "/prices", body)
    assert (reply_status, reply["code"], reply.get("field")) == (status, code, field)
    assert await api.admin("GET", "/prices") == before


async def test_prices_and_thresholds_are_the_operators_alone(api: Api, acme: NewOrganisation) -> None:
    assert isinstance(api.behind_admin.prices, Prices)
    version = await api.behind_admin.prices.version()
    for method, path, body in (
        ("GET", "/v1/admin/prices", None),
        ("PUT", "/v1/admin/prices", {"prices": {"": 99}}),
        ("PATCH", f"/v1/admin/organisations/{acme.id}", {"low_balance": 5}),
        ("GET", f"/v1/admin/organisations/{acme.id}/transactions", None),
    ):
        status, _, reply = await api.ask(method, path, body)
        assert (status, reply["code"]) == (401, "unauthorised")
    assert await api.behind_admin.prices.version() == version


async def test_a_threshold_is_set_shown_and_taken_away(api: Api) -> None:
    _, made = await api.admin("POST", "/organisations", {"name": "Warned"})
    path = f"/organisations/{made['id']}"
    for units in (500, 500, None, 1):
        status, reply = await api.admin("PATCH", path, {"low_balance": units})
        assert status == 200
        assert reply == {
            "id": made["id"],
            "name": "Warned",
            "created_at": reply["created_at"],
            "low_balance": units,
            "suspended": False,
            "limits": {"weight": None, "backlog_max": None, "rate_max": None},
            "paused": None,
        }
        _, page = await api.admin("GET", f"/organisations?after={made['id'] - 1}")
        assert page["organisations"] == [reply]


@pytest.mark.parametrize(
    ("path", "body", "status", "field"),
    [
        ("/organisations/1", {}, 422, "low_balance"),
        ("/organisations/1", {"low_balance": 0}, 422, "low_balance"),
        ("/organisations/1", {"low_balance": -1}, 422, "low_balance"),
        ("/organisations/1", {"low_balance": 4_000_000_001}, 422, "low_balance"),
        ("/organisations/1", {"low_balance": 10**40}, 422, "low_balance"),
        ("/organisations/1", {"low_balance": "5"}, 422, "low_balance"),
        ("/organisations/1", {"low_balance": 5, "name": "x"}, 422, "name"),
        ("/organisations/999999", {"low_balance": 5}, 404, None),
        ("/organisations/x", {"low_balance": 5}, 404, None),
    ],
)
async def test_a_wrong_threshold_is_refused_with_the_field(
    api: Api, path: str, body: Any, status: int, field: str | None
) -> None:
    reply_status, reply = await api.admin("PATCH", path, body)
    assert (reply_status, reply.get("field")) == (status, field)
