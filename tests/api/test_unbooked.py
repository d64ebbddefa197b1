"""Usage that waits to be booked, over the admin API and the command line."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import asyncpg
import pytest

from engine.shards import shard_of
from supervisor.cli import run
from tests.api.world import ADMIN_KEY, DRAFT, Api

_SET_ASIDE = """
INSERT INTO unbooked (organisation_id, shard, position, kind, holder, held, captured, released)
VALUES ($1, $2, '1-0', 'usage', 'h', $3, $4, $5)"""


async def statement(api: Api, sql: str, *arguments: object) -> list[asyncpg.Record]:
    async with api.services.directory._pool.connection() as connection:  # type: ignore[attr-defined]
        return list(await connection.fetch(sql, *arguments))


async def set_aside(api: Api, organisation_id: int, held: int, captured: int, released: int) -> None:
    shards = api.services.directory._shards  # type: ignore[attr-defined]
    await statement(
        api, _SET_ASIDE, organisation_id, shard_of(organisation_id, shards), held, captured, released
    )


async def made(api: Api) -> dict[str, Any]:
    _, organisation = await api.admin("POST", "/organisations", {"name": "Initech"})
    return organisation  # type: ignore[no-any-return]


async def suspended(api: Api, organisation_id: int) -> bool:
    path = f"/organisations?after={organisation_id - 1}&limit=1"
    return (await api.admin("GET", path))[1]["organisations"][0]["suspended"]  # type: ignore[no-any-return]


async def test_an_organisation_with_unbooked_usage_sends_nothing_until_it_is_booked(api: Api) -> None:
    organisation = await made(api)
    id_ = organisation["id"]
    await set_aside(api, id_, 50, 30, 5)
    status, _, refused = await api.ask("POST", "/v1/messages", DRAFT, key=organisation["api_key"])
    assert (status, refused["code"]) == (403, "organisation_suspended")
    assert await suspended(api, id_)
    _, listed = await api.admin("GET", f"/unbooked?after={id_ - 1}")
    expected = {
        "organisation_id": id_, "name": "Initech", "entries": 1, "held": 50, "captured": 30, "released": 5,
        "available": 0, "missing": 45,
    }  # fmt: skip
    assert [u | {"since": ""} for u in listed["unbooked"]] == [expected | {"since": ""}]
    book = f"/unbooked/{id_}/book"
    status, refused = await api.admin("POST", book)
    assert (status, refused["code"], refused["field"]) == (409, "units_missing", "write_off")
    assert "45 units" in refused["detail"]
    await api.admin("POST", f"/organisations/{id_}/top-ups", {"units": 60, "reference": "lost"})
    booked = {
        "organisation_id": id_,
        "held": 50,
        "captured": 30,
        "released": 5,
        "written_off": 0,
        "missing": 0,
    }
    assert await api.admin("POST", book) == (200, booked)
    assert (await api.admin("POST", book))[0] == 404
    balance = {"posted": 30, "held": 15, "available": 15}
    assert await api.admin("GET", f"/organisations/{id_}/balance") == (200, balance)
    assert not await suspended(api, id_)


async def test_units_are_written_off_with_a_reason_and_a_missing_organisation_is_made_again(api: Api) -> None:
    gone = (await made(api))["id"] + 1000
    await set_aside(api, gone, 7, 7, 0)
    book = f"/unbooked/{gone}/book"
    status, refused = await api.admin("POST", book, {"write_off": "x"})
    assert (status, refused["code"], refused["field"]) == (409, "organisation_missing", "name")
    status, booked = await api.admin("POST", book, {"name": "Again", "write_off": "restored a backup"})
    assert (status, booked["written_off"]) == (200, 7)
    rows = await statement(api, "SELECT reference, units FROM top_ups WHERE organisation_id = $1", gone)
    assert [(r["units"], str(r["reference"]).split(": ")[1]) for r in rows] == [(7, "restored a backup")]
    sums = await statement(
        api, "SELECT movement, sum(units)::int FROM journal WHERE organisation_id = $1 GROUP BY 1", gone
    )
    assert dict(tuple(r) for r in sums) == {"top-up": 7, "grant": 7, "hold": 7, "capture": 7}


async def test_a_missing_organisation_is_made_again_first_so_that_its_top_up_can_be_put_back(
    api: Api,
) -> None:
    gone = (await made(api))["id"] + 1000
    await set_aside(api, gone, 7, 6, 0)
    book, top_up = f"/unbooked/{gone}/book", {"units": 10, "reference": "old"}
    assert (await api.admin("POST", f"/organisations/{gone}/top-ups", top_up))[0] == 404
    nothing = {"organisation_id": gone, "held": 0, "captured": 0, "released": 0, "written_off": 0}
    assert await api.admin("POST", book, {"name": "Again"}) == (200, nothing | {"missing": 7})
    assert await suspended(api, gone)
    # Asked again it says what is still to do.
    status, refused = await api.admin("POST", book, {"name": "Again"})
    assert (status, refused["code"]) == (409, "units_missing")
    assert (await api.admin("POST", f"/organisations/{gone}/top-ups", top_up))[0] in (200, 201)
    assert (await api.admin("POST", book))[1] == nothing | {"held": 7, "captured": 6, "missing": 0}
    assert not await suspended(api, gone)
    balance = {"posted": 4, "held": 1, "available": 3}
    assert await api.admin("GET", f"/organisations/{gone}/balance") == (200, balance)


async def test_two_bookings_at_once_book_once(api: Api) -> None:
    id_ = (await made(api))["id"]
    await api.admin("POST", f"/organisations/{id_}/top-ups", {"units": 60, "reference": "first"})
    await set_aside(api, id_, 10, 10, 0)
    found = await asyncio.gather(*[api.admin("POST", f"/unbooked/{id_}/book") for _ in range(8)])
    assert sorted(status for status, _ in found) == [200] + [404] * 7
    assert (await api.admin("GET", f"/organisations/{id_}/balance"))[1]["posted"] == 50


@pytest.mark.parametrize(
    "body", [{"write_off": ""}, {"write_off": "x" * 151}, {"write_off": 1}, {"name": "\n"}]
)
async def test_a_reason_and_a_name_have_their_bounds(api: Api, body: dict[str, Any]) -> None:
    id_ = (await made(api))["id"]
    await set_aside(api, id_, 1, 0, 0)
    status, refused = await api.admin("POST", f"/unbooked/{id_}/book", body)
    assert (status, refused["field"]) == (422, next(iter(body)))


async def test_the_command_lists_and_books(api: Api, capsys: pytest.CaptureFixture[str]) -> None:
    id_ = (await made(api))["id"]
    await set_aside(api, id_, 12, 9, 0)

    async def command(*words: str) -> tuple[int, str, str]:
        engine = ["--url", f"http://127.0.0.1:{api.port}", "--admin-key", ADMIN_KEY]
        code = await asyncio.to_thread(run, ["books", "repair", *words, *engine])
        return (code, *capsys.readouterr())

    code, listed, _ = await command("--json")
    assert code == 0
    assert [
        json.loads(x)["missing"] for x in listed.splitlines() if json.loads(x)["organisation_id"] == id_
    ] == [12]
    code, listed, _ = await command()
    assert (code, f"{id_}: put its lost top-up back" in listed) == (0, True)
    code, _, error = await command("--organisation", str(id_))
    assert (code, "lacks 12 units" in error) == (2, True)
    code, said, _ = await command("--organisation", str(id_), "--write-off", "restored")
    assert (code, said) == (
        0,
        f"The usage of organisation {id_} is booked: 9 units are charged, 12 of its units are written off;"
        " it can send again.\n",
    )
    gone = id_ + 1000
    await set_aside(api, gone, 3, 3, 0)
    code, listed, _ = await command()
    advice = (
        f"{gone}: it is missing, so make it again: smsengine books repair --organisation {gone} --name NAME"
    )
    assert (code, advice in listed.splitlines()) == (0, True)
    code, said, _ = await command("--organisation", str(gone), "--name", "Again")
    assert (code, said) == (
        0,
        f"Organisation {gone} is made again. It is suspended, because it lacks 3 units for its usage: put its"
        " lost top-ups back under their old references (smsengine org topup), then:"
        f" smsengine books repair --organisation {gone}\n",
    )
    code, _, error = await command("--write-off", "restored")
    assert (code, "--write-off needs --organisation" in error) == (2, True)
