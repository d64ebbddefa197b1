"""An organisation's transactions, over the real journal."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from datetime import datetime
from typing import Any

import asyncpg
import pytest

from tests.api.world import Api

_WRITE = """
INSERT INTO journal (organisation_id, movement, debit, credit, units, shard, position)
SELECT $1, m, d, c, u, 0, '1-0'
FROM unnest($2::text[], $3::text[], $4::text[], $5::bigint[]) AS n (m, d, c, u)
"""
_PLACES = {
    "grant": ("available", "granted"),
    "hold": ("granted", "held"),
    "capture": ("held", "captured"),
    "release": ("held", "available"),
    "return": ("granted", "available"),
    "fence": ("granted", "available"),
    "reopen": ("captured", "held"),
}


@pytest.fixture(scope="module")
async def books(directory_url: str) -> AsyncIterator[Any]:
    connection = await asyncpg.connect(directory_url)
    yield connection
    await connection.close()


async def book(books: Any, organisation_id: int, movements: Sequence[tuple[str, int]]) -> None:
    """Write what the ledger would."""
    places = [_PLACES[movement] for movement, _ in movements]
    names, units = zip(*movements, strict=True)
    debits, credits_ = zip(*places, strict=True)
    await books.execute(_WRITE, organisation_id, names, debits, credits_, units)


async def organisation(api: Api, *top_ups: int) -> dict[str, Any]:
    _, made = await api.admin("POST", "/organisations", {"name": "Thrifty"})
    for units in top_ups:
        body = {"units": units, "reference": f"invoice {units}"}
        await api.admin("POST", f"/organisations/{made['id']}/top-ups", body)
    return dict(made)


async def test_what_moved_is_told_newest_first_without_internal_movements(api: Api, books: Any) -> None:
    made = await organisation(api, 100)
    await book(
        books,
        made["id"],
        [
            ("grant", 50),
            ("hold", 7),
            ("capture", 5),
            ("release", 2),
            ("return", 43),
            ("fence", 1),
            ("reopen", 3),
        ],
    )
    status, _, reply = await api.ask("GET", "/v1/balance/transactions", key=made["api_key"])
    assert status == 200
    assert reply["next"] is None
    assert [(t["type"], t["units"], t["reference"]) for t in reply["transactions"]] == [
        ("reopen", 3, None),
        ("release", 2, None),
        ("capture", 5, None),
        ("hold", 7, None),
        ("top-up", 100, "invoice 100"),
    ]
    ids = [t["id"] for t in reply["transactions"]]
    assert ids == sorted(ids, reverse=True)
    for t in reply["transactions"]:
        assert set(t) == {"id", "at", "type", "units", "reference", "reason"}
        assert t["at"].endswith("Z")
        assert datetime.fromisoformat(t["at"]).utcoffset() is not None
    path = f"/organisations/{made['id']}/transactions"
    assert await api.admin("GET", path) == (200, reply)


@pytest.mark.parametrize("limit", [1, 3, 7, 100])
async def test_pages_give_each_transaction_once_while_more_come(api: Api, books: Any, limit: int) -> None:
    made = await organisation(api, 1, 2, 3)
    for units in range(4, 12):
        await book(books, made["id"], [("grant", 1), ("hold", units), ("return", 1)])
    other = await organisation(api, 77)
    seen, query, pages = [], f"limit={limit}", 0
    while True:
        _, _, reply = await api.ask("GET", f"/v1/balance/transactions?{query}", key=made["api_key"])
        assert len(reply["transactions"]) <= limit
        seen += [t["units"] for t in reply["transactions"]]
        pages += 1
        await book(books, made["id"], [("hold", 1000)])
        if reply["next"] is None:
            break
        query = f"limit={limit}&cursor={reply['next']}"
    assert seen == list(range(11, 0, -1))
    assert pages == -(-11 // limit)
    _, _, reply = await api.ask("GET", "/v1/balance/transactions", key=other["api_key"])
    assert [t["units"] for t in reply["transactions"]] == [77]


async def test_an_organisation_without_transactions_has_an_empty_page(api: Api) -> None:
    made = await organisation(api)
    status, _, reply = await api.ask("GET", "/v1/balance/transactions", key=made["api_key"])
    assert (status, reply) == (200, {"transactions": [], "next": None})
    assert (await api.admin("GET", "/organisations/999999/transactions"))[0] == 404
    assert (await api.admin("GET", "/organisations/x/transactions"))[0] == 404
    assert (await api.ask("GET", "/v1/balance/transactions", key="smse_1_x"))[0] == 401


@pytest.mark.parametrize(
    "query", ["limit=0", "limit=1001", "limit=x", "cursor=0", "cursor=-1", "cursor=" + "9" * 40]
)
async def test_a_page_has_its_bounds(api: Api, query: str) -> None:
    status, _, reply = await api.ask("GET", f"/v1/balance/transactions?{query}")
    assert (status, reply["code"], reply["field"]) == (422, "invalid_field", query.split("=")[0])
