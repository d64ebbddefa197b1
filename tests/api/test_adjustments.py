"""Adjustments: units given and taken with a reason, over the API, the command line and the audit."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from supervisor.cli import run
from tests.api.test_unbooked import statement
from tests.api.world import ADMIN_KEY, Api


async def made(api: Api, units: int = 100) -> dict[str, Any]:
    _, organisation = await api.admin("POST", "/organisations", {"name": "Adjusted"})
    await api.admin(
        "POST", f"/organisations/{organisation['id']}/top-ups", {"units": units, "reference": "first"}
    )
    return organisation  # type: ignore[no-any-return]


async def test_units_are_given_and_taken_once_for_each_reference_and_listed_with_the_reason(api: Api) -> None:
    organisation = await made(api)
    path = f"/organisations/{organisation['id']}/adjustments"
    taken = {"units": -30, "reference": "claim-1", "reason": "sent twice"}
    for status in (201, 200):
        assert (await api.admin("POST", path, taken))[0] == status
    given = {"units": 5, "reference": "gift", "reason": "an apology"}
    status, reply = await api.admin("POST", path, given)
    assert (status, reply["balance"]) == (201, {"posted": 75, "held": 0, "available": 75})
    _, _, page = await api.ask("GET", "/v1/balance/transactions", key=organisation["api_key"])
    shown = [(t["type"], t["units"], t["reference"], t["reason"]) for t in page["transactions"]]
    assert shown == [
        ("adjustment", 5, "gift", "an apology"),
        ("adjustment", -30, "claim-1", "sent twice"),
        ("top-up", 100, "first", None),
    ]
    _, changes = await api.admin("GET", f"/changes?organisation={organisation['id']}&path=/v1/admin{path}")
    assert [c["after"] and c["after"]["units"] for c in changes["changes"]] == [5, None, -30]


async def test_no_more_is_taken_than_lies_free(api: Api) -> None:
    organisation = await made(api)
    path = f"/organisations/{organisation['id']}/adjustments"
    await statement(
        api, "UPDATE accounts SET available = 60, granted = 40 WHERE organisation_id = $1", organisation["id"]
    )
    for units in (-61, -101):
        wanted = {"units": units, "reference": "all", "reason": "leaves us"}
        status, reply = await api.admin("POST", path, wanted)
        assert (status, reply["code"], reply["field"]) == (409, "units_missing", "units")
        assert "at most 60 units" in reply["detail"]
    assert (await api.admin("POST", path, wanted | {"units": -60}))[0] == 201
    for changed in ({"units": -59}, {"reason": "another"}):
        status, reply = await api.admin("POST", path, wanted | {"units": -60} | changed)
        assert (status, reply["code"]) == (409, "reference_reused")


async def test_two_that_take_at_once_never_take_what_is_not_there(api: Api) -> None:
    organisation = await made(api)
    path = f"/organisations/{organisation['id']}/adjustments"
    answers = await asyncio.gather(*(
        api.admin("POST", path, {"units": -40, "reference": f"r{n}", "reason": "at once"}) for n in range(5)
    ))  # fmt: skip
    assert sorted(status for status, _ in answers) == [201, 201, 409, 409, 409]
    _, balance = await api.admin("GET", f"/organisations/{organisation['id']}/balance")
    assert balance["available"] == 20


async def test_one_that_falls_below_the_threshold_is_an_event(api: Api) -> None:
    organisation = await made(api)
    id_ = organisation["id"]
    await api.admin("PATCH", f"/organisations/{id_}", {"low_balance": 50})
    for units, reference in ((-50, "to it"), (-1, "below"), (-1, "further")):
        wanted = {"units": units, "reference": reference, "reason": "r"}
        assert (await api.admin("POST", f"/organisations/{id_}/adjustments", wanted))[0] == 201
    rows = await statement(api, "SELECT units FROM balance_events WHERE organisation_id = $1", id_)
    assert [row["units"] for row in rows] == [49]


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"units": 0}, "units"),
        ({"units": 10**16}, "units"),
        ({"reason": " "}, "reason"),
        ({"reference": ""}, "reference"),
    ],
)
async def test_what_is_no_adjustment_is_refused(api: Api, change: dict[str, object], field: str) -> None:
    organisation = await made(api)
    wanted = {"units": 1, "reference": "r", "reason": "r"} | change
    status, reply = await api.admin("POST", f"/organisations/{organisation['id']}/adjustments", wanted)
    assert (status, reply["field"]) == (422, field)
    assert (await api.admin("POST", "/organisations/999999/adjustments", wanted | {"units": 1}))[0] in (
        404,
        422,
    )


async def test_the_command_gives_and_takes(api: Api, capsys: pytest.CaptureFixture[str]) -> None:
    organisation = await made(api)
    where = ["--url", f"http://127.0.0.1:{api.port}", "--admin-key", ADMIN_KEY, "--json"]

    def command(*words: str) -> int:
        return run(
            ["org", "adjust", str(organisation["id"]), *words, "--reason", "r", "--reference", "c", *where]
        )

    assert await asyncio.to_thread(command, "--take", "7") == 0
    assert json.loads(capsys.readouterr().out)["balance"]["available"] == 93
    assert await asyncio.to_thread(command) == 2
    assert "--give or --take" in capsys.readouterr().err
