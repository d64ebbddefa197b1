"""Every change that an operator makes is recorded: who, what, from what to what, when, from where."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import msgspec
import pytest

from engine.api import app as app_module
from engine.api.admin_route import AdminRoute
from engine.api.admin_routes import admin_routes
from engine.api.response import Response, answer_of
from engine.errors import Refusal
from engine.organisations import NewOrganisation
from engine.stores.postgres.directory import Directory
from tests.api.world import ADMIN_KEY, Api, services_with, serving

_numbers = itertools.count(1)

# How each call that changes something is made so that it does: what stands in its path, and its body. Where
# two are given, the first is done before, by the key of the configuration; ".": that without the last part of
# its path, with the same body.
EXAMPLES: dict[str, tuple[str, Any]] = {
    "POST /v1/admin/organisations": ("", {"name": "Changing Ltd"}),
    "PATCH /v1/admin/organisations/{organisation_id}": ("", {"low_balance": 17}),
    "PATCH /v1/admin/organisations/{organisation_id}/limits": ("", {"weight": 3.0, "rate_max": 5}),
    "POST /v1/admin/organisations/{organisation_id}/pause": ("", {"reason": "spam"}),
    "POST /v1/admin/organisations/{organisation_id}/adjustments": (
        "",
        {"units": 5, "reason": "goodwill", "reference": "case 7"},
    ),
    "POST /v1/admin/erasures": ("", {"number": "+4915112345678"}),
    "POST /v1/admin/organisations/{organisation_id}/resume": ("pause", None),
    "PATCH /v1/admin/organisations/{organisation_id}/senders": ("", {"senders": ["ACME"], "default": "ACME"}),
    "POST /v1/admin/inbound-messages": ("", {"from": "+4915112345678", "to": "12345", "text": "hello"}),
    "PUT /v1/admin/inbound-routes": ("", {"number": "12345", "organisation_id": 1}),
    "POST /v1/admin/inbound-routes/remove": ("", {"number": "12345"}),
    "PUT /v1/admin/destinations": ("", {"rules": {"+1": ["short", "long"], "+882": []}}),
    "POST /v1/admin/organisations/{organisation_id}/opt-outs": ("", {"numbers": ["+4915112345678"]}),
    "POST /v1/admin/organisations/{organisation_id}/opt-outs/remove": (
        ".",
        {"numbers": ["+4915112345678"]},
    ),
    "PUT /v1/admin/organisations/{organisation_id}/auto-replies": ("", {"action": "stop", "text": "Goodbye"}),
    "POST /v1/admin/organisations/{organisation_id}/auto-replies/remove": ("", {"action": "stop"}),
    "POST /v1/admin/organisations/{organisation_id}/keys": ("", None),
    "DELETE /v1/admin/organisations/{organisation_id}/keys/{key_id}": ("", None),
    "PATCH /v1/admin/organisations/{organisation_id}/keys/{key_id}": ("", {"networks": ["127.0.0.0/8"]}),
    "POST /v1/admin/organisations/{organisation_id}/keys/{key_id}/rotate": ("", {"overlap_s": 60}),
    "POST /v1/admin/organisations/{organisation_id}/top-ups": ("", {"units": 5, "reference": "invoice-9"}),
    "POST /v1/admin/unbooked/{organisation_id}/book": ("", {"write_off": "a gift"}),
    "POST /v1/admin/losses/rebuild": ("", {"dry_run": True}),
    "PUT /v1/admin/prices": ("", {"prices": {"": 1, "+98": 2}}),
    "PUT /v1/admin/routes": ("", {"routes": [{"providers": ["first"]}]}),
    "PUT /v1/admin/providers/{name}": ("", {"throughput": 7}),
    "POST /v1/admin/providers/{name}/pause": ("", {"reason": "no receipts"}),
    "POST /v1/admin/providers/{name}/resume": ("pause", None),
    "POST /v1/admin/queues/{queue}/pause": ("", {"reason": "a wrong text"}),
    "POST /v1/admin/queues/{queue}/resume": ("pause", None),
    "POST /v1/admin/queues/{queue}/drain": ("", {"reason": "new address"}),
    # Redis is away here, so it is not known which nodes there are.
    "POST /v1/admin/queues/{queue}/scale": ("", {"processes": 2, "node": "first", "force": True}),
    "POST /v1/admin/nodes/{name}/drain": ("", {"force": True}),
    "POST /v1/admin/nodes/{name}/resume": ("drain", None),
    # Redis is away here: nobody knows what became of them. `test_dead_letters` has them with Redis.
    "POST /v1/admin/dead-letters/{letter_id}/replay": ("", None),
    "POST /v1/admin/dead-letters/{letter_id}/drop": ("", None),
    "POST /v1/admin/organisations/{organisation_id}/webhook-endpoints": ("", {"url": "https://example.com/"}),
    "PATCH /v1/admin/organisations/{organisation_id}/webhook-endpoints/{endpoint_id}": (
        "",
        {"events": ["message.sent"]},
    ),
    "DELETE /v1/admin/organisations/{organisation_id}/webhook-endpoints/{endpoint_id}": ("", None),
    "POST /v1/admin/organisations/{organisation_id}/webhook-endpoints/{endpoint_id}/rotate": ("", None),
    # Redis is away here, as with dead letters.
    "POST /v1/admin/organisations/{organisation_id}/webhook-endpoints/{endpoint_id}/test": ("", None),
    "POST /v1/admin/organisations/{organisation_id}/webhook-deliveries/replay": (
        "",
        {"since": "2026-01-01T00:00:00Z"},
    ),
    "POST /v1/admin/organisations/{organisation_id}/webhook-deliveries/{delivery_id}/replay": ("", None),
    "POST /v1/admin/admin-keys": ("", {"name": "changing", "scopes": ["read"]}),
    "DELETE /v1/admin/admin-keys/{key_id}": ("", None),
    "PATCH /v1/admin/admin-keys/{key_id}": ("", {"networks": ["127.0.0.0/8"]}),
}


@pytest.fixture(autouse=True)
async def as_before(api: Api) -> AsyncIterator[None]:
    yield
    await api.behind_admin.routing.replace([])
    for queue in ("express", "normal"):
        await api.behind_admin.routing.pause_queue(queue, None)  # type: ignore[arg-type]
    for provider in ("first", "second"):
        await api.behind_admin.routing.set_paused(provider, False)
        await api.behind_admin.routing.set_throughput(provider, None)
    await api.behind_admin.prices.replace({"": 1})
    await api.behind_admin.recipients.senders.replace_destinations({})


def changing(api: Api) -> list[AdminRoute]:
    return [route for route in admin_routes(api.behind_admin) if route.method != "GET" and not route.is_look]


def kind(route: AdminRoute) -> str:
    return f"{route.method} {route.path}"


async def records(api: Api, query: str = "") -> list[dict[str, Any]]:
    status, page = await api.admin("GET", f"/changes?limit=1000{query}")
    assert status == 200, page
    changes: list[dict[str, Any]] = page["changes"]
    return changes


async def named_key(api: Api, *scopes: str) -> tuple[str, str]:
    """(name, key) of a new admin key."""
    name = f"operator {next(_numbers)}"
    status, made = await api.admin("POST", "/admin-keys", {"name": name, "scopes": scopes})
    assert status == 201
    return name, made["admin_key"]


async def made_endpoint(api: Api, organisation_id: int, directory_url: str) -> tuple[int, int]:
    """The id of an endpoint of the organisation, and that of a delivery to it that has failed."""
    url = {"url": "https://example.com/hook"}
    _, made = await api.admin("POST", f"/organisations/{organisation_id}/webhook-endpoints", url)
    connection = await asyncpg.connect(directory_url)
    delivery_id = await connection.fetchval(
        "INSERT INTO webhook_deliveries (shard, organisation_id, endpoint_id, origin, url, event_id, type,"
        " event_at, body, attempts, due_at, failed_at, last_status, last_reason)"
        " VALUES (0, $1, $2, '', '', $3, '', now(), '', 1, now(), now(), 404, '') RETURNING id",
        organisation_id, made["id"], f"evt_{organisation_id}",
    )  # fmt: skip
    await connection.close()
    return made["id"], delivery_id


async def filled(api: Api, route: AdminRoute, directory_url: str) -> str:
    """The path of the route with ids of what there is, made for this call."""
    path = route.path
    if "{organisation_id}" in path:
        made = (await api.admin("POST", "/organisations", {"name": "Subject"}))[1]
        path = path.replace("{organisation_id}", str(made["id"])).replace(
            "{key_id}", made["api_key"].split("_")[1]
        )
        if "/unbooked/" in path:
            connection = await asyncpg.connect(directory_url)
            await connection.execute(
                "INSERT INTO unbooked"
                " (organisation_id, shard, position, kind, holder, held, captured, released)"
                " VALUES ($1, 0, '1-0', 'usage', '', 3, 3, 0)",
                made["id"],
            )
            await connection.close()
        if path.endswith("/auto-replies/remove"):
            reply = {"action": "stop", "text": "Goodbye"}
            await api.admin("PUT", path.removeprefix("/v1/admin").removesuffix("/remove"), reply)
        if "{endpoint_id}" in path or "{delivery_id}" in path:
            endpoint = await made_endpoint(api, made["id"], directory_url)
            path = path.replace("{endpoint_id}", str(endpoint[0])).replace("{delivery_id}", str(endpoint[1]))
    if "{key_id}" in path:
        made = (await api.admin("POST", "/admin-keys", {"name": f"{next(_numbers)}", "scopes": ["read"]}))[1]
        path = path.replace("{key_id}", str(made["id"]))
    return path.replace("{name}", "first").replace("{queue}", "normal").replace("{letter_id}", "normal.1.5-0")


async def test_every_call_that_changes_something_is_recorded_with_who_and_from_what_to_what(
    api: Api, directory_url: str
) -> None:
    name, key = await named_key(api, "all")
    missing = {kind(route) for route in changing(api)} - EXAMPLES.keys()
    assert not missing, "EXAMPLES must say how to make these calls"
    secrets = [key, ADMIN_KEY]
    for route in changing(api):
        path, (first, body) = await filled(api, route, directory_url), EXAMPLES[kind(route)]
        if first:
            reason = None if "{name}" in route.path else {"reason": "x"}
            above = path.rpartition("/")[0]
            given = (above, body) if first == "." else (f"{above}/{first}", reason)
            await api.ask("POST", *given, key=ADMIN_KEY)
        status, headers, reply = await api.ask(route.method, path, body, key=key)
        found = [r for r in await records(api, f"&key={name}") if r["action"] == kind(route)]
        newest = found[0]
        assert (newest["key"], newest["path"], newest["address"]) == (name, path, "127.0.0.1")
        assert newest["request_id"] == headers["X-Request-Id"]
        if "dead-letters" in path or path.endswith("/test"):
            assert (status, [r["outcome"] for r in found]) == (503, ["unknown", "begun"])
            assert newest["begun_id"] == found[1]["id"]
            continue
        assert status < 300, reply
        assert [r["outcome"] for r in found] == (["done", "begun"] if route.outside else ["done"])
        assert newest["after"] not in (None, newest["before"]), "from what to what"
        if "{organisation_id}" in route.path:
            assert newest["organisation_id"] == int(path.split("/")[4])
        if kind(route) == "POST /v1/admin/organisations":
            assert newest["organisation_id"] == reply["id"]
        secrets += [
            value for name, value in (reply or {}).items() if name in ("api_key", "admin_key", "secret")
        ]
    text = msgspec.json.encode(await records(api)).decode()
    for secret in secrets:
        assert secret[-20:] not in text


async def test_whoever_carries_a_new_call_out_and_writes_no_record_has_one_all_the_same(
    directory: Directory, acme: NewOrganisation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The wrapper of the route table records it, whatever the action does."""

    async def succeeds(_: object) -> Response:
        return answer_of(200, {})

    async def refuses(_: object) -> Response:
        raise Refusal("not_now", 409, "Not now.")

    services = await services_with(directory)
    for action, outcomes in ((succeeds, ["done", "begun"]), (refuses, ["refused", "begun"])):
        monkeypatch.setattr(
            app_module, "admin_routes", lambda s, a=action: [r._replace(action=a) for r in admin_routes(s)]
        )
        async with serving(services, acme.api_key) as api:
            name, _ = "configuration", None
            for route in changing(api):
                path = route.path.replace("{organisation_id}", "1").replace("{", "").replace("}", "")
                before = len(await _of_path(directory, path))
                await api.ask(route.method, path, key=ADMIN_KEY)
                found = (await _of_path(directory, path))[before:][::-1]
                assert {r["key_name"] for r in found} <= {name}
                if route.outside:
                    assert [r["outcome"] for r in found] == outcomes
                else:
                    # What PostgreSQL refused has changed nothing.
                    assert [r["outcome"] for r in found] == outcomes[:1] * (action is succeeds)


async def _of_path(directory: Directory, path: str) -> list[Any]:
    async with directory.pool.connection() as connection:
        rows: list[Any] = await connection.fetch("SELECT * FROM changes WHERE path = $1 ORDER BY id", path)
    return rows


async def test_a_repeated_call_says_that_nothing_had_to_be_changed(api: Api, acme: NewOrganisation) -> None:
    path = f"/organisations/{acme.id}/pause"
    for _ in range(2):
        assert (await api.admin("POST", path, {"reason": "once"}, Idempotency_Key=f"p{acme.id}"))[0] == 200
        # As if the first one had been cut off before its answer was kept.
        answers: Any = api.behind_admin.answers
        answers.kept.clear()
    again, first = (await records(api, f"&organisation={acme.id}&path=/v1/admin{path}"))[:2]
    assert (again["before"], again["after"]) == (None, None)
    assert first["before"] == {"pause": None}
    assert first["after"]["pause"]["reason"] == "once"
    await api.admin("POST", f"/organisations/{acme.id}/resume")


async def test_records_are_chosen_and_paged_newest_first(api: Api) -> None:
    name, key = await named_key(api, "operate")
    for throughput in (1, 2, 3):
        await api.ask("PUT", "/v1/admin/providers/first", {"throughput": throughput}, key=key)
    await api.ask("PUT", "/v1/admin/providers/second", {"throughput": 9}, key=key)
    mine = await records(api, f"&key={name}")
    assert [r["after"]["throughput"] for r in mine] == [9, 3, 2, 1]
    of_first = await records(api, f"&key={name}&path=/v1/admin/providers/first")
    assert [r["after"]["throughput"] for r in of_first] == [3, 2, 1]
    assert await records(api, f"&key={name}&since={mine[1]['at']}") == mine[:2]
    assert await records(api, f"&key={name}&until={mine[1]['at']}") == mine[2:]
    seen, cursor = [], ""
    while cursor is not None:
        _, page = await api.admin("GET", f"/changes?key={name}&limit=3&cursor={cursor}")
        seen += page["changes"]
        cursor = page["next"]
    assert seen == mine
    for query in (
        "since=yesterday",
        "until=2026-01-01T00:00:00",
        "since=0001-01-01T00:00:00%2B23:59",
        "organisation=x",
        "key=%00",
        "path=%00",
    ):
        assert (await api.admin("GET", f"/changes?{query}"))[0] == 422


@pytest.mark.parametrize(
    "statement", ["UPDATE changes SET key_name = ''", "DELETE FROM changes", "TRUNCATE changes"]
)
async def test_records_are_never_changed_or_removed(api: Api, directory_url: str, statement: str) -> None:
    await named_key(api, "read")
    connection = await asyncpg.connect(directory_url)
    with pytest.raises(asyncpg.RaiseError, match="never changed or removed"):
        await connection.execute(statement)
    await connection.close()


async def test_a_change_and_its_record_are_made_together_or_neither(api: Api, directory_url: str) -> None:
    """What fails after the record was written takes it along."""
    connection = await asyncpg.connect(directory_url)
    await connection.execute("ALTER TABLE idempotency ADD CONSTRAINT fails CHECK (answer = '') NOT VALID")
    before = await records(api)
    try:
        status, _ = await api.admin("POST", "/organisations", {"name": "Never"}, Idempotency_Key="never")
        assert status >= 500
    finally:
        await connection.execute("ALTER TABLE idempotency DROP CONSTRAINT fails")
    assert await connection.fetchval("SELECT count(*) FROM organisations WHERE name = 'Never'") == 0
    assert await records(api) == before
    await connection.close()
