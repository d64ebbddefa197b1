"""Each control asks once, does what it says, and says what happened, or why it did not."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import expect

from tests.console.browser.dead_letters import make_dead_letters
from tests.console.browser.traffic import send
from tests.console.browser.visitor import Visitor
from tests.system.client import Caller
from tests.system.conftest import Engine


@pytest.fixture(autouse=True)
def as_before(engine: Engine) -> Iterator[None]:
    """Whatever a test leaves paused or drained goes on."""
    yield
    admin = Caller(engine.admin_url, engine.admin_key)
    for path in ("queues/express", "queues/normal", "providers/simulated", "organisations/1"):
        admin.call("POST", f"/v1/admin/{path}/resume", {})


def status_of(engine: Engine) -> Any:
    return Caller(engine.admin_url, engine.admin_key).call("GET", "/v1/admin/status")[1]


def queue_of(visitor: Visitor, title: str) -> Any:
    return visitor.page.locator("section", has=visitor.page.get_by_role("heading", name=title))


def test_a_queue_is_paused_resumed_and_drained(visitor: Visitor, engine: Engine) -> None:
    visitor.open("queues")
    normal = queue_of(visitor, "Normal queue")
    visitor.press("Pause the normal queue")
    visitor.expect_accessible()
    visitor.agree("Pause", reason="a wrong text")
    visitor.expect_told("The normal queue is paused.")
    expect(normal.locator(".state").first).to_have_text("paused")
    expect(normal).to_contain_text("a wrong text")
    assert list(status_of(engine)["paused_queues"]) == ["normal"]
    visitor.press("Resume the normal queue")
    visitor.agree("Resume")
    visitor.expect_told("The normal queue goes on.")
    visitor.press("Drain the normal queue")
    visitor.agree("Drain")
    visitor.expect_told("The normal queue is drained")
    expect(normal.locator(".state").first).to_have_text("drained")
    assert list(status_of(engine)["drained_queues"]) == ["normal"]


def test_a_queue_is_scaled(visitor: Visitor, engine: Engine) -> None:
    visitor.open("queues")
    normal = queue_of(visitor, "Normal queue")
    expect(normal).to_contain_text("1 of 1 ready")
    visitor.press("Scale the normal queue")
    visitor.agree("Scale", processes="2")
    visitor.expect_told("has 2 workers of the normal queue")
    expect(normal).to_contain_text("2 of 2 ready")
    visitor.press("Scale the normal queue")
    visitor.agree("Scale", processes="", concurrency="")
    visitor.expect_told("as many workers as configured")
    expect(normal).to_contain_text("1 of 1 ready")


def test_what_is_refused_says_why_and_force_does_it(visitor: Visitor, engine: Engine) -> None:
    visitor.open("nodes")
    drain = visitor.page.get_by_role("button", name=re.compile("Drain node"))
    drain.click()
    visitor.provoked.add(409)
    visitor.agree("Drain", reason="a new disk")
    dialog = visitor.page.get_by_role("dialog")
    expect(dialog.get_by_role("alert")).to_contain_text("node")
    dialog.get_by_label("Also when no other node does what this one does").check()
    visitor.agree("Drain")
    visitor.expect_told("takes nothing new")
    resume = visitor.page.get_by_role("button", name=re.compile("Resume node"))
    expect(resume).to_be_visible()
    resume.click()
    visitor.agree("Resume")
    visitor.expect_told("works again")
    expect(visitor.page.locator("p.small .state", has_text="running")).to_be_visible()


def test_a_provider_is_paused_resumed_and_slowed_down(visitor: Visitor) -> None:
    visitor.open("providers")
    row = visitor.page.get_by_role("row", name="simulated").first
    visitor.press("Pause simulated")
    visitor.agree("Pause", reason="no receipts")
    visitor.expect_told("Provider simulated is paused")
    expect(row).to_contain_text("paused: no receipts")
    visitor.press("Resume simulated")
    visitor.agree("Resume")
    visitor.expect_told("sent through again")
    visitor.press("Throughput of simulated")
    visitor.agree("Set", throughput="50")
    visitor.expect_told("50 segments a second")
    expect(row).to_contain_text("50/s")
    visitor.press("Throughput of simulated")
    visitor.agree("Set", throughput="")
    visitor.expect_told("without a limit")


def test_an_organisation_is_paused_limited_and_paid_for(visitor: Visitor) -> None:
    visitor.open("organisation?id=1")
    visitor.press("Pause")
    visitor.agree("Pause", reason="asked by phone")
    visitor.expect_told("demo is paused")
    expect(visitor.page.locator(".facts").first).to_contain_text("asked by phone")
    visitor.press("Resume")
    visitor.agree("Resume")
    visitor.expect_told("demo goes on")
    visitor.press("Change limits")
    visitor.agree("Set", weight="2.5", rate_max="900")
    visitor.expect_told("The limits are set.")
    expect(visitor.page.locator("section", has_text="Limits").first).to_contain_text("900/s")
    visitor.press("Top up")
    visitor.agree("Top up", units="500", reference="invoice-7")
    visitor.expect_told("500 units added")
    visitor.press("Adjust")
    visitor.agree("Adjust", units="-20", reference="claim-7", reason="sent twice")
    visitor.expect_told("Adjusted by -20 units")
    visitor.press("Top up")
    visitor.provoked.add(409)
    visitor.agree("Top up", units="501", reference="invoice-7")
    expect(visitor.page.get_by_role("dialog").get_by_role("alert")).to_contain_text("reference")


def test_a_balance_beyond_what_a_number_of_the_browser_holds_is_shown_to_the_unit(
    visitor: Visitor, engine: Engine
) -> None:
    admin = Caller(engine.admin_url, engine.admin_key)
    status, made = admin.call("POST", "/v1/admin/organisations", {"name": "Rich"})
    assert status == 201, made
    for number, units in enumerate([10**15] * 10 + [1]):
        path = f"/v1/admin/organisations/{made['id']}/top-ups"
        status, paid = admin.call("POST", path, {"units": units, "reference": f"rich-{number}"})
        assert status == 201, paid
    visitor.open(f"organisation?id={made['id']}")
    credit = visitor.page.locator(".facts", has_text="Available")
    expect(credit).to_contain_text("10,000,000,000,000,001 units")
    visitor.open("changes")
    expect(visitor.page.locator("tbody")).to_contain_text("10000000000000001")


def test_a_delivery_that_failed_is_replayed(visitor: Visitor, engine: Engine) -> None:
    # Nobody listens there.
    address = "http://127.0.0.1:9/"
    caller = Caller(engine.url, engine.api_key)
    status, made = caller.call("POST", "/v1/webhook-endpoints", {"url": address})
    assert status == 201, made
    visitor.open("webhooks?organisation=1")
    replay = visitor.page.get_by_role("button", name=re.compile("Replay delivery")).first
    for _ in range(60):
        if replay.count():
            break
        # An endpoint is known to the notifier a while after it was made.
        send(engine, [{"to": "+989121230009", "text": "Hello"}])
        visitor.page.wait_for_timeout(500)
        visitor.press("Load again")
        visitor.settle()
    replay.click()
    visitor.agree("Replay")
    visitor.expect_told("is made again")
    visitor.press(f"Test endpoint {made['id']}")
    visitor.expect_told("is on its way")
    visitor.press("Replay all that failed since …")
    visitor.agree("Replay", since="2026-01-01T00:00")
    visitor.expect_told("deliveries are made again")
    caller.call("DELETE", f"/v1/webhook-endpoints/{made['id']}")


def test_dead_letters_are_replayed_and_dropped(visitor: Visitor, engine: Engine) -> None:
    make_dead_letters(engine, ["+989129990001", "+989129990002"])
    visitor.open("")
    link = visitor.page.get_by_role("link", name="2 dead letters of the normal queue.")
    link.click()
    visitor.settle()
    visitor.expect_accessible()
    visitor.page.get_by_role("button", name=re.compile("^Replay ")).first.click()
    visitor.agree("Replay")
    visitor.expect_told("is in the normal queue again")
    rows = visitor.page.locator("tbody tr")
    expect(rows).to_have_count(1)
    visitor.page.get_by_role("button", name=re.compile("^Drop ")).first.click()
    visitor.agree("Drop")
    visitor.expect_told("is given up; 1 unit are released")
    expect(visitor.page.get_by_text("There are no dead letters.")).to_be_visible()
