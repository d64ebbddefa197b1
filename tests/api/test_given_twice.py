"""What is given twice in a request would be read in two ways, and a parameter that a call does not have would
be passed over: both are refused."""

from __future__ import annotations

import re
from collections import Counter

import msgspec
import pytest

from engine.organisations import NewOrganisation
from tests.api.world import ADMIN_KEY, DRAFT, Api


@pytest.mark.parametrize(
    ("path", "key"),
    [
        ("/v1/messages?limit=1&status=sent&status=failed", None),
        ("/v1/admin/changes?limit=1&key=alice&key=bob", ADMIN_KEY),
    ],
)
async def test_a_parameter_that_is_given_twice_is_refused(api: Api, path: str, key: str | None) -> None:
    status, _, reply = await api.ask("GET", path, key=key)
    assert (status, reply["code"], reply["field"]) == (
        422,
        "invalid_field",
        path.rpartition("&")[2].split("=")[0],
    )


@pytest.mark.parametrize(
    ("path", "key"),
    [
        ("/v1/messages?statuss=failed", None),
        ("/v1/balance/transactions?size=10", None),
        ("/v1/reports/summary?from=2026-11-22T00:00:00Z", None),
        ("/v1/reports/summary?organisation=2", None),
        ("/v1/webhook-deliveries?status=failed", None),
        ("/v1/admin/changes?organization=2", ADMIN_KEY),
    ],
)
async def test_a_parameter_that_a_call_does_not_have_is_refused(api: Api, path: str, key: str | None) -> None:
    name = path.partition("?")[2].split("=")[0]
    status, _, reply = await api.ask("GET", path, key=key)
    assert (status, reply["code"], reply["field"]) == (422, "invalid_field", name)
    assert reply["detail"].startswith(f"`{name}` is no parameter of this call; there are ")


# The addresses that others make: a load balancer, a provider, whoever links to a page that needs no key.
OF_OTHERS = {
    "get_health", "get_readiness", "push_receipts", "push_receipts_by_post", "push_inbound",
    "push_inbound_by_post", "get_openapi", "get_docs",
}  # fmt: skip


async def test_each_call_refuses_a_parameter_that_it_does_not_have_and_names_those_it_has(
    api: Api, acme: NewOrganisation
) -> None:
    _, _, document = await api.ask("GET", "/openapi.json")
    wish = {"scopes": ["send", "read", "admin"]}
    _, made = await api.admin("POST", f"/organisations/{acme.id}/keys", wish)
    seen = set()
    for path, calls in document["paths"].items():
        for method, call in calls.items():
            seen.add(call["operationId"])
            key = ADMIN_KEY if path.startswith(("/v1/admin", "/metrics")) else made["api_key"]
            at = re.sub("{[^}]*}", "1", path)
            if call["operationId"] in OF_OTHERS:
                assert await status_of(api, method, f"{at}?nonsense=1", "") in (200, 404, 503), path
                continue
            status, _, reply = await api.ask(method.upper(), f"{at}?nonsense=1", key=key)
            of = [one["name"] for one in call.get("parameters", []) if one.get("in") == "query"]
            has = f"there are {', '.join(of)}" if of else "it has none"
            assert (status, reply["code"], reply["field"]) == (422, "invalid_field", "nonsense"), path
            assert reply["detail"] == f"`nonsense` is no parameter of this call; {has}."
    assert seen > OF_OTHERS
    assert len(seen) > 50


async def status_of(api: Api, method: str, path: str, key: str) -> int:
    """The status alone, whatever the body is."""
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    url = f"http://127.0.0.1:{api.port}{path}"
    async with api.session.request(method, url, headers=headers) as response:
        return response.status


async def test_who_may_not_make_a_call_learns_nothing_of_its_parameters(
    api: Api, acme: NewOrganisation
) -> None:
    _, _, document = await api.ask("GET", "/openapi.json")
    _, made = await api.admin("POST", "/admin-keys", {"name": "looks", "scopes": ["read"]})
    looks = made["admin_key"]
    _, made = await api.admin("POST", f"/organisations/{acme.id}/keys", {"scopes": ["read"]})
    refused: Counter[int] = Counter()
    for path, calls in document["paths"].items():
        for method, call in calls.items():
            if call["operationId"] in OF_OTHERS:
                continue
            at = re.sub("{[^}]*}", "1", path)
            weak = looks if path.startswith(("/v1/admin", "/metrics")) else made["api_key"]
            for query in ("", "?nonsense=1", "?limit=1&limit=2"):
                assert await status_of(api, method, at + query, "") == 401, at + query
                if method != "get" and at != "/v1/admin/plan":
                    assert await status_of(api, method, at + query, weak) == 403, at + query
                    refused[403] += 1
                refused[401] += 1
    assert refused[401] > 150
    assert refused[403] > 100


async def test_what_may_be_chosen_is_named(api: Api) -> None:
    _, _, reply = await api.ask("GET", "/v1/reports/summary?queue=fast")
    assert reply["detail"] == "`queue` must be express or normal."


@pytest.mark.parametrize("call", ["GET /v1/balance", "POST /v1/messages", "GET /v1/admin/status"])
async def test_two_keys_are_refused(api: Api, call: str) -> None:
    keys = "".join(f"Authorization: Bearer {key}\r\n" for key in (api.api_key, ADMIN_KEY))
    body = msgspec.json.encode(DRAFT) if call.startswith("POST") else b""
    head = f"{call} HTTP/1.1\r\nHost: x\r\n{keys}Connection: close\r\nContent-Length: {len(body)}\r\n\r\n"
    answer = await api.raw(head.encode() + body)
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"`Authorization` must be there once." in answer
