"""The opt-outs of an organisation, for itself and for operators."""

from __future__ import annotations

from typing import Any

import pytest

from engine.api.opt_outs import NUMBERS_MAX
from engine.errors import Unavailable
from engine.stores.postgres.opt_outs import PART, OptOutBook
from engine.stores.postgres.pool import Pool
from tests.api.world import ADMIN_KEY, Api

TO = "+4915112345678"


async def test_an_organisation_keeps_its_list_and_operators_see_the_same(api: Api) -> None:
    made = (await api.admin("POST", "/organisations", {"name": "listing"}))[1]
    own, of_it = "/v1/opt-outs", f"/organisations/{made['id']}/opt-outs"

    async def ask(method: str, path: str, body: object = None) -> tuple[int, Any]:
        status, _, reply = await api.ask(method, path, body, key=made["api_key"])
        return status, reply

    assert await ask("GET", own) == (200, {"opt_outs": [], "next": None})
    numbers = [TO, "0049 151 1234-5679", "+4915112345670", TO]
    assert await ask("POST", own, {"numbers": numbers}) == (200, {"added": 3})
    assert await ask("POST", own, {"numbers": numbers}) == (200, {"added": 0})
    assert await api.admin("POST", of_it, {"numbers": ["+4915112345671"]}) == (200, {"added": 1})
    status, page = await ask("GET", f"{own}?limit=3")
    assert (status, [(o["number"][-1], o["source"]) for o in page["opt_outs"]]) == (
        200,
        [("0", "api"), ("1", "admin"), ("8", "api")],
    )
    status, rest = await api.admin("GET", f"{of_it}?limit=3&cursor={page['next']}")
    assert ([o["number"] for o in rest["opt_outs"]], rest["next"]) == (["+4915112345679"], None)
    assert (await ask("GET", f"{own}/{TO}"))[1]["number"] == TO
    assert (await ask("GET", f"{own}/0049 151 12345678"))[0] == 200
    assert await api.admin("POST", f"{of_it}/remove", {"numbers": [TO]}) == (200, {"removed": 1})
    assert await ask("POST", f"{own}/remove", {"numbers": [TO]}) == (200, {"removed": 0})
    assert (await ask("GET", f"{own}/{TO}"))[0] == 404
    assert len((await ask("GET", own))[1]["opt_outs"]) == 3
    assert (await api.ask("GET", own))[2]["opt_outs"] == [], "another organisation has a list of its own"


@pytest.mark.parametrize(
    ("body", "status", "field"),
    [
        ({"numbers": []}, 422, "numbers"),
        ({"numbers": TO}, 422, "numbers"),
        ({"numbers": [TO, 5]}, 422, "numbers"),
        ({"numbers": [TO, "0151"]}, 422, "numbers[1]"),
        ({"number": TO}, 422, "number"),
        ({"numbers": [TO] * (NUMBERS_MAX + 1)}, 413, "numbers"),
        (b"{", 400, None),
    ],
)
async def test_what_is_no_list_of_numbers_is_refused_as_a_whole(
    api: Api, body: Any, status: int, field: str | None
) -> None:
    for path in ("/v1/opt-outs", "/v1/opt-outs/remove"):
        found = await api.ask("POST", path, body)
        assert (found[0], found[2].get("field")) == (status, field), found
    assert (await api.ask("GET", "/v1/opt-outs"))[2]["opt_outs"] == []


async def test_a_list_is_read_and_changed_by_keys_that_are_good_for_it(api: Api) -> None:
    made = (await api.admin("POST", "/organisations", {"name": "scoped"}))[1]
    keys = {}
    for scope in ("read", "send"):
        made_key = await api.admin("POST", f"/organisations/{made['id']}/keys", {"scopes": [scope]})
        keys[scope] = made_key[1]["api_key"]
    for scope, reads, changes in (("read", 200, 403), ("send", 403, 200)):
        assert (await api.ask("GET", "/v1/opt-outs", key=keys[scope]))[0] == reads
        assert (await api.ask("GET", f"/v1/opt-outs/{TO}", key=keys[scope]))[0] == (
            404 if reads == 200 else 403
        )
        added = await api.ask("POST", "/v1/opt-outs", {"numbers": [TO]}, key=keys[scope])
        assert added[0] == changes
        await api.ask("POST", "/v1/opt-outs/remove", {"numbers": [TO]}, key=keys["send"])
    for path in ("/v1/admin/organisations/999999/opt-outs", "/v1/admin/organisations/x/opt-outs"):
        assert (await api.ask("GET", path, key=ADMIN_KEY))[0] == 404
        assert (await api.ask("POST", path, {"numbers": [TO]}, key=ADMIN_KEY))[0] == 404
    assert (await api.ask("GET", "/v1/opt-outs/0151"))[2]["field"] == "number"


async def test_a_long_list_is_added_in_parts_and_what_was_added_stays_when_the_rest_is_late(
    api: Api, directory_url: str
) -> None:
    made = (await api.admin("POST", "/organisations", {"name": "long list"}))[1]
    numbers = [f"+49151{n:08}" for n in range(2 * PART + 500)]
    pool = await Pool.connect(directory_url, timeout_s=3.0)
    holder = await Pool.connect(directory_url, timeout_s=60.0)
    book = OptOutBook(pool)
    # One of the second part is there, taken back, and locked by somebody.
    held = numbers[PART + 1]
    await book.add(made["id"], [held], "admin")
    await book.remove(made["id"], [held], "admin")
    try:
        async with holder.transaction() as connection:
            await connection.execute("SELECT 1 FROM opt_outs WHERE number = $1 FOR UPDATE", int(held[1:]))
            with pytest.raises(Unavailable):
                await book.add(made["id"], numbers, "admin")
        first = await book.listed(made["id"], 0, len(numbers))
        assert [one.number for one in first] == numbers[:PART]
        assert await book.add(made["id"], numbers, "admin") == len(numbers) - PART
        assert await book.remove(made["id"], numbers, "admin") == len(numbers)
    finally:
        await pool.close()
        await holder.close()
