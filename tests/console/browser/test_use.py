"""Logging in, losing the connection, and working with the keyboard alone."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, expect

from tests.console.browser.visitor import PHONE, Visitor
from tests.system.client import Caller
from tests.system.conftest import Engine


def test_a_wrong_key_is_refused_with_a_sentence(browser: Browser, engine: Engine) -> None:
    with Visitor(browser, engine) as visitor:
        visitor.page.goto(f"{engine.admin_url}/console/")
        visitor.page.get_by_label("Key").fill("smsa_wrong")
        visitor.press("Log in")
        expect(visitor.page.get_by_role("alert")).to_contain_text("`key` must be")
        visitor.check_console()


def test_whoever_logs_out_is_asked_for_a_key(visitor: Visitor) -> None:
    visitor.press("Log out")
    expect(visitor.page.get_by_text("You are logged out.")).to_be_visible()
    visitor.page.reload()
    expect(visitor.page.get_by_label("Key")).to_be_visible()


def test_a_key_that_may_only_read_gets_no_controls(browser: Browser, engine: Engine) -> None:
    admin = Caller(engine.admin_url, engine.admin_key)
    status, made = admin.call("POST", "/v1/admin/admin-keys", {"name": "reader", "scopes": ["read"]})
    assert status == 201, made
    with Visitor(browser, engine) as visitor:
        visitor.log_in(made["admin_key"])
        for path in ("queues", "nodes", "providers", "organisation?id=1"):
            visitor.open(path)
            expect(visitor.page.locator("main button.danger")).to_have_count(0)
        visitor.check_console()


def admin_process(engine: Engine) -> int:
    status: Any = Caller(engine.admin_url, engine.admin_key).call("GET", "/v1/admin/status")[1]
    return next(one["pid"] for one in status["nodes"][0]["processes"] if one["role"] == "admin")


def test_a_lost_connection_is_said_and_comes_back(visitor: Visitor, engine: Engine) -> None:
    visitor.open("")
    expect(visitor.page.locator(".connection")).to_have_text("live")
    frozen = admin_process(engine)
    # What the browser writes of the cut connection is what is provoked.
    visitor.page.remove_listener("console", visitor._note)
    os.kill(frozen, signal.SIGKILL)
    expect(visitor.page.locator(".connection")).to_have_text("disconnected")
    expect(visitor.page.get_by_text("The connection to the engine is lost")).not_to_have_count(0)
    expect(visitor.page.locator(".connection")).to_have_text("live")
    expect(visitor.page.locator("#lost")).to_be_empty()


def test_everything_is_done_with_the_keyboard(visitor: Visitor) -> None:
    visitor.open("queues")
    keyboard, focused = visitor.page.keyboard, visitor.page.locator(":focus")
    expect(visitor.page.get_by_role("button", name="Pause the express queue")).to_be_visible()
    keyboard.press("Tab")
    expect(focused).to_have_text("Skip to the content")
    keyboard.press("Enter")
    expect(focused).to_have_id("main")
    keyboard.press("Tab")
    expect(focused).to_have_accessible_name("Pause the express queue")
    keyboard.press("Enter")
    expect(visitor.page.get_by_role("dialog")).to_be_visible()
    expect(focused).to_have_attribute("name", "reason")
    keyboard.press("Escape")
    expect(visitor.page.get_by_role("dialog")).to_have_count(0)
    expect(focused).to_have_accessible_name("Pause the express queue")
    outline = focused.evaluate("one => getComputedStyle(one).outlineStyle")
    assert outline == "solid"


def test_the_menu_of_a_phone_opens_and_closes(
    browser: Browser, engine: Engine, pictures: Path | None
) -> None:
    with Visitor(browser, engine, PHONE) as visitor:
        visitor.log_in(engine.admin_key)
        menu = visitor.page.locator("#menu")
        expect(menu).to_be_hidden()
        visitor.press("Menu")
        expect(menu).to_be_visible()
        visitor.expect_accessible()
        menu.get_by_role("link", name="Queues").click()
        expect(visitor.page.locator("h1")).to_have_text("Queues")
        expect(menu).to_be_hidden()
        visitor.check_console()


def test_without_an_endpoint_nothing_is_said_to_be_delivered_but_how_to_make_one(
    browser: Browser, engine: Engine
) -> None:
    admin = Caller(engine.admin_url, engine.admin_key)
    made = admin.call("POST", "/v1/admin/organisations", {"name": "Told nothing"})[1]
    for key, path, how in (
        (engine.admin_key, f"?organisation={made['id']}", f"run smsengine webhook add {made['id']} https"),
        (made["api_key"], "", "call POST /v1/webhook-endpoints"),
    ):
        with Visitor(browser, engine) as visitor:
            visitor.log_in(key)
            visitor.open(f"webhooks{path}")
            page = visitor.page.locator(".page")
            expect(page).to_contain_text("No endpoint yet, so there is nothing to deliver.")
            expect(page).to_contain_text(f"No endpoint yet. To make one, {how}")
            expect(page).not_to_contain_text("delivered")
            visitor.expect_fits()
            visitor.check_console()
    Caller(engine.url, made["api_key"]).call("POST", "/v1/webhook-endpoints", {"url": "http://127.0.0.1:9/"})
    with Visitor(browser, engine) as visitor:
        visitor.log_in(made["api_key"])
        for state, words in (
            ("any", "Nothing waits, and nothing has failed."),
            ("failed", "Nothing has failed."),
        ):
            visitor.open(f"webhooks?state={state}")
            expect(visitor.page.get_by_text(words, exact=True)).to_be_visible()
            expect(visitor.page.locator("p:visible", has_text="No endpoint yet")).to_have_count(0)
        visitor.check_console()
