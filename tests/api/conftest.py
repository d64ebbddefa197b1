"""A database, an organisation in it, and the API over both; shared by the tests of the API."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from engine.organisations import NewOrganisation
from engine.stores.postgres.directory import Directory
from tests.api import world
from tests.api.world import Api, services_with, serving
from tests.postgres_databases import database


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


# Their promises hold on both ways to serve a call that submits messages.
ON_BOTH = ("test_guard", "test_messages", "test_any_values", "test_edge_limits", "test_key_networks")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run what calls the API with the edge in front, as in the product; some also without it."""
    if "edge" in metafunc.fixturenames:
        module = metafunc.module.__name__.rpartition(".")[2]
        ways = [True, False] if module in ON_BOTH else [True]
        metafunc.parametrize(
            "edge", ways, indirect=True, scope="session", ids=["edge", "aiohttp"][: len(ways)]
        )


@pytest.fixture(scope="session", autouse=True)
def edge(request: pytest.FixtureRequest) -> Iterator[bool]:
    """Whether the APIs of the test have the edge in front."""
    before, world.has_edge = world.has_edge, request.param
    yield request.param
    world.has_edge = before


@pytest.fixture(scope="session")
async def api(directory: Directory, acme: NewOrganisation, edge: bool) -> AsyncIterator[Api]:
    """One API for all tests that leave it as it was."""
    async with serving(await services_with(directory), acme.api_key) as running:
        yield running
