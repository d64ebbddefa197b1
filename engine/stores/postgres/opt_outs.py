"""Who wants no messages of which organisation, in PostgreSQL.

Under failure. A change of up to `PART` numbers is one transaction, and one of more is several, in the order
of the numbers: so none takes longer than a statement may, however busy the machine is, and nobody else who
changes something waits for long. After `Unavailable` nobody knows which of them have taken effect. Asking for
the same again is safe; it goes on where the first attempt ended. Two changes at once are made one after the
other, and the later one stays.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from engine.errors import Refusal
from engine.intake.records import OptOut, OptOutChange, OptOutChanges, OptOutSource
from engine.stores.postgres.changes import note_change
from engine.stores.postgres.directory import no_organisation
from engine.stores.postgres.pool import Pool

# So many changes are read at once, and so many numbers of a whole list.
_CHANGES_MAX = 5_000
_PAGE = 50_000
# So many numbers are changed in one transaction.
PART = 1_000

_NO_MESSAGES: Mapping[str, str] = MappingProxyType({})

_VERSION = "SELECT version FROM opt_outs_version"
# One statement, so that the version and the rows belong together.
_CHANGES = """
SELECT v.version, o.version, o.organisation_id, o.number, o.opted_out
FROM opt_outs_version v LEFT JOIN LATERAL (
    SELECT version, organisation_id, number, opted_out FROM opt_outs WHERE version > $1
    ORDER BY version LIMIT $2
) o ON true ORDER BY o.version"""
_NUMBERS = """
SELECT organisation_id, string_agg(int8send(number), ''::bytea ORDER BY number) FROM (
    SELECT organisation_id, number FROM opt_outs
    WHERE opted_out AND (organisation_id, number) > ($1, $2) ORDER BY organisation_id, number LIMIT $3
) page GROUP BY organisation_id ORDER BY organisation_id"""
# It locks the row until the transaction ends, so that versions come to be seen in their order.
_COUNT_UP = """
UPDATE opt_outs_version
SET version = greatest(version, (extract(epoch FROM clock_timestamp()) * 1e6)::bigint) + $1
RETURNING version"""
_EXISTS = "SELECT 1 FROM organisations WHERE id = $1"
_ADD = """
INSERT INTO opt_outs (organisation_id, number, source, version, message_id)
SELECT $1, number, $3, $4 + place, message_id
FROM unnest($2::bigint[], $5::text[]) WITH ORDINALITY AS given (number, message_id, place)
ON CONFLICT (organisation_id, number) DO UPDATE
SET (opted_out, source, changed_at, version, message_id)
    = (true, EXCLUDED.source, now(), EXCLUDED.version, EXCLUDED.message_id)
WHERE NOT opt_outs.opted_out
RETURNING number"""
_REMOVE = """
UPDATE opt_outs o SET opted_out = false, source = $3, changed_at = now(), version = $4 + place
FROM unnest($2::bigint[], $5::text[]) WITH ORDINALITY AS given (number, message_id, place)
WHERE o.organisation_id = $1 AND o.number = given.number AND o.opted_out RETURNING o.number"""
_MADE_BY = """
SELECT o.organisation_id, o.number FROM unnest($1::bigint[], $2::bigint[], $3::text[])
    AS given (of, number, id)
JOIN opt_outs o ON o.organisation_id = given.of AND o.number = given.number
WHERE o.opted_out AND o.message_id = given.id"""
_LIST = """
SELECT number, changed_at, source FROM opt_outs
WHERE organisation_id = $1 AND opted_out AND number > $2 ORDER BY number LIMIT $3"""
_ONE = """
SELECT number, changed_at, source FROM opt_outs WHERE organisation_id = $1 AND opted_out AND number = $2"""


class OptOutBook:
    """Reads and changes the opt-outs. Every call raises Unavailable."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def version(self) -> int:
        """The version of the last change; 0 while there was none."""
        async with self._pool.connection() as connection:
            version: int = await connection.fetchval(_VERSION)
        return version

    async def changes(self, since: int) -> OptOutChanges:
        """What changed after the version `since`, in order."""
        async with self._pool.connection() as connection:
            rows = await connection.fetch(_CHANGES, since, _CHANGES_MAX)
        found = [OptOutChange(*row[2:]) for row in map(tuple, rows) if row[1] is not None]
        more = len(found) == _CHANGES_MAX
        return OptOutChanges(rows[-1][1] if more else rows[0][0], found, more)

    async def page(self, after: tuple[int, int]) -> list[tuple[int, bytes]]:
        """The next opt-outs behind `after`; see `engine.intake.ports.OptOutStore`."""
        async with self._pool.connection() as connection:
            return [(row[0], row[1]) for row in await connection.fetch(_NUMBERS, *after, _PAGE)]

    async def listed(self, organisation_id: int, after: int, limit: int) -> list[OptOut]:
        """At most `limit` opt-outs of an organisation with digits above `after`, in that order.

        Raises Refusal 404.
        """
        async with self._pool.connection() as connection:
            await _check(connection, organisation_id)
            return [_opt_out(row) for row in await connection.fetch(_LIST, organisation_id, after, limit)]

    async def one(self, organisation_id: int, number: str) -> OptOut:
        """The opt-out of a number in E.164. Raises Refusal 404 when it has not opted out."""
        async with self._pool.connection() as connection:
            await _check(connection, organisation_id)
            row = await connection.fetchrow(_ONE, organisation_id, _digits(number))
        if row is None:
            raise Refusal("not_found", 404, "This number has not opted out.")
        return _opt_out(row)

    async def add(
        self,
        organisation_id: int,
        numbers: Sequence[str],
        source: OptOutSource,
        messages: Mapping[str, str] = _NO_MESSAGES,
    ) -> int:
        """Opt these numbers in E.164 out; returns how many had not opted out before. `messages`: by number,
        the id of the inbound message that says so. Raises Refusal 404."""
        return await self._change(_ADD, "added", organisation_id, numbers, source, messages)

    async def made_by(self, wanted: Sequence[tuple[int, str, str]]) -> set[tuple[int, str]]:
        """Which of these (organisation, number, id of an inbound message) are opted out by that message:
        (organisation, number) of each."""
        columns = [of for of, _, _ in wanted], [_digits(n) for _, n, _ in wanted], [i for _, _, i in wanted]
        async with self._pool.connection() as connection:
            return {(row[0], f"+{row[1]}") for row in await connection.fetch(_MADE_BY, *columns)}

    async def remove(self, organisation_id: int, numbers: Sequence[str], source: OptOutSource) -> int:
        """Let numbers in E.164 have messages again; returns how many had opted out. Raises Refusal 404."""
        return await self._change(_REMOVE, "removed", organisation_id, numbers, source)

    async def _change(
        self,
        statement: str,
        what: str,
        organisation_id: int,
        numbers: Sequence[str],
        source: OptOutSource,
        messages: Mapping[str, str] = _NO_MESSAGES,
    ) -> int:
        digits, changed = sorted(set(map(_digits, numbers))), 0
        for start in range(0, max(1, len(digits)), PART):
            part = digits[start : start + PART]
            ids = [messages.get(f"+{number}", "") for number in part]
            changed += await self._change_part(statement, what, organisation_id, part, source, ids)
        return changed

    async def _change_part(
        self,
        statement: str,
        what: str,
        organisation_id: int,
        digits: Sequence[int],
        source: OptOutSource,
        ids: Sequence[str],
    ) -> int:
        """How many of these numbers it was not so of before, in one transaction."""
        async with self._pool.transaction() as connection:
            await _check(connection, organisation_id)
            last = await connection.fetchval(_COUNT_UP, len(digits))
            changed = await connection.fetch(
                statement, organisation_id, digits, source, last - len(digits), ids
            )
            if changed:
                # The numbers are people's, and records of changes are kept for good.
                await note_change(connection, None, {what: len(changed)})
        return len(changed)


async def _check(connection: Any, organisation_id: int) -> None:
    if await connection.fetchval(_EXISTS, organisation_id) is None:
        raise no_organisation()


def _digits(number: str) -> int:
    return int(number.removeprefix("+"))


def _opt_out(row: Any) -> OptOut:
    return OptOut(number=f"+{row[0]}", since=row[1], source=row[2])
