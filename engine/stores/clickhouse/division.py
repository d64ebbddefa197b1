"""Rows divided over several ClickHouse servers, as ClickHouse's shards are: all that an organisation has, its
events, attempts, counts and inbound messages, is in one *division*.

A division is a whole ClickHouse for whoever reads and writes it: one server, or the replicas of a shard. It
has every table and view, and its own counts, so no statement joins, inserts or deletes across divisions, and
none is another for being in one. The engine divides what it writes, and puts together what it reads of all:
by that an insert into a division has an answer and a token of its own, which is what makes it once only.
Tables of the engine Distributed would hide that behind one server, and all inserts and reports would go
through it.

Which division an organisation is in follows from its number and from how many divisions there are. So they
stay as many, and in the order, that they were at first (`engine.stores.clickhouse.division_mark`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Generic, TypeVar

from engine.shards import shard_of
from engine.stores.clickhouse.adapter import ClickHouseAdapter
from engine.stores.clickhouse.client import ClickHouseUrl, parse_url

T = TypeVar("T")
A = TypeVar("A", bound=ClickHouseAdapter)


def urls_of(url: str) -> list[str]:
    """The URLs of the divisions, from `clickhouse.url` as it is handed on: with spaces between them."""
    return url.split() or [url]


def places_of(url: str) -> list[ClickHouseUrl]:
    """Where each division is, from a URL as `urls_of` has it. Raises ConfigError, which says which of several
    URLs is malformed."""
    urls = urls_of(url)
    if len(urls) == 1:
        return [parse_url(urls[0])]
    return [parse_url(one, f"Number {number} of clickhouse.urls") for number, one in enumerate(urls, 1)]


async def all_of(calls: Iterable[Awaitable[T]]) -> list[T]:
    """What calls that are made at once return, in order. Raises what the first of them raises that fails,
    when all have ended."""
    found = await asyncio.gather(*calls, return_exceptions=True)
    results: list[T] = []
    for result in found:
        if isinstance(result, BaseException):
            raise result
        results.append(result)
    return results


class Divided(Generic[A]):
    """An adapter for each division."""

    def __init__(self, url: str, adapter: Callable[[str], A]) -> None:
        """`url`: as of `urls_of`; `adapter` makes that of one URL. Raises ConfigError for a malformed one."""
        places_of(url)
        self.divisions = [adapter(one) for one in urls_of(url)]

    def of(self, organisation_id: int) -> A:
        """That of the division which an organisation is in."""
        return self.divisions[shard_of(organisation_id, len(self.divisions))]

    async def close(self) -> None:
        """Close the connections of all; the next call connects again."""
        await all_of(division.close() for division in self.divisions)
