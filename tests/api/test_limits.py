"""The operator's calls on the limits of an organisation and on its pause, and how a 429 looks."""

from __future__ import annotations

from typing import Any

import pytest

from engine.errors import TooMany
from tests.api.world import DRAFT, Api

DEFAULT = {"weight": 1.0, "backlog_max": 1_000_000, "rate_max": None}


async def made(api: Api) -> int:
    organisation_id: int = (await api.admin("POST", "/organisations", {"name": "limited"}))[1]["id"]
    return organisation_id


async def test_limits_are_shown_set_and_taken_back(api: Api) -> None:
    path = f"/organisations/{await made(api)}/limits"
    nothing = {"weight": None, "backlog_max": None, "rate_max": None, "default": DEFAULT}
    assert await api.admin("GET", path) == (200, nothing)
    status, reply = await api.admin("PATCH", path, {"weight": 2, "rate_max": 200})
    assert (status, reply) == (200, nothing | {"weight": 2.0, "rate_max": 200.0})
    status, reply = await api.admin("PATCH", path, {"backlog_max": 5000, "rate_max": None})
    assert (status, reply) == (200, nothing | {"weight": 2.0, "backlog_max": 5000})
    assert await api.admin("PATCH", path, {}) == (200, reply)
    _, shown = await api.admin("GET", path.removesuffix("/limits"))
    assert shown["limits"] == {"weight": 2.0, "backlog_max": 5000, "rate_max": None}


async def test_an_organisation_is_paused_and_resumed(api: Api) -> None:
    path = f"/organisations/{await made(api)}"
    status, reply = await api.admin("POST", f"{path}/pause", {"reason": "asked by phone"})
    assert (status, reply["paused"]["reason"]) == (200, "asked by phone")
    assert await api.admin("POST", f"{path}/pause") == (200, reply)
    assert await api.admin("GET", path) == (200, reply)
    status, reply = await api.admin("POST", f"{path}/resume", {})
    assert (status, reply["paused"], reply["suspended"]) == (200, None, False)
    assert (await api.admin("POST", f"{path}/resume"))[0] == 200


@pytest.mark.parametrize(
    ("method", "what", "body", "status", "field"),
    [
        ("PATCH", "/limits", {"weight": "2"}, 422, "weight"),
        ("PATCH", "/limits", {"weight": 0}, 422, "weight"),
        ("PATCH", "/limits", {"weight": 1e300}, 422, "weight"),
        ("PATCH", "/limits", {"backlog_max": 5000.5}, 422, "backlog_max"),
        ("PATCH", "/limits", {"backlog_max": 10**30}, 422, "backlog_max"),
        ("PATCH", "/limits", {"rate_max": True}, 422, "rate_max"),
        ("PATCH", "/limits", {"rate": 5}, 422, "rate"),
        ("PATCH", "/limits", [], 422, None),
        ("POST", "/pause", {"reason": 5}, 422, "reason"),
        ("POST", "/pause", {"reason": "x" * 201}, 422, "reason"),
        ("POST", "/pause", {"paused": True}, 422, "paused"),
        ("POST", "/resume", {"reason": "x"}, 422, "reason"),
        ("PUT", "/limits", {}, 405, None),
    ],
)
async def test_what_is_no_limit_and_no_pause_is_refused_with_the_field(
    api: Api, method: str, what: str, body: Any, status: int, field: str | None
) -> None:
    found = await api.admin(method, f"/organisations/{await made(api)}{what}", body)
    assert (found[0], found[1].get("field")) == (status, field), found


async def test_there_is_nothing_of_an_organisation_that_is_none(api: Api) -> None:
    for method, what in (
        ("GET", ""),
        ("GET", "/limits"),
        ("PATCH", "/limits"),
        ("POST", "/pause"),
        ("POST", "/resume"),
    ):
        body = None if method == "GET" else {}
        for organisation in ("999999", "x"):
            assert (await api.admin(method, f"/organisations/{organisation}{what}", body))[0] == 404


async def test_a_429_names_the_limit_what_is_left_and_when_to_come_back(api: Api) -> None:
    refusal = TooMany(
        "rate_limited", "Too many.", "rate_max", quota=200.0, window_s=1, remaining=12.7, retry_after_s=2.1
    )
    for path, body in (("/v1/messages", DRAFT), ("/v1/messages/batch", {"messages": [DRAFT] * 3})):
        api.ingest.failure = refusal  # type: ignore[attr-defined]
        status, headers, reply = await api.ask("POST", path, body)
        assert (status, reply["code"], reply["detail"]) == (429, "rate_limited", "Too many.")
        assert headers["Content-Type"] == "application/problem+json"
        assert headers["Retry-After"] == "3"
        assert headers["RateLimit-Policy"] == '"rate_max";q=200;w=1'
        assert headers["RateLimit"] == '"rate_max";r=12;t=3'
    api.ingest.failure = TooMany(  # type: ignore[attr-defined]
        "backlog_full", "Full.", "backlog_max", quota=5000, window_s=0, remaining=0, retry_after_s=60.0
    )
    _, headers, _ = await api.ask("POST", "/v1/messages", DRAFT)
    assert (headers["RateLimit-Policy"], headers["RateLimit"]) == (
        '"backlog_max";q=5000',
        '"backlog_max";r=0;t=60',
    )
    api.ingest.failure = None  # type: ignore[attr-defined]
