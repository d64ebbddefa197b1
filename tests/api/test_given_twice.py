"""What is given twice in a request would be read in two ways, so it is refused."""

from __future__ import annotations

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


@pytest.mark.parametrize("call", ["GET /v1/balance", "POST /v1/messages", "GET /v1/admin/status"])
async def test_two_keys_are_refused(api: Api, call: str) -> None:
    keys = "".join(f"Authorization: Bearer {key}\r\n" for key in (api.api_key, ADMIN_KEY))
    body = msgspec.json.encode(DRAFT) if call.startswith("POST") else b""
    head = f"{call} HTTP/1.1\r\nHost: x\r\n{keys}Connection: close\r\nContent-Length: {len(body)}\r\n\r\n"
    answer = await api.raw(head.encode() + body)
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"`Authorization` must be there once." in answer
