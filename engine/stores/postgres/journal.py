"""The journal as an organisation sees it: its transactions, newest first."""

from __future__ import annotations

from engine.errors import Refusal
from engine.organisations import Transaction
from engine.stores.postgres.pool import Pool

# Movements between the ledger and the holders (grant, return, fence) are left out: they
# change nothing that an organisation sees.
#
# Whoever writes the journal has the account's row locked, so within an organisation the
# ids go up in the order of the commits: what is on no page yet has a higher id than all
# that were read.
#
# The rows are compared as pairs, and not with `organisation_id = $1 AND id < $2`: of that PostgreSQL
# may think that going back through the whole journal by id soon finds enough rows, and for an
# organisation that has been idle it finds none in years. Pairs in this order are only in the index
# `journal_by_organisation`, which is entered at the page and left at its end.
_PAGE = """
SELECT id, at, movement, units, reference FROM journal
WHERE (organisation_id, id) < ($1, $2) AND organisation_id >= $1
    AND movement IN ('top-up', 'hold', 'capture', 'release', 'reopen')
ORDER BY organisation_id DESC, id DESC LIMIT $3"""
_EXISTS = "SELECT EXISTS (SELECT FROM organisations WHERE id = $1)"


class Journal:
    """Reads only; the ledger and top-ups write. Every call raises Unavailable."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def transactions(self, organisation_id: int, before: int, limit: int) -> list[Transaction]:
        """At most `limit` with ids below `before`, newest first. Raises Refusal 404."""
        async with self._pool.connection() as connection:
            rows = await connection.fetch(_PAGE, organisation_id, before, limit)
            if not rows and not await connection.fetchval(_EXISTS, organisation_id):
                raise Refusal("not_found", 404, "There is no organisation with this id.")
        return [Transaction(id=i, at=at, type=t, units=u, reference=r) for i, at, t, u, r in rows]
