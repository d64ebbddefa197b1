"""What a key with the scope `admin` may do, and what it may not."""

from __future__ import annotations

import itertools
from typing import Any

import asyncpg
import pytest

from tests.api.world import Api

_numbers = itertools.count(1)
MESSAGE = {"to": "+4915112345678", "text": "hello"}


async def organisation(api: Api) -> int:
    return int((await api.admin("POST", "/organisations", {"name": f"own {next(_numbers)}"}))[1]["id"])


async def key(api: Api, of: int, *scopes: str) -> str:
    return str((await api.admin("POST", f"/organisations/{of}/keys", {"scopes": scopes}))[1]["api_key"])


async def test_an_organisation_makes_changes_rotates_and_revokes_keys_of_its_own(api: Api) -> None:
    of = await organisation(api)
    own = await key(api, of, "admin")

    async def ask(method: str, path: str, body: object = None, by: str = own) -> tuple[int, Any]:
        status, _, reply = await api.ask(method, path, body, key=by)
        return status, reply

    status, made = await ask("POST", "/v1/keys", {"name": "shop", "scopes": ["send"]})
    assert status == 201
    assert (await ask("POST", "/v1/messages", MESSAGE, made["api_key"]))[0] == 202
    one = f"/v1/keys/{made['id']}"
    status, changed = await ask("PATCH", one, {"networks": ["203.0.113.7"]})
    assert (status, changed["networks"]) == (200, ["203.0.113.7/32"])
    status, newer = await ask("POST", f"{one}/rotate", {"overlap_s": 0})
    assert status == 201
    assert (await ask("PATCH", one, {"networks": []}))[1]["code"] == "key_over"
    assert (await ask("DELETE", f"/v1/keys/{newer['id']}"))[0] == 204
    names = [(k["name"], k["scopes"]) for k in (await ask("GET", "/v1/keys"))[1]["keys"]]
    assert names == [("shop", ["send"]), ("shop", ["send"]), ("", ["admin"]), ("", ["send", "read"])]
    # One without a body is as an operator's: it may send and read, and not manage.
    status, usual = await ask("POST", "/v1/keys")
    assert (await ask("GET", "/v1/keys", by=usual["api_key"]))[1]["code"] == "scope_missing"
    # Also itself.
    own_id = own.split("_")[1]
    assert (await ask("DELETE", f"/v1/keys/{own_id}"))[0] == 204


async def test_a_key_of_another_organisation_is_as_none(api: Api) -> None:
    of, other = await organisation(api), await organisation(api)
    own, theirs = await key(api, of, "admin"), (await key(api, other, "send")).split("_")[1]
    for method, path, body in (
        ("PATCH", "", {"networks": []}), ("DELETE", "", None), ("POST", "/rotate", {"overlap_s": 0}),
    ):  # fmt: skip
        replies = [
            await api.ask(method, f"/v1/keys/{key_id}{path}", body, key=own)
            for key_id in (theirs, 10**12, "0", "x", "9" * 30)
        ]
        details = {(status, reply["code"]) for status, _, reply in replies}
        assert details == {(404, "not_found")}
        assert replies[0][2]["detail"] == replies[1][2]["detail"]
    assert len((await api.ask("GET", "/v1/keys", key=own))[2]["keys"]) == 2


@pytest.mark.parametrize("suspended", [False, True])
async def test_it_manages_and_reads_and_never_sends_or_changes_what_an_operator_decides(
    api: Api, directory_url: str, suspended: bool
) -> None:
    of = await organisation(api)
    if suspended:
        connection = await asyncpg.connect(directory_url)
        await connection.execute(
            "INSERT INTO unbooked"
            " (organisation_id, shard, position, kind, holder, held, captured, released)"
            " VALUES ($1, 0, '1-0', 'usage', '', 3, 3, 0)",
            of,
        )
        await connection.close()
    own = await key(api, of, "admin")
    await api.admin("PATCH", f"/organisations/{of}/senders", {"senders": ["ACME", "12345"]})

    async def ask(method: str, path: str, body: object = None) -> tuple[int, Any]:
        status, _, reply = await api.ask(method, path, body, key=own)
        return status, reply

    hook = {"url": f"https://example.com/own/{next(_numbers)}"}
    for method, path, body, status in (
        ("GET", "/v1/balance", None, 200),
        ("POST", "/v1/opt-outs", {"numbers": ["+4915112345678"]}, 200),
        ("PUT", "/v1/auto-replies", {"action": "stop", "text": "Goodbye"}, 200),
        ("POST", "/v1/webhook-endpoints", hook, 201),
        ("PATCH", "/v1/senders", {"default": "12345"}, 200),
        ("PATCH", "/v1/senders", {"default": None}, 200),
        ("PATCH", "/v1/senders", {"default": "OTHER"}, 422),
        ("PATCH", "/v1/senders", {"senders": ["OTHER"]}, 422),
        ("PATCH", "/v1/senders", {"default": "ACME", "destinations": None}, 422),
        ("POST", "/v1/messages", MESSAGE, 403),
        ("POST", "/v1/messages/batch", {"messages": [MESSAGE]}, 403),
        ("POST", "/v1/messages/01a202a3-c111-7fd3-92d4-9ad3082ddfbb/cancel", None, 403),
        ("POST", "/v1/keys", {"scopes": ["money"]}, 422),
        ("POST", "/v1/keys", {"scopes": []}, 422),
    ):
        assert ((await ask(method, path, body))[0], path) == (status, path), body
    for method, path in (
        ("POST", "top-ups"), ("POST", "adjustments"), ("PATCH", "limits"), ("GET", "balance"),
    ):  # fmt: skip
        status, _, _ = await api.ask(method, f"/v1/admin/organisations/{of}/{path}", {}, key=own)
        assert status == 401
