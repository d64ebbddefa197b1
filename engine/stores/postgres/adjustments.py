"""Adjustments of the credit of an organisation, in PostgreSQL: units given or taken, with a reason.

What is taken comes out of what the ledger has not granted to any process. The ledger changes `available` by
differences, and decides anew when one would make it negative (`write_books`), so both may act at once.

Under failure. An adjustment is one transaction. When the call raises `Unavailable` nobody knows whether it
took effect; the caller repeats it with the same reference, and it counts once.
"""

from __future__ import annotations

from typing import Any

import asyncpg

from engine.errors import Refusal
from engine.organisations import Adjustment, Balance
from engine.records import IdempotentCall
from engine.stores.postgres.changes import note_change
from engine.stores.postgres.directory import UNITS_MAX, check_text, claim_once, no_organisation
from engine.stores.postgres.pool import Pool
from engine.written_numbers import plural

_ACCOUNT = """
SELECT shard, topped_up - captured, held, available, granted, low_balance FROM accounts
WHERE organisation_id = $1 FOR NO KEY UPDATE"""
_NEW = """
INSERT INTO adjustments (organisation_id, reference, units, reason) VALUES ($1, $2, $3, $4)
ON CONFLICT DO NOTHING RETURNING at"""
_KNOWN = "SELECT units, reason, at FROM adjustments WHERE organisation_id = $1 AND reference = $2"
_ADD = "UPDATE accounts SET topped_up = topped_up + $2, available = available + $2 WHERE organisation_id = $1"
_TO_JOURNAL = """
INSERT INTO journal (organisation_id, movement, debit, credit, units, reference)
VALUES ($1, 'adjustment', $2, $3, $4, $5)"""
_TELL = "INSERT INTO balance_events (shard, organisation_id, event, units) VALUES ($1, $2, 'low_balance', $3)"


class Adjustments:
    """Adjusts credit. Every call raises Unavailable."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def adjust(
        self,
        organisation_id: int,
        units: int,
        reference: str,
        reason: str,
        once: IdempotentCall | None = None,
    ) -> tuple[Adjustment, bool]:
        """Give `units`, or take them when below 0, once for each reference: (it, whether this call did it).

        Raises Refusal 404; 409 when the reference was used for something else, when there are fewer units to
        take, or for `once`; 422.
        """
        check_text("reference", reference)
        check_text("reason", reason)
        if not 1 <= abs(units) <= UNITS_MAX:
            detail = f"`units` must be from 1 to {UNITS_MAX}, or from -{UNITS_MAX} to -1."
            raise Refusal("invalid_field", 422, detail, "units")
        async with self._pool.transaction() as connection:
            await claim_once(connection, once, repeatable=True)
            # Also makes calls with the same reference wait for each other.
            account = await connection.fetchrow(_ACCOUNT, organisation_id)
            if account is None:
                raise no_organisation()
            at = await connection.fetchval(_NEW, organisation_id, reference, units, reason)
            added = at is not None
            if added:
                await _move(connection, organisation_id, account, units, reference)
                before = account["available"] + account["granted"]
                after = {"available": before + units, "units": units, "reference": reference}
                after |= {"reason": reason}
                await note_change(connection, {"available": before}, after)
            else:
                known_units, known_reason, at = await connection.fetchrow(_KNOWN, organisation_id, reference)
                if (known_units, known_reason) != (units, reason):
                    detail = f"`reference` was used before: with `units` {known_units}, or another `reason`."
                    raise Refusal("reference_reused", 409, detail, "reference")
        posted, held, usable = account[1], account["held"], account["available"] + account["granted"]
        change = units if added else 0
        balance = Balance(posted=posted + change, held=held, available=usable + change)
        made = Adjustment(
            organisation_id=organisation_id, reference=reference, units=units, reason=reason, at=at,
            balance=balance,
        )  # fmt: skip
        return made, added


async def _move(connection: Any, organisation_id: int, account: Any, units: int, reference: str) -> None:
    if account["available"] + units < 0:
        raise _too_few(account, -units)
    try:
        await connection.execute(_ADD, organisation_id, units)
    except asyncpg.NumericValueOutOfRangeError as e:
        detail = "`units` must leave the sum of what the organisation was given below 2^63."
        raise Refusal("invalid_field", 422, detail, "units") from e
    places = ("payments", "available") if units > 0 else ("available", "payments")
    await connection.execute(_TO_JOURNAL, organisation_id, *places, abs(units), reference)
    usable, threshold = account["available"] + account["granted"], account["low_balance"]
    if threshold is not None and usable >= threshold > usable + units:
        await connection.execute(_TELL, account["shard"], organisation_id, usable + units)


def _too_few(account: Any, units: int) -> Refusal:
    """A 409: not so many units can be taken now."""
    free, granted = account["available"], account["granted"]
    rest = ""
    if free + granted >= units:
        rest = (
            f" {granted} more {'is' if granted == 1 else 'are'} with the processes that send for it, until it"
            " has sent nothing for an hour."
        )
    detail = f"`units` may take at most {free} {plural('unit', free)} now.{rest}"
    return Refusal("units_missing", 409, detail, "units")
