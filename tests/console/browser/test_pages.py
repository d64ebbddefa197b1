"""Each page opens in both themes, at the widths of a desk and of a phone, without an error or a barrier."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Route, expect

from tests.console.browser.traffic import HOSTILE, Traffic
from tests.console.browser.visitor import PHONE, WIDE, Visitor
from tests.system.client import Caller
from tests.system.conftest import Engine

ADMIN_PAGES = (
    "", "queues", "nodes", "providers", "organisations", "organisation?id=1", "messages?organisation=1",
    "dead-letters", "webhooks?organisation=1", "reports", "plan", "changes",
)  # fmt: skip
OWN_PAGES = ("", "balance", "reports", "webhooks")


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [WIDE, PHONE])
def test_each_page_of_operators_opens(
    browser: Browser, engine: Engine, traffic: Traffic, pictures: Path | None, width: int, theme: Any
) -> None:
    with Visitor(browser, engine, width, theme) as visitor:
        visitor.page.goto(f"{engine.admin_url}/console/")
        expect(visitor.page.get_by_label("Key")).to_be_visible()
        visitor.expect_accessible()
        visitor.log_in(engine.admin_key)
        for path in ADMIN_PAGES:
            visitor.open(path)
            expect(visitor.page.locator(".notice.bad")).to_have_count(0)
            visitor.expect_fits()
            visitor.expect_accessible()
        visitor.check_console()


@pytest.mark.parametrize(("width", "theme"), [(WIDE, "dark"), (PHONE, "light")])
def test_each_page_of_an_organisation_opens_and_nothing_else(
    browser: Browser, engine: Engine, traffic: Traffic, width: int, theme: Any
) -> None:
    with Visitor(browser, engine, width, theme) as visitor:
        visitor.log_in(engine.api_key)
        # It has no live page, so there is no connection to speak of.
        expect(visitor.page.locator(".connection")).to_be_hidden()
        names = visitor.page.locator("#menu a").all_inner_texts()
        assert [name.strip() for name in names] == ["Messages", "Balance", "Reports", "Webhooks"]
        for path in OWN_PAGES:
            visitor.open(path)
            expect(visitor.page.locator(".notice.bad")).to_have_count(0)
            visitor.expect_fits()
            visitor.expect_accessible()
        visitor.open("queues")
        expect(visitor.page.locator("h1")).to_have_text("No such page")
        visitor.check_console()


def test_the_live_page_has_the_rates_of_the_traffic(
    visitor: Visitor, traffic: Traffic, pictures: Path | None
) -> None:
    visitor.open("")
    express = visitor.page.locator("section.queue", has_text="Express queue")
    expect(express.locator("dd").nth(1)).not_to_have_text("0/s")
    expect(express.locator("dd").nth(7)).to_contain_text("s")
    expect(express.locator("dd").last).to_have_text("p99 ≤ 2.0 s")
    expect(express.get_by_role("img", name="Throughput")).to_be_visible()
    expect(express.locator("canvas")).to_have_count(2)
    expect(visitor.page.locator(".connection")).to_have_text("live")
    expect(visitor.page.get_by_role("row", name="simulated")).to_be_visible()


def test_a_theme_that_is_chosen_stays(visitor: Visitor) -> None:
    root = visitor.page.locator("html")
    expect(root).to_have_attribute("data-theme", "light")
    visitor.page.get_by_label("Theme").select_option("dark")
    expect(root).to_have_attribute("data-theme", "dark")
    visitor.open("queues")
    expect(root).to_have_attribute("data-theme", "dark")


def test_a_long_name_leaves_room_for_what_else_is_said_of_an_organisation(
    browser: Browser, engine: Engine
) -> None:
    name = "An organisation with a name that is as long as those of registers of companies GmbH & Co. KG"
    admin = Caller(engine.admin_url, engine.admin_key)
    assert admin.call("POST", "/v1/admin/organisations", {"name": name})[0] == 201
    for width, last in ((WIDE, "Since"), (PHONE, "State")):
        with Visitor(browser, engine, width) as visitor:
            visitor.log_in(engine.admin_key)
            visitor.open("organisations")
            expect(visitor.page.get_by_role("link", name=name)).to_be_visible()
            place = visitor.page.get_by_role("columnheader", name=last).bounding_box()
            assert place is not None
            assert place["x"] + place["width"] <= width + 16


def test_a_number_is_not_broken_beside_a_long_name(visitor: Visitor) -> None:
    visitor.open("queues")
    names = visitor.page.evaluate("""() => [...document.querySelectorAll(".facts dd")].filter((one) => {
        one.textContent = "1,234,567";
        const text = document.createRange();
        text.selectNodeContents(one);
        return text.getClientRects().length > 1;
    }).map((one) => one.previousElementSibling.textContent)""")
    assert names == []


def test_names_with_markup_are_shown_as_text(visitor: Visitor, engine: Engine) -> None:
    status, made = Caller(engine.admin_url, engine.admin_key).call(
        "POST", "/v1/admin/organisations", {"name": HOSTILE}
    )
    assert status == 201
    visitor.open("organisations")
    expect(visitor.page.get_by_role("link", name=HOSTILE)).to_be_visible()
    visitor.open(f"organisation?id={made['id']}")
    expect(visitor.page.locator("h1")).to_have_text(HOSTILE)
    visitor.open("changes")
    expect(visitor.page.locator("tbody").get_by_text(HOSTILE).first).to_be_visible()
    expect(visitor.page.locator("main img")).to_have_count(0)


def test_messages_are_found_and_one_has_its_history(visitor: Visitor, engine: Engine) -> None:
    visitor.open("messages?organisation=1")
    visitor.page.get_by_label("Reference").fill("known-1")
    row = visitor.page.get_by_role("row", name="+989121230001")
    # What was just accepted is archived a second or so later.
    expect(async_search(visitor, row)).to_be_visible()
    row.get_by_role("link").click()
    expect(visitor.page.locator("h1")).to_have_text("Message")
    history = visitor.page.locator(".timeline")
    expect(history).to_contain_text("accepted")
    expect(history).to_contain_text("sent: a provider took it")
    expect(history).to_contain_text("provider simulated")


def async_search(visitor: Visitor, row: Any) -> Any:
    """Search until the row is there."""
    for _ in range(30):
        visitor.press("Search")
        visitor.settle()
        if row.count():
            break
        visitor.page.wait_for_timeout(500)
    return row


def test_a_plan_is_made_of_peaks_and_answers_what_if(visitor: Visitor) -> None:
    visitor.open("plan")
    visitor.page.get_by_label("Peaks").fill("bank,express,180,5")
    visitor.page.get_by_label("Response times").fill("p50=80ms,p90=150ms,p99=900ms")
    visitor.page.get_by_label("Targets").fill("express p99 <= 2s")
    visitor.page.get_by_label("What if").fill("provider p50=2s")
    visitor.press("Make a plan")
    expect(visitor.page.locator(".notice.good")).to_have_text("This plan meets the targets.")
    expect(visitor.page.get_by_role("row", name="provider p50=2s")).to_be_visible()
    expect(visitor.page.locator("pre")).to_contain_text("[queues.express]")
    visitor.settle()
    visitor.expect_accessible()


def test_a_report_has_a_chart_a_table_and_files(visitor: Visitor) -> None:
    visitor.open("reports?organisation=1&first=hour&second=queue")
    expect(visitor.page.locator("figure canvas")).to_be_visible()
    expect(visitor.page.get_by_role("columnheader", name="Delivery rate")).to_be_visible()
    expect(visitor.page.get_by_role("cell", name="express").first).to_be_visible()
    with visitor.page.expect_download() as download:
        visitor.page.get_by_role("link", name="CSV").click()
    assert "known-1" in download.value.path().read_text()
    visitor.page.get_by_label("From").fill("2026-01-02T00:00")
    visitor.page.get_by_label("Until").fill("2026-01-01T00:00")
    visitor.provoked.add(422)
    visitor.press("Show report")
    expect(visitor.page.get_by_role("alert")).to_contain_text("`from_time` must be before `until_time`.")


@pytest.mark.parametrize(("page", "name"), [("reports", "from"), ("messages", "since")])
def test_a_time_in_an_address_that_is_none_is_told_in_a_sentence(
    visitor: Visitor, page: str, name: str
) -> None:
    visitor.provoked.add(422)
    visitor.open(f"{page}?organisation=1&{name}=yesterday")
    expect(visitor.page.get_by_role("alert")).to_contain_text("must be a time with its time zone")


def test_a_report_of_many_groups_has_the_totals_of_all(visitor: Visitor) -> None:
    def many(route: Route) -> None:
        report = route.fetch().json()
        row = {**report["rows"][0], "messages": 2}
        route.fulfill(json={**report, "rows": [{**row, "reference": f"r{n}"} for n in range(1_001)]})

    visitor.page.route("**/reports/summary*", many)
    visitor.open("reports?organisation=1&first=reference")
    expect(visitor.page.locator(".facts").first).to_contain_text("2,002")
    expect(visitor.page.locator(".notice")).to_contain_text("These are the first 1,000, and there are 1,001")
    expect(visitor.page.locator("tbody tr")).to_have_count(1_000)
