"""Admin keys with names: what each is good for, from when, until when."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest

from engine import api_keys
from engine.api.admin_routes import admin_routes
from engine.api.key_cache import KeyCache
from engine.api.last_uses import LastUses
from engine.stores.postgres.directory import Directory
from engine.stores.postgres.key_uses import KeyUses
from tests.api.test_changes import named_key
from tests.api.world import ADMIN_KEY, Api, services_with, serving

# What a key with one scope may call, by the scope that the route needs.
ALLOWED = {
    "read": {"read"},
    "operate": {"read", "operate"},
    "money": {"read", "money"},
    "all": {"read", "operate", "money", "all"},
}


@pytest.mark.parametrize("scope", ALLOWED)
async def test_a_call_beyond_the_scope_of_a_key_is_403_and_says_which_it_needs(api: Api, scope: str) -> None:
    _, key = await named_key(api, scope)
    for route in admin_routes(api.behind_admin):
        # An id that is none: whoever is let in finds nothing.
        path = route.path.replace("{", "").replace("}", "")
        # A body that is none, for the calls without an id.
        status, _, problem = await api.ask(route.method, path, b"?", key=key)
        refused = status == 403
        assert refused == (route.scope not in ALLOWED[scope]), (route.method, path, problem)
        if refused:
            assert problem["code"] == "scope_missing"
            assert problem["detail"] == (
                f"This call needs an admin key with the scope `{route.scope}`; this key has `{scope}`."
            )


async def test_a_key_is_shown_once_listed_without_its_secret_and_scrapes(api: Api) -> None:
    wanted = {"name": "Grafana", "scopes": ["read", "read"], "expires_at": "2100-01-01T00:00:00Z"}
    status, made = await api.admin("POST", "/admin-keys", wanted, Idempotency_Key="grafana")
    assert status == 201
    assert made["admin_key"].startswith(f"smsa_{made['id']}_")
    assert (made["name"], made["scopes"], made["expires_at"]) == ("Grafana", ["read"], "2100-01-01T00:00:00Z")
    status, again = await api.admin("POST", "/admin-keys", wanted, Idempotency_Key="grafana")
    assert (status, again["code"]) == (409, "idempotency_key_used")
    assert f"admin key {made['id']}" in again["detail"]
    status, taken = await api.admin("POST", "/admin-keys", wanted)
    assert (status, taken["code"], taken["field"]) == (409, "name_taken", "name")
    _, listed = await api.admin("GET", "/admin-keys")
    [row] = [k for k in listed["keys"] if k["id"] == made["id"]]
    assert row.keys() == {
        "id", "name", "scopes", "created_at", "expires_at", "revoked_at", "last_used_at", "networks",
    }  # fmt: skip
    answer = await api.raw(
        b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
        b"Authorization: Bearer " + made["admin_key"].encode() + b"\r\n\r\n"
    )
    assert answer.startswith(b"HTTP/1.1 200 OK")


BAD: list[tuple[Any, str]] = [
    ({"name": "", "scopes": ["read"]}, "name"),
    ({"name": "configuration", "scopes": ["read"]}, "name"),
    ({"name": "x", "scopes": []}, "scopes"),
    ({"name": "x", "scopes": ["root"]}, "scopes"),
    ({"name": "x", "scopes": ["read"], "expires_at": "2020-01-01T00:00:00Z"}, "expires_at"),
    ({"name": "x", "scopes": ["read"], "expires_at": "2100-01-01T00:00:00"}, "expires_at"),
    ({"name": "x", "scopes": ["read"], "networks": ["10.0.0.1/8"]}, "networks"),
    ({"name": "x"}, "scopes"),
]


@pytest.mark.parametrize(("body", "field"), BAD, ids=range(len(BAD)))
async def test_what_no_key_can_have_is_named(api: Api, body: Any, field: str) -> None:
    status, problem = await api.admin("POST", "/admin-keys", body)
    assert (status, problem.get("field")) == (422, field), problem


async def test_a_revoked_and_an_expired_key_are_refused_within_about_a_second(
    api: Api, directory_url: str
) -> None:
    status = "/v1/admin/status"
    name, revoked = await named_key(api, "read")
    _, expiring = await named_key(api, "read")
    for key in (revoked, expiring):
        assert (await api.ask("GET", status, key=key))[0] == 200
    key_id, _ = api_keys.admin_key(revoked) or (0, "")
    assert (await api.admin("DELETE", f"/admin-keys/{key_id}"))[0] == 204
    assert (await api.admin("DELETE", f"/admin-keys/{key_id}"))[0] == 204
    connection = await asyncpg.connect(directory_url)
    expires_at = datetime.now(UTC) - timedelta(seconds=1)
    other_id, _ = api_keys.admin_key(expiring) or (0, "")
    await connection.execute("UPDATE admin_keys SET expires_at = $1 WHERE id = $2", expires_at, other_id)
    await connection.close()
    for key in (revoked, expiring):
        while (await api.ask("GET", status, key=key))[0] != 401:
            pass
    # Its name is free again.
    assert (await api.admin("POST", "/admin-keys", {"name": name, "scopes": ["read"]}))[0] == 201
    assert (await api.admin("DELETE", "/admin-keys/999999"))[0] == 404
    assert (await api.admin("DELETE", "/admin-keys/x"))[0] == 404


async def test_a_wrong_secret_is_refused_and_another_with_the_form_of_a_name_may_be_configured(
    api: Api, directory: Directory
) -> None:
    _, key = await named_key(api, "all")
    wrong = key[:-1] + ("A" if key[-1] != "A" else "B")
    for token in (wrong, f"smsa_999999_{'x' * 43}", "smsa_", "x", f"{ADMIN_KEY}x"):
        assert (await api.ask("GET", "/v1/admin/status", key=token))[0] == 401
    services = await services_with(directory, admin_key_sha256=api_keys.digest(wrong))
    async with serving(services) as other:
        assert (await other.ask("GET", "/v1/admin/admin-keys", key=wrong))[0] == 200


async def test_uses_are_noted_in_one_batch_and_once_a_minute(api: Api, directory: Directory) -> None:
    """Also when PostgreSQL was away the first time."""
    made = [await named_key(api, "read") for _ in range(3)]
    book = api.behind_admin.admin_keys
    cache: KeyCache[Any] = KeyCache(book.credentials, "a key")
    batches: list[list[int]] = []
    fails = [True]

    async def note(ids: Any) -> None:
        batches.append(list(ids))
        if fails.pop() if fails else False:
            raise OSError
        await KeyUses(directory.pool, "admin_keys").note(ids)

    uses = LastUses(cache, note)
    ids = sorted((api_keys.admin_key(key) or (0, ""))[0] for _, key in made)
    cache.used |= set(ids)
    await uses.flush()
    await uses.flush()
    await uses.flush()
    assert batches == [ids, ids]
    used = {k.id: k.last_used_at for k in await book.keys() if k.id in ids}
    assert None not in used.values()
    cache.used |= set(ids)
    await uses.flush()
    assert {k.id: k.last_used_at for k in await book.keys() if k.id in ids} == used
    await cache.close()


async def test_a_server_that_ends_notes_what_was_used(directory: Directory) -> None:
    services = await services_with(directory)
    async with serving(services) as api:
        name, key = await named_key(api, "read")
        assert (await api.ask("GET", "/v1/admin/status", key=key))[0] == 200
    assert services.admin is not None
    [row] = [k for k in await services.admin.admin_keys.keys() if k.name == name]
    assert row.last_used_at is not None
