"""What is given twice in a request would be read in two ways, and a parameter that a call does not have would
be passed over: both are refused."""

from __future__ import annotations

import re

import msgspec
import pytest

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


# The addresses that others make: a load balancer, a provider.
OF_OTHERS = {
    "get_health", "get_readiness", "push_receipts", "push_receipts_by_post", "push_inbound",
    "push_inbound_by_post",
}  # fmt: skip


async def test_each_call_refuses_a_parameter_that_it_does_not_have_and_names_those_it_has(api: Api) -> None:
    _, _, document = await api.ask("GET", "/openapi.json")
    seen = set()
    for path, calls in document["paths"].items():
        for method, call in calls.items():
            seen.add(call["operationId"])
            key = ADMIN_KEY if path.startswith(("/v1/admin", "/metrics")) else None
            at = re.sub("{[^}]*}", "1", path)
            status, _, reply = await api.ask(method.upper(), f"{at}?nonsense=1", key=key)
            if call["operationId"] in OF_OTHERS:
                assert status in (200, 404, 503), path
                continue
            of = [one["name"] for one in call.get("parameters", []) if one.get("in") == "query"]
            has = f"there are {', '.join(of)}" if of else "it has none"
            assert (status, reply["code"], reply["field"]) == (422, "invalid_field", "nonsense"), path
            assert reply["detail"] == f"`nonsense` is no parameter of this call; {has}."
    assert seen > OF_OTHERS
    assert len(seen) > 50


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
