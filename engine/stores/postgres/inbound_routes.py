"""Whose the messages are that recipients send, in PostgreSQL.

Under failure. A change is one transaction. After `Unavailable` nobody knows whether it took effect; asking
for the same again is safe, and changes nothing the second time. A change counts for what comes after it.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

from engine.errors import Refusal
from engine.inbound.own_numbers import own_number
from engine.inbound.records import InboundRoute
from engine.inbound.words import normal
from engine.stores.postgres.changes import note_change
from engine.stores.postgres.directory import no_organisation
from engine.stores.postgres.pool import Pool

_CONTROL = re.compile(r"[\0-\x1f\x7f-\x9f]")
_KEYWORD_MAX = 40

_ALL = "SELECT number, keyword, organisation_id FROM inbound_routes ORDER BY number, keyword"
_ONE = """
SELECT number, keyword, organisation_id FROM inbound_routes WHERE number = $1 AND keyword = $2 FOR UPDATE"""
_EXISTS = "SELECT 1 FROM organisations WHERE id = $1"
_WRITE = """
INSERT INTO inbound_routes (number, keyword, organisation_id) VALUES ($1, $2, $3)
ON CONFLICT (number, keyword) DO UPDATE SET organisation_id = EXCLUDED.organisation_id"""
_REMOVE = "DELETE FROM inbound_routes WHERE number = $1 AND keyword = $2"

# The largest bigint.
_ID_MAX = 2**63 - 1


class InboundRouteBook:
    """Reads and changes the routes. Every call raises Unavailable."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def routes(self) -> list[InboundRoute]:
        """All routes, by number and keyword."""
        async with self._pool.connection() as connection:
            return [_route(row) for row in await connection.fetch(_ALL)]

    async def put(self, route: InboundRoute) -> InboundRoute:
        """Let the messages of a number and a keyword be an organisation's; the route as it is kept.

        Raises Refusal 404, 422.
        """
        wanted = checked(route)
        async with self._pool.transaction() as connection:
            known = 0 < wanted.organisation_id <= _ID_MAX
            if not known or await connection.fetchval(_EXISTS, wanted.organisation_id) is None:
                raise no_organisation()
            before = await connection.fetchrow(_ONE, wanted.number, wanted.keyword)
            if before is None or _route(before) != wanted:
                await connection.execute(_WRITE, wanted.number, wanted.keyword, wanted.organisation_id)
                was = None if before is None else msgspec.structs.asdict(_route(before))
                await note_change(connection, was, msgspec.structs.asdict(wanted), wanted.organisation_id)
        return wanted

    async def remove(self, number: str, keyword: str) -> None:
        """Let the messages of a number and a keyword be nobody's. Raises Refusal 422."""
        wanted = checked(InboundRoute(number=number, keyword=keyword, organisation_id=0))
        async with self._pool.transaction() as connection:
            before = await connection.fetchrow(_ONE, wanted.number, wanted.keyword)
            if before is not None:
                await connection.execute(_REMOVE, wanted.number, wanted.keyword)
                await note_change(connection, msgspec.structs.asdict(_route(before)), {"removed": True})


def checked(route: InboundRoute) -> InboundRoute:
    """The route in the form in which it is kept. Raises Refusal 422."""
    number = own_number("number", route.number)
    keyword = normal(route.keyword)
    wrong = len(keyword) > _KEYWORD_MAX or " " in keyword or _CONTROL.search(keyword)
    if wrong or (route.keyword and not keyword):
        detail = f"`keyword` must be one word of at most {_KEYWORD_MAX} characters, no controls, or empty."
        raise Refusal("invalid_field", 422, detail, "keyword")
    return InboundRoute(number=number, keyword=keyword, organisation_id=route.organisation_id)


def _route(row: Any) -> InboundRoute:
    return InboundRoute(number=row[0], keyword=row[1], organisation_id=row[2])
