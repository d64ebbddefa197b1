"""The console over real sockets, a real PostgreSQL and a real Redis; shared by the tests of the console."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from engine.organisations import NewOrganisation
from engine.stores.postgres.directory import Directory
from engine.stores.redis.link import RedisLink
from tests.conftest import own_database
from tests.console.world import PAGES, Console, open_console
from tests.postgres_databases import database


@pytest.fixture(scope="session")
async def directory(postgres_url: str) -> AsyncIterator[Directory]:
    async with database(postgres_url, "console_directory") as url:
        directory = await Directory.connect(url, shards=16)
        yield directory
        await directory.close()


@pytest.fixture(scope="session")
async def acme(directory: Directory) -> NewOrganisation:
    return await directory.create_organisation("Acme")


@pytest.fixture(scope="session")
async def link(redis_url: str) -> AsyncIterator[RedisLink]:
    async with own_database(redis_url, 9) as link:
        yield link


@pytest.fixture(scope="session")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with pages, and a secret beside it."""
    folder = tmp_path_factory.mktemp("console") / "static"
    for name, text in PAGES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    (folder.parent / "secret.txt").write_text("secret")
    (folder / "notes.unknown").write_text("no page")
    return folder


@pytest.fixture(scope="session")
async def console(directory: Directory, link: RedisLink, pages: Path) -> AsyncIterator[Console]:
    """One console for all tests that leave it as it was."""
    async with open_console(directory, link, pages) as running:
        yield running
