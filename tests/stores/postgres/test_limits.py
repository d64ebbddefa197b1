"""The limits of organisations against a real PostgreSQL."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from engine.errors import Refusal
from engine.limits.records import LimitRow
from engine.organisations import Limits
from engine.records import IdempotentCall
from engine.stores.postgres.directory import Directory
from engine.stores.postgres.limits import LimitBook
from tests.postgres_databases import database


@pytest.fixture
async def directory(postgres_url: str) -> AsyncIterator[Directory]:
    async with database(postgres_url, "limits_store") as url:
        directory = await Directory.connect(url, shards=16)
        yield directory
        await directory.close()


@pytest.fixture
def book(directory: Directory) -> LimitBook:
    return LimitBook(directory._pool)


async def test_what_is_named_changes_and_the_rest_stays(directory: Directory, book: LimitBook) -> None:
    one, other = [(await directory.create_organisation(name)).id for name in ("one", "other")]
    assert (await book.changes(0)).rows == []
    assert await book.limits(one) == Limits()
    await book.change(one, {"weight": 2.0, "rate_max": 200})
    assert await book.change(one, {"backlog_max": 5000}) == Limits(weight=2, backlog_max=5000, rate_max=200)
    before = await book.changes(0)
    assert before.rows == [LimitRow(one, Limits(weight=2, backlog_max=5000, rate_max=200), paused=False)]
    # The same again is no change.
    await book.change(one, {"weight": 2.0})
    assert (await book.changes(before.version)) == type(before)(before.version, [])
    await asyncio.gather(book.change(one, {"weight": None}), book.set_paused(other, True, "why"))
    after = await book.changes(before.version)
    assert after.version > before.version
    assert sorted(after.rows, key=lambda row: row.organisation_id) == [
        LimitRow(one, Limits(backlog_max=5000, rate_max=200), paused=False),
        LimitRow(other, Limits(), paused=True),
    ]
    shown = await directory.organisation(other)
    assert shown.paused is not None
    assert (shown.paused.reason, shown.limits) == ("why", Limits())
    assert [(o.id, o.name, o.reason) for o in await book.paused(10)] == [(other, "other", "why")]
    assert (await directory.organisation(one)).limits == Limits(backlog_max=5000, rate_max=200)


async def test_a_pause_keeps_its_beginning_and_a_call_that_is_repeated_does_not_undo_a_later_one(
    directory: Directory, book: LimitBook
) -> None:
    one = (await directory.create_organisation("one")).id
    once = IdempotentCall(scope="admin", key="k", fingerprint=b"f")
    await book.set_paused(one, True, "", once)
    since = (await directory.organisation(one)).paused
    await book.set_paused(one, True, "said later")
    later = (await directory.organisation(one)).paused
    assert since is not None
    assert later is not None
    assert (later.since, since.reason, later.reason) == (since.since, "", "said later")
    await book.set_paused(one, False)
    await book.set_paused(one, True, "", once)
    assert (await directory.organisation(one)).paused is None


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("weight", 0.0), ("weight", 100.1), ("weight", float("nan")), ("backlog_max", 999),
        ("backlog_max", 10**10), ("rate_max", 0.0), ("rate_max", float("inf")),
    ],
)  # fmt: skip
async def test_what_is_no_limit_is_refused(
    directory: Directory, book: LimitBook, field: str, value: float
) -> None:
    one = (await directory.create_organisation("one")).id
    with pytest.raises(Refusal, match=f"^`{field}` must be from .* or null: ") as refused:
        await book.change(one, {field: value})
    assert (refused.value.status, refused.value.field) == (422, field)
    with pytest.raises(Refusal, match="no organisation"):
        await book.change(one + 1000, {"weight": 1.0})
    with pytest.raises(Refusal, match="no organisation"):
        await book.set_paused(one + 1000, True)
