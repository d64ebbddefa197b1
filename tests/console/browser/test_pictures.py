"""The pictures of docs/console.md, made anew with `make console PICTURES=1`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, expect

from tests.console.browser.traffic import Traffic, send_known_messages
from tests.console.browser.visitor import PHONE, WIDE, Visitor
from tests.system.client import Caller, eventually
from tests.system.conftest import Engine

# So long is looked at the live page before its picture is taken, so that its charts have something, ms.
WATCHED_MS = 100_000
BYTES_MAX = 150_000


@pytest.fixture(autouse=True)
def small(pictures: Path | None) -> Any:
    """Pictures are only made when they are asked for, and are small."""
    if pictures is None:
        pytest.skip("no pictures are asked for: make console PICTURES=1")
    yield
    large = [picture.name for picture in pictures.glob("*.png") if picture.stat().st_size > BYTES_MAX]
    assert not large


def test_the_live_page(browser: Browser, engine: Engine, traffic: Traffic, pictures: Path) -> None:
    themes: list[Any] = ["light", "dark"]
    with (
        Visitor(browser, engine, WIDE, themes[0]) as light,
        Visitor(browser, engine, WIDE, themes[1]) as dark,
        Visitor(browser, engine, PHONE, themes[0]) as phone,
    ):
        for visitor in (light, dark, phone):
            visitor.log_in(engine.admin_key)
        light.page.wait_for_timeout(WATCHED_MS)
        for visitor, name in ((light, "live"), (dark, "live-dark"), (phone, "phone")):
            expect(visitor.page.locator(".connection")).to_have_text("live")
            visitor.picture(pictures / f"{name}.png", height=940 if name == "phone" else 800)


def test_the_history_of_a_message(visitor: Visitor, engine: Engine, pictures: Path) -> None:
    (message_id, *_) = send_known_messages(engine)
    caller = Caller(engine.url, engine.api_key)
    eventually(lambda: caller.call("GET", f"/v1/messages/{message_id}")[1].get("status") == "sent")
    visitor.open(f"message?id={message_id}&organisation=1")
    visitor.picture(pictures / "message.png", height=560)
