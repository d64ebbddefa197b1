"""A standby of PostgreSQL that is behind is promoted: usage was kept for it, so no charge is lost."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import asyncpg
import pytest
from structlog.testing import capture_logs

from engine.config import Config, Store
from engine.stores.postgres.going_back import standing_of
from supervisor.cli.checks import _check_all
from tests.credit.test_credit import eventually, world
from tests.failover.postgres_machine import PostgresMachine
from tests.failover.test_postgres_goes_back import broken_laws, held, served


@pytest.fixture
def primary(tmp_path: Path) -> Iterator[PostgresMachine]:
    machine = PostgresMachine(tmp_path / "primary")
    yield machine
    machine.stop()


async def test_usage_is_kept_for_a_standby_that_is_away_and_applied_again_when_it_is_promoted(
    primary: PostgresMachine, tmp_path: Path, streams_url: str
) -> None:
    await primary.prepare()
    beside = await asyncpg.connect(primary.server.url)
    assert (await standing_of(beside)).kept is None
    standby = primary.standby(tmp_path / "standby", "second")
    try:
        async with world(streams_url, _both(primary, standby)) as w:
            draining = await w.ledger()
            ingest, _ = await w.holder("h1")
            org = await w.organisation(1000)
            assert await served(ingest, org, 1)
            await eventually(partial(held, w, org, 1))

            async def has_all() -> bool:
                standing = await standing_of(beside)
                return standing.slowest == "the standby second" and standing.kept == standing.written

            await eventually(has_all)
            said = {c.part: c for c in await _check_all(Config(postgres=Store(url=w.postgres_url)), "")}
            assert said["postgres"].ok
            assert "the standby second is asynchronous" in said["postgres"].detail
            standby.kill()
            assert await served(ingest, org, 300)
            await eventually(partial(held, w, org, 301))

            async def lacks_some() -> bool:
                standing = await standing_of(beside)
                return standing.slowest == "the replication slot second" and standing.kept < standing.written  # type: ignore[operator]

            await eventually(lacks_some)
            said = {c.part: c for c in await _check_all(Config(postgres=Store(url=w.postgres_url)), "")}
            assert "the replication slot second is not in use" in said["postgres"].detail
            with capture_logs() as lines:
                primary.kill()
                standby.server.restart()
                await standby.promote()
                await eventually(partial(served, ingest, org, 3), timeout_s=20)
                await eventually(partial(held, w, org, 304), timeout_s=20)
            assert any(line["event"].startswith("PostgreSQL went back") for line in lines)
            assert await broken_laws(w) == {}
            draining.set()
    finally:
        standby.stop()


def _both(primary: PostgresMachine, standby: PostgresMachine) -> str:
    """A URL that names both servers."""
    one, two = primary.books_url, standby.books_url
    host = two.rpartition("@")[2].partition("/")[0]
    return one.replace("/books", f",{host}/books")
