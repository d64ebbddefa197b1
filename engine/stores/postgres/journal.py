"""The transactions of an organisation, newest first, read from the journal."""

from __future__ import annotations

from engine.errors import Refusal
from engine.organisations import Transaction
from engine.stores.postgres.pool import Pool

# Movements between the ledger and the holders (grant, return, fence) are left out, because they
# change nothing that an organisation sees.
#
# A transaction that writes the journal has the account's row locked. So the ids of an organisation go
# up in the order of the commits, and a row that is committed later has a higher id than all rows that
# were read.
#
# The rows are compared as pairs, and not with `organisation_id = $1 AND id < $2`. For that condition
# PostgreSQL may choose to go back through the whole journal by id, expecting to find enough rows soon;
# for an organisation that has been idle for years it does not. Only the index
# `journal_by_organisation` has pairs in this order, so only the rows of the page are read.
_PAGE = """
SELECT j.id, j.at, j.movement, CASE j.credit WHEN 'payments' THEN -j.units ELSE j.units END, j.reference,
       a.reason
FROM (SELECT * FROM journal
      WHERE (organisation_id, id) < ($1, $2) AND organisation_id >= $1
          AND movement IN ('top-up', 'adjustment', 'hold', 'capture', 'release', 'reopen')
      ORDER BY organisation_id DESC, id DESC LIMIT $3) j
LEFT JOIN adjustments a ON j.movement = 'adjustment' AND a.organisation_id = j.organisation_id
    AND a.reference = j.reference
ORDER BY j.organisation_id DESC, j.id DESC"""
_EXISTS = "SELECT EXISTS (SELECT FROM organisations WHERE id = $1)"


class Journal:
    """Reads the journal, which the ledger and top-ups write. Every call raises Unavailable."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def transactions(self, organisation_id: int, before: int, limit: int) -> list[Transaction]:
        """At most `limit` transactions with ids below `before`, newest first. Raises Refusal 404."""
        async with self._pool.connection() as connection:
            rows = await connection.fetch(_PAGE, organisation_id, before, limit)
            if not rows and not await connection.fetchval(_EXISTS, organisation_id):
                raise Refusal("not_found", 404, "There is no organisation with this id.")
        return [
            Transaction(id=i, at=at, type=t, units=u, reference=r, reason=reason)
            for i, at, t, u, r, reason in rows
        ]
