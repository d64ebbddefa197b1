"""The console of a whole engine in a real browser: Debian's Chromium, driven by Playwright."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.console.browser.traffic import Traffic, send_known_messages
from tests.console.browser.visitor import Visitor
from tests.system.conftest import Engine, start_engine

playwright = pytest.importorskip(
    "playwright.sync_api", reason="there is no Playwright: make console installs it"
)
# Where the browser is, when it is not at its place.
CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser") or ""


@pytest.fixture(scope="session")
def browser() -> Iterator[playwright.Browser]:
    if not CHROMIUM:
        pytest.skip("there is no chromium (Debian: apt install chromium); CHROMIUM names one elsewhere")
    with playwright.sync_playwright() as driver:
        # The sandbox of Chromium does not run as root.
        started = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture(scope="session")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """An engine with a demo organisation and messages that have ended."""
    folder = tmp_path_factory.mktemp("console")
    config = folder / "engine.toml"
    # A target for the live page; the workers stay as many as they are.
    config.write_text('[autoscale.express]\ntarget = "p99 <= 2s"\nprocesses_max = 1\n')
    engine = start_engine(folder / "data", ("--demo", "--config", config))
    send_known_messages(engine)
    yield engine
    assert engine.stop() == 0, engine.log.read_text()[-3000:]


@pytest.fixture(scope="session")
def traffic(engine: Engine) -> Iterator[Traffic]:
    """Messages are sent as long as tests run."""
    with Traffic(engine) as traffic:
        yield traffic


@pytest.fixture
def visitor(browser: playwright.Browser, engine: Engine) -> Iterator[Visitor]:
    """Somebody at a desk, logged in with the admin key."""
    with Visitor(browser, engine) as visitor:
        visitor.log_in(engine.admin_key)
        yield visitor
        visitor.check_console()


@pytest.fixture(scope="session")
def pictures() -> Path | None:
    """Where pictures of the documentation are written; None: nowhere."""
    return Path(__file__).parents[3] / "docs" / "console" if os.environ.get("PICTURES") else None
