"""Plans of capacity by an admin call: by a process of its own, one at a time, and never a change."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import msgspec
import pytest

from engine.admin_keys import Scope
from engine.boot import plans
from engine.boot.plans import PlanProcess
from engine.capacity import plan as plan_of
from engine.capacity.plan_answer import PlanAnswer
from engine.capacity.traffic import BusyMinute, BusyOrganisation, Traffic
from engine.capacity.wish import PlanRefused, PlanRequest, PlanWish, planned
from engine.config import Config
from engine.errors import Unavailable
from engine.stores.postgres.directory import Directory
from tests.api.world import Api, services_with, serving

WISH: dict[str, Any] = {
    "peaks": [{"organisation": "shop", "queue": "express", "messages_per_second": 5}],
    "response_times": "p50=80ms,p99=900ms",
    "targets": ["express p99 <= 2s"],
    "what_if": ["arrivals x2"],
}
MINUTE = BusyMinute(
    queue="normal",
    at_s=0,
    messages=600,
    segments=900,
    organisations=[BusyOrganisation(organisation_id=7, messages=300, burst=2)],
    response_ms={"p50": 50.0, "p95": 90.0, "p99": 200.0},
)


class Recorded:
    """The traffic that was recorded."""

    def __init__(self) -> None:
        self.busiest: list[BusyMinute] = []

    async def traffic(self, days: int) -> Traffic:
        return Traffic(days=days, busiest=self.busiest)


@pytest.fixture
def recorded() -> Recorded:
    return Recorded()


@pytest.fixture
async def planning(directory: Directory, recorded: Recorded, tmp_path: Path) -> Any:
    """An API whose plans are made as in the product."""
    process = PlanProcess(Config(data_dir=str(tmp_path)), recorded.traffic)
    async with serving(await services_with(directory, plan=process.plan)) as api:
        yield api


async def test_a_plan_is_that_of_the_command(planning: Api, recorded: Recorded) -> None:
    before = (await planning.admin("GET", "/changes?limit=1"))[1]["changes"]
    status, answer = await planning.admin("POST", "/plan", WISH)
    assert (status, answer["meets"], answer["reason"]) == (200, True, "")
    (queue,) = answer["queues"]
    assert (queue["queue"], queue["processes"], queue["targets"][0]["met"]) == ("express", 1, True)
    assert [one["name"] for one in answer["what_if"]] == ["arrivals x2"]
    assert "concurrency =" in answer["config"]
    assert (await planning.admin("GET", "/changes?limit=1"))[1]["changes"] == before


async def test_without_peaks_it_is_for_what_was_recorded(planning: Api, recorded: Recorded) -> None:
    recorded.busiest = [MINUTE]
    status, answer = await planning.admin("POST", "/plan", None)
    assert (status, [queue["queue"] for queue in answer["queues"]]) == (200, ["normal"])
    assert answer["queues"][0]["messages_per_second"] == 10.0


@pytest.mark.parametrize(
    ("field", "value"),
    [("targets", ["express p99 <= 2s"] * 17), ("what_if", ["arrivals x2"] * 9), ("days", 0),
     ("peaks", [{"organisation": "", "queue": "express", "messages_per_second": 5}]), ("throughput", 0),
     ("failures", 1), ("cores", 5_000), ("processes_max", 0), ("response_times", "p50=soon")],
)  # fmt: skip
async def test_a_wish_that_cannot_be_names_its_field(planning: Api, field: str, value: object) -> None:
    status, answer = await planning.admin("POST", "/plan", WISH | {field: value})
    assert (status, answer["code"], answer["field"]) == (422, "invalid_field", field)


@pytest.mark.parametrize(
    ("field", "value"),
    [("response_times", ""), ("response_times", "x"), ("targets", ["express p99 <= never"]),
     ("what_if", ["nothing"]), ("peaks", WISH["peaks"] * 2), ("peaks", [])],
)  # fmt: skip
def test_what_is_wrong_is_found_by_the_planner(
    monkeypatch: pytest.MonkeyPatch, field: str, value: object
) -> None:
    monkeypatch.setattr(plan_of, "_FINAL", (20_000, 80_000))
    monkeypatch.setattr(plan_of, "_COMPARED", (20_000, 80_000))
    wish = msgspec.convert(WISH | {field: value}, PlanWish)
    request = PlanRequest(wish=wish, busiest=[], costs=None, backoff_s={"express": 0.5, "normal": 1}, cores=2)
    refused = planned(request)
    assert isinstance(refused, PlanRefused)
    assert refused.field == field
    assert field in refused.detail


async def test_one_plan_is_made_at_a_time_and_a_reader_may_ask(directory: Directory) -> None:
    entered, goes_on = asyncio.Event(), asyncio.Event()

    async def plan(wish: PlanWish) -> PlanAnswer:
        entered.set()
        await goes_on.wait()
        raise Unavailable("done")

    async with serving(await services_with(directory, plan=plan)) as api:
        scopes: tuple[Scope, ...] = ("read",)
        reader = await api.behind_admin.admin_keys.create("planner", scopes, None)
        first = asyncio.create_task(api.ask("POST", "/v1/admin/plan", WISH, key=reader.admin_key))
        await entered.wait()
        status, answer = await api.admin("POST", "/plan", WISH)
        assert (status, answer["code"]) == (429, "plan_under_way")
        goes_on.set()
        assert (await first)[0] == 503
        assert (await api.admin("POST", "/plan", WISH))[0] == 503


async def test_a_plan_that_takes_too_long_or_fails_is_503_and_leaves_no_process(
    planning: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plans, "_COMMAND", ("false",))
    assert (await planning.admin("POST", "/plan", WISH))[0] == 503
    monkeypatch.setattr(plans, "_COMMAND", ("sleep", "600"))
    monkeypatch.setattr(plans, "PLAN_S", 0.05)
    status, answer = await planning.admin("POST", "/plan", WISH)
    assert (status, answer["code"]) == (503, "unavailable")
