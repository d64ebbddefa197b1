"""Somebody who uses the console in a browser."""

from __future__ import annotations

import re
from pathlib import Path
from types import TracebackType
from typing import Any

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, ConsoleMessage, Locator, expect

from tests.system.conftest import Engine

WIDE, PHONE = 1280, 390
# Browser and engine share the machine with whatever else runs there, milliseconds.
PATIENCE_MS = 60_000
expect.set_options(timeout=PATIENCE_MS)


class Visitor:
    """One browser profile with one page. What the page writes to its console is kept."""

    def __init__(self, browser: Browser, engine: Engine, width: int = WIDE, theme: Any = "light") -> None:
        self._url = f"{engine.admin_url}/console"
        self._context = browser.new_context(
            viewport={"width": width, "height": 844 if width == PHONE else 900},
            color_scheme=theme,
            reduced_motion="reduce",
            accept_downloads=True,
            locale="en-GB",
        )
        self._context.set_default_timeout(PATIENCE_MS)
        self.page = self._context.new_page()
        self._complaints: list[str] = []
        # Statuses of answers that a test provokes; the browser writes a line for each.
        self.provoked = {401}
        self.page.on("console", self._note)
        self.page.on("pageerror", lambda error: self._complaints.append(str(error)))
        self.page.on("dialog", lambda dialog: self._complaints.append(f"a dialog: {dialog.message}"))

    def __enter__(self) -> Visitor:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._context.close()

    def _note(self, message: ConsoleMessage) -> None:
        if message.type not in ("error", "warning"):
            return
        status = re.search(r"status of (\d+)", message.text)
        if status is None or int(status[1]) not in self.provoked:
            self._complaints.append(f"{message.text} ({message.location.get('url', '')})")

    def check_console(self) -> None:
        """AssertionError when there was an error, or something against the Content-Security-Policy."""
        assert not self._complaints, self._complaints

    def log_in(self, key: str) -> None:
        """Open the console and log in."""
        self.page.goto(f"{self._url}/")
        self.page.get_by_label("Key").fill(key)
        self.page.get_by_role("button", name="Log in").click()
        expect(self.page.locator("#menu")).to_be_attached()

    def open(self, path: str) -> None:
        """Open a page, and wait until everything in it is loaded."""
        self.page.goto(f"{self._url}/{path}")
        self.settle()

    def settle(self) -> None:
        """Wait until nothing on the page is being loaded."""
        expect(self.page.locator("h1")).to_be_visible()
        expect(self.page.locator(".page > *")).not_to_have_count(0)
        expect(self.page.locator("[aria-busy=true]:visible")).to_have_count(0)

    def press(self, name: str, within: Locator | None = None) -> None:
        """Press the control with this name."""
        (within or self.page).get_by_role("button", name=name, exact=True).click()

    def agree(self, label: str, **fields: str) -> None:
        """Fill in what the open question asks for, and agree."""
        dialog = self.page.get_by_role("dialog")
        for name, value in fields.items():
            dialog.locator(f"[name={name}]").fill(value)
        dialog.get_by_role("button", name=label, exact=True).click()

    def expect_told(self, text: str) -> None:
        """The console says that this has happened."""
        expect(self.page.locator(".toast")).to_contain_text(text)

    def expect_fits(self) -> None:
        """The page is not wider than the window, nor anything in a field wider than the field."""
        wide, window = self.page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
        assert wide <= window, f"{self.page.url} is {wide} wide in a window of {window}"
        over = self.page.evaluate("""() => [...document.querySelectorAll(".field > *")].filter((one) =>
            one.getBoundingClientRect().right > one.parentElement.getBoundingClientRect().right + 1
        ).map((one) => one.outerHTML.slice(0, 100))""")
        assert not over, f"{self.page.url}: {over}"

    def expect_accessible(self) -> None:
        """axe-core finds nothing that is serious."""
        found = Axe().run(self.page).response["violations"]
        serious = [
            (one["id"], [node["html"][:200] for node in one["nodes"]][:3])
            for one in found
            if one["impact"] in ("serious", "critical")
        ]
        assert not serious, f"{self.page.url}: {serious}"

    def picture(self, file: Path | None, *, height: int | None = None) -> None:
        """Write what is seen to a file; None: do not."""
        if file is None:
            return
        file.parent.mkdir(exist_ok=True)
        if height is not None and self.page.viewport_size is not None:
            self.page.set_viewport_size({"width": self.page.viewport_size["width"], "height": height})
        self.page.screenshot(path=file)
