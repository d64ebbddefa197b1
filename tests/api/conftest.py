"""A database, an organisation in it, and the API over both; shared by the tests of the API."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from engine.organisations import NewOrganisation
from engine.stores.postgres.directory import Directory
from tests.api.world import Api, database, services_with, serving


@pytest.fixture(scope="session")
async def directory_url(postgres_url: str) -> AsyncIterator[str]:
    async with database(postgres_url, "api_directory") as url:
        yield url


@pytest.fixture(scope="session")
async def directory(directory_url: str) -> AsyncIterator[Directory]:
    directory = await Directory.connect(directory_url, shards=16)
    yield directory
    await directory.close()


@pytest.fixture(scope="session")
async def acme(directory: Directory) -> NewOrganisation:
    return await directory.create_organisation("Acme")


@pytest.fixture(scope="session")
async def api(directory: Directory, acme: NewOrganisation) -> AsyncIterator[Api]:
    """One API for all tests that leave it as it was."""
    async with serving(await services_with(directory), acme.api_key) as running:
        yield running
