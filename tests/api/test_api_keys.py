"""The API keys of organisations: what each is good for, until when, and how one follows another."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

import pytest

from engine.organisations import NewOrganisation
from supervisor import cli
from tests.api.world import ADMIN_KEY, DRAFT, Api


async def made(api: Api, organisation: NewOrganisation, wish: Any = None) -> dict[str, Any]:
    status, key = await api.admin("POST", f"/organisations/{organisation.id}/keys", wish)
    assert status == 201, key
    return dict(key)


async def listed(api: Api, organisation: NewOrganisation, key_id: int) -> dict[str, Any]:
    _, reply = await api.admin("GET", f"/organisations/{organisation.id}/keys")
    return next(dict(key) for key in reply["keys"] if key["id"] == key_id)


async def may(api: Api, key: str) -> dict[str, int]:
    """The statuses of the calls of an organisation."""
    return {
        "send": (await api.ask("POST", "/v1/messages", DRAFT, key=key))[0],
        "batch": (await api.ask("POST", "/v1/messages/batch", {"messages": [DRAFT]}, key=key))[0],
        "balance": (await api.ask("GET", "/v1/balance", key=key))[0],
        "transactions": (await api.ask("GET", "/v1/balance/transactions", key=key))[0],
        "show": (await api.ask("GET", f"/v1/messages/{'0' * 32}", key=key))[0],
    }


async def test_a_key_is_good_for_its_scopes_alone(api: Api, acme: NewOrganisation) -> None:
    """On the edge, where a key that is known is not looked up, and on aiohttp."""
    send = await made(api, acme, {"name": "shop", "scopes": ["send"]})
    read = await made(api, acme, {"scopes": ["read"]})
    both = await made(api, acme)
    for _ in range(2):
        assert await may(api, send["api_key"]) == {
            "send": 202, "batch": 202, "balance": 403, "transactions": 403, "show": 403,
        }  # fmt: skip
        assert await may(api, read["api_key"]) == {
            "send": 403, "batch": 403, "balance": 200, "transactions": 200, "show": 404,
        }  # fmt: skip
        assert 403 not in (await may(api, both["api_key"])).values()
    _, _, problem = await api.ask("POST", "/v1/messages", DRAFT, key=read["api_key"])
    assert problem["code"] == "scope_missing"
    assert problem["detail"] == "This call needs an API key with the scope `send`; this key has `read`."
    row = await listed(api, acme, send["id"])
    assert (row["name"], row["scopes"], row["expires_at"]) == ("shop", ["send"], None)


async def test_one_key_follows_another_and_both_are_good_for_a_while(api: Api, acme: NewOrganisation) -> None:
    old = await made(api, acme, {"name": "shop", "scopes": ["read"]})
    path = f"/organisations/{acme.id}/keys/{old['id']}/rotate"
    status, new = await api.admin("POST", path, {"overlap_s": 3600}, Idempotency_Key=f"r{old['id']}")
    assert status == 201
    for key in (old, new):
        assert (await api.ask("GET", "/v1/balance", key=key["api_key"]))[0] == 200
    status, again = await api.admin("POST", path, {"overlap_s": 3600}, Idempotency_Key=f"r{old['id']}")
    assert (status, again["code"]) == (409, "idempotency_key_used")
    row, before = await listed(api, acme, new["id"]), await listed(api, acme, old["id"])
    assert (row["name"], row["scopes"], row["expires_at"]) == ("shop", ["read"], None)
    left = datetime.fromisoformat(before["expires_at"]) - datetime.now(UTC)
    assert 3500 < left.total_seconds() <= 3600
    # Another rotation gives it no more time; one without an overlap ends it.
    for overlap_s in (86_400, 0):
        assert (await api.admin("POST", path, {"overlap_s": overlap_s}))[0] == 201
    while (await api.ask("GET", "/v1/balance", key=old["api_key"]))[0] != 401:
        pass
    status, over = await api.admin("POST", path)
    assert (status, over["code"]) == (409, "key_over")
    for wrong in (-1, 366 * 86_400 + 1, "x"):
        status, problem = await api.admin("POST", path, {"overlap_s": wrong})
        assert (status, problem["field"]) == (422, "overlap_s")
    assert (await api.admin("POST", f"/organisations/{acme.id}/keys/999999/rotate"))[0] == 404


@pytest.mark.parametrize(
    ("wish", "field"),
    [
        ({"scopes": []}, "scopes"),
        ({"scopes": ["all"]}, "scopes"),
        ({"name": "x" * 201}, "name"),
        ({"expires_at": "2020-01-01T00:00:00Z"}, "expires_at"),
        ({"expires_at": "2100-01-01T00:00:00"}, "expires_at"),
        ({"expires_at": "9999-12-31T23:59:59-23:59"}, "expires_at"),
        ({"sources": []}, "sources"),
        ({"networks": ["x"]}, "networks"),
    ],
)
async def test_what_no_key_can_be_is_named(api: Api, acme: NewOrganisation, wish: Any, field: str) -> None:
    status, problem = await api.admin("POST", f"/organisations/{acme.id}/keys", wish)
    assert (status, problem.get("field")) == (422, field), problem


async def test_the_commands_make_list_replace_and_revoke(
    api: Api, acme: NewOrganisation, capsys: pytest.CaptureFixture[str]
) -> None:
    async def run(*arguments: object) -> str:
        words = [*map(str, arguments), "--url", f"http://127.0.0.1:{api.port}", "--admin-key", ADMIN_KEY]
        assert await asyncio.to_thread(cli.run, words) == 0
        return capsys.readouterr().out

    shown = await run("org", "key", acme.id, "--name", "till", "--scope", "send", "--expires", "30d")
    key_id = shown.split()[2]
    assert "smse_" in shown
    await run("org", "key", acme.id, "--rotate", key_id, "--overlap", "7d")
    await run("org", "key", acme.id, "--revoke", key_id)
    table = await run("org", "keys", acme.id)
    assert "till" in table
    assert "revoked" in table
    await run("admin-key", "create", "till clerk", "--scope", "read", "--scope", "money", "--expires", "1d")
    assert "till clerk" in await run("admin-key", "list")
    await run("admin-key", "revoke", "till clerk")
    changes = await run("changes", "--organisation", acme.id, "--limit", "2")
    assert f"DELETE /v1/admin/organisations/{acme.id}/keys/{key_id}" in changes
    assert f"POST /v1/admin/organisations/{acme.id}/keys/{key_id}/rotate" in changes
    assert "smse_" not in changes
