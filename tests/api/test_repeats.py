"""A POST that is repeated with its Idempotency-Key gets its first answer, and is carried out once."""

from __future__ import annotations

import uuid

from tests.api.world import ADMIN_KEY, Api

PAUSE = "/v1/admin/providers/first/pause"
RESUME = "/v1/admin/providers/first/resume"


async def test_a_repeated_admin_call_gets_its_first_answer(api: Api) -> None:
    key = {"Idempotency_Key": f"pause {uuid.uuid4()}"}
    first = await api.ask("POST", PAUSE, key=ADMIN_KEY, **key)
    assert (first[0], first[2]["paused"]) == (200, True)
    assert "Idempotent-Replayed" not in first[1]
    await api.ask("POST", RESUME, key=ADMIN_KEY)
    again = await api.ask("POST", PAUSE, key=ADMIN_KEY, **key)
    assert (again[0], again[2], again[1]["Idempotent-Replayed"]) == (200, first[2], "true")
    # It was not paused a second time.
    status, _, shown = await api.ask("GET", "/v1/admin/providers/first", key=ADMIN_KEY)
    assert (status, shown["paused"]) == (200, False)


async def test_a_key_is_good_for_one_request(api: Api) -> None:
    key = {"Idempotency_Key": f"pause {uuid.uuid4()}"}
    assert (await api.ask("POST", RESUME, key=ADMIN_KEY, **key))[0] == 200
    status, _, problem = await api.ask("POST", PAUSE, key=ADMIN_KEY, **key)
    assert (status, problem["code"]) == (409, "idempotency_key_reused")
    # An organisation's keys are its own.
    path = f"/v1/messages/{uuid.uuid4()}/cancel"
    assert (await api.ask("POST", path, **key))[0] == 404


async def test_a_refusal_is_not_kept(api: Api) -> None:
    key = {"Idempotency_Key": f"wrong {uuid.uuid4()}"}
    for _ in range(2):
        status, headers, problem = await api.ask("POST", PAUSE, {"x": 1}, key=ADMIN_KEY, **key)
        assert (status, problem["code"]) == (422, "invalid_field")
        assert "Idempotent-Replayed" not in headers


async def test_an_answer_with_a_secret_is_given_once(api: Api) -> None:
    key = {"Idempotency_Key": f"new {uuid.uuid4()}"}
    first = await api.ask("POST", "/v1/admin/organisations", {"name": "once"}, key=ADMIN_KEY, **key)
    assert (first[0], first[2]["api_key"][:5]) == (201, "smse_")
    status, _, problem = await api.ask(
        "POST", "/v1/admin/organisations", {"name": "once"}, key=ADMIN_KEY, **key
    )
    assert (status, problem["code"]) == (409, "idempotency_key_used")
