"""What organisations answer to STOP, START and HELP, for themselves and for operators."""

from __future__ import annotations

from typing import Any

import pytest

from tests.api.world import Api

OWN = "/v1/auto-replies"


async def test_an_organisation_keeps_its_replies_and_operators_see_the_same(api: Api) -> None:
    made = (await api.admin("POST", "/organisations", {"name": "replying"}))[1]
    of_it = f"/organisations/{made['id']}/auto-replies"

    async def ask(method: str, path: str, body: object = None) -> tuple[int, Any]:
        status, _, reply = await api.ask(method, path, body, key=made["api_key"])
        return status, reply

    assert await ask("GET", OWN) == (200, {"auto_replies": []})
    stop = {"action": "stop", "number": "14155550123", "language": "", "text": "Goodbye"}
    for _ in range(2):
        assert await ask("PUT", OWN, stop | {"number": "+14155550123"}) == (200, stop)
    other = {"action": "help", "number": "", "language": "de", "text": ""}
    assert await api.admin("PUT", of_it, {"action": "help", "language": "de", "text": ""}) == (200, other)
    assert await ask("GET", OWN) == (200, {"auto_replies": [other, stop]})
    assert await api.admin("GET", of_it) == (200, {"auto_replies": [other, stop]})
    assert (await api.ask("GET", OWN))[2] == {"auto_replies": []}, (
        "another organisation has replies of its own"
    )
    for _ in range(2):
        assert (await ask("POST", f"{OWN}/remove", {"action": "stop", "number": "14155550123"}))[0] == 204
    assert (await api.admin("POST", f"{of_it}/remove", {"action": "help", "language": "de"}))[0] == 204
    assert await ask("GET", OWN) == (200, {"auto_replies": []})
    assert (await api.admin("GET", "/organisations/1000000000000/auto-replies"))[0] == 404


@pytest.mark.parametrize(
    ("changes", "status", "field"),
    [
        ({"text": "Help!"}, 422, "text"),
        ({"text": "\0"}, 422, "text"),
        ({"text": "x" * 1601}, 422, "text"),
        ({"text": "\u0633" * 300}, 422, "text"),
        ({"text": 5}, 422, "text"),
        ({"action": "cancel"}, 422, "action"),
        ({"number": "ACME"}, 422, "number"),
        ({"number": "1"}, 422, "number"),
        ({"language": "DE"}, 422, "language"),
        ({"language": "german"}, 422, "language"),
        ({"organisation_id": 1}, 422, "organisation_id"),
    ],
)
async def test_what_is_no_reply_is_refused(
    api: Api, changes: dict[str, Any], status: int, field: str
) -> None:
    found = await api.ask("PUT", OWN, {"action": "stop", "text": "Goodbye"} | changes)
    assert (found[0], found[2]["field"]) == (status, field)
