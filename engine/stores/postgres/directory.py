"""Organisations, their API keys and their top-ups, in PostgreSQL.

Under failure. Every call is one statement or one transaction: it takes effect as a whole or
not at all. When a call that writes raises `Unavailable`, nobody knows which: the connection
may have broken in the commit. The caller then repeats a top-up with the same reference, and
the creation of an organisation or a key with the same Idempotency-Key; that is answered by 409
when the first one took effect. Nothing is tried again here. `pool` says what becomes of the
statements of a caller that gives up.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from typing import Any

import asyncpg
import msgspec

from engine import api_keys
from engine.errors import Refusal, Unavailable
from engine.organisations import (
    ANY_KEY,
    Balance,
    Credential,
    Limits,
    NewOrganisation,
    Organisation,
    Pause,
    TopUp,
)
from engine.records import IdempotentCall
from engine.shards import shard_of
from engine.stores.postgres.api_keys import (
    add_key,
    credentials_of,
)  # fmt: skip
from engine.stores.postgres.changes import note_change
from engine.stores.postgres.idempotency import claim, keep_answer
from engine.stores.postgres.pool import Pool

UNITS_MAX = 10**15
# The largest number that the column `units` of the activity holds, rounded down.
LOW_BALANCE_MAX = 4_000_000_000
_TEXT_MAX = 200

_ORGANISATIONS = """
    SELECT o.id, o.name, o.created_at, a.low_balance, EXISTS (
        SELECT FROM unbooked u WHERE u.organisation_id = o.id AND u.booked_at IS NULL),
        l.weight, l.backlog_max, l.rate_max, l.paused_at, l.pause_reason
    FROM organisations o LEFT JOIN accounts a ON a.organisation_id = o.id
    LEFT JOIN organisation_limits l ON l.organisation_id = o.id
    WHERE o.id > $1 ORDER BY o.id LIMIT $2
"""
_LOCK_ACCOUNT = """
    SELECT a.low_balance FROM accounts a JOIN organisations o ON o.id = a.organisation_id
    WHERE a.organisation_id = $1 FOR NO KEY UPDATE OF a
"""
_SET_LOW_BALANCE = "UPDATE accounts SET low_balance = $2 WHERE organisation_id = $1"
_NEW_TOP_UP = """
    INSERT INTO top_ups (organisation_id, reference, units) VALUES ($1, $2, $3)
    ON CONFLICT DO NOTHING RETURNING at
"""
_TOP_UP = "SELECT units, at FROM top_ups WHERE organisation_id = $1 AND reference = $2"
_BALANCE = """
    SELECT topped_up - captured, held, available + granted FROM accounts WHERE organisation_id = $1
"""
_ADD = """
    UPDATE accounts SET topped_up = topped_up + $2, available = available + $2
    WHERE organisation_id = $1 RETURNING topped_up - captured, held, available + granted
"""
_ADD_TO_JOURNAL = """
    INSERT INTO journal (organisation_id, movement, debit, credit, units, reference)
    VALUES ($1, 'top-up', 'payments', 'available', $2, $3)
"""

_SPENDERS = """
SELECT organisation_id FROM accounts
WHERE available > 0 AND held + captured > 0 ORDER BY captured DESC LIMIT $1"""


class _Made(msgspec.Struct, frozen=True):
    """What is kept of an answer that shows a new key: everything but the secret."""

    organisation_id: int
    key_id: int


class Directory:
    """Reads and changes the directory. Every call raises Unavailable.

    Made by `connect`, on the loop that uses it.
    """

    def __init__(self, pool: Pool, shards: int) -> None:
        self._pool = pool
        self._shards = shards

    @property
    def pool(self) -> Pool:
        """The connections that it uses."""
        return self._pool

    @classmethod
    async def connect(
        cls, url: str, *, shards: int, timeout_s: float = 3.0, connections_max: int = 4
    ) -> Directory:
        """A directory with a pool of its own, which `close` closes; see `Pool.connect`."""
        return cls(await Pool.connect(url, timeout_s=timeout_s, connections_max=connections_max), shards)

    async def close(self) -> None:
        """Close the pool."""
        await self._pool.close()

    async def credentials(self, key_ids: Sequence[int]) -> dict[int, Credential]:
        """The credentials of those keys that exist and are neither revoked nor expired, by key id."""
        async with self._pool.connection() as connection:
            return await credentials_of(connection, key_ids)

    async def create_organisation(self, name: str, once: IdempotentCall | None = None) -> NewOrganisation:
        """Make an organisation with its account and its first key.

        Raises Refusal 422 for the name, 409 when `once` was used before.
        """
        check_text("name", name)
        secret = api_keys.new_secret()
        async with self._pool.transaction() as connection:
            await claim_once(connection, once)
            new_id = await connection.fetchval(
                "INSERT INTO organisations (name) VALUES ($1) RETURNING id", name
            )
            await connection.execute(
                "INSERT INTO accounts (organisation_id, shard) VALUES ($1, $2)",
                new_id,
                shard_of(new_id, self._shards),
            )
            key_id = await add_key(connection, new_id, ANY_KEY, secret)
            await note_change(connection, None, {"id": new_id, "name": name, "key_id": key_id}, new_id)
            await keep_made(connection, once, new_id, key_id)
        return NewOrganisation(id=new_id, name=name, api_key=api_keys.key_text(key_id, secret))

    async def organisations(self, after: int, limit: int) -> list[Organisation]:
        """At most `limit` organisations with ids above `after`, in the order of their ids."""
        async with self._pool.connection() as connection:
            rows = await connection.fetch(_ORGANISATIONS, after, limit)
        return [_organisation(row) for row in rows]

    async def organisation(self, organisation_id: int) -> Organisation:
        """One organisation. Raises Refusal 404."""
        found = await self.organisations(organisation_id - 1, 1)
        if not found or found[0].id != organisation_id:
            raise no_organisation()
        return found[0]

    async def set_low_balance(self, organisation_id: int, units: int | None) -> Organisation:
        """Set the threshold of the event `low_balance`, usable units; None: no event.

        The event comes when the units fall below the threshold. An organisation that has fewer
        already gets it the next time it falls below. Raises Refusal 404, 422.
        """
        if units is not None and not 1 <= units <= LOW_BALANCE_MAX:
            allowed = f"from 1 to {LOW_BALANCE_MAX} units, or null for never"
            raise Refusal("invalid_field", 422, f"`low_balance` must be {allowed}.", "low_balance")
        async with self._pool.transaction() as connection:
            found = await connection.fetchrow(_LOCK_ACCOUNT, organisation_id)
            if found is None:
                raise no_organisation()
            if found["low_balance"] != units:
                await connection.execute(_SET_LOW_BALANCE, organisation_id, units)
                await note_change(connection, {"low_balance": found["low_balance"]}, {"low_balance": units})
        return await self.organisation(organisation_id)

    async def spenders(self, limit: int) -> list[int]:
        """At most `limit` organisations that have units and have spent some; the largest spenders first.

        Empty when PostgreSQL is away: the list only saves the first messages a wait.
        """
        try:
            async with self._pool.connection() as connection:
                rows = await connection.fetch(_SPENDERS, limit)
        except Unavailable:
            return []
        return [row[0] for row in rows]

    async def exists(self, organisation_id: int) -> bool:
        """Whether there is an organisation with this id."""
        async with self._pool.connection() as connection:
            return await exists_in(connection, organisation_id)

    async def top_up(
        self, organisation_id: int, units: int, reference: str, once: IdempotentCall | None = None
    ) -> tuple[TopUp, bool]:
        """Add `units` once for each reference: (the top-up, whether this call added it).

        The balance in the answer is the present one. Raises Refusal 404; 409 when the
        reference was used for other units, or `once` for another request; 422.
        """
        check_text("reference", reference)
        if not 1 <= units <= UNITS_MAX:
            raise Refusal("invalid_field", 422, f"`units` must be from 1 to {UNITS_MAX}.", "units")
        async with self._pool.transaction() as connection:
            await claim_once(connection, once, repeatable=True)
            if not await exists_in(connection, organisation_id):
                raise no_organisation()
            # Waits for another transaction with the same reference.
            at = await connection.fetchval(_NEW_TOP_UP, organisation_id, reference, units)
            added = at is not None
            if added:
                balance = await _add(connection, organisation_id, units, reference)
                after = {"available": balance.available, "units": units, "reference": reference}
                await note_change(connection, {"available": balance.available - units}, after)
            else:
                known_units, at = await connection.fetchrow(_TOP_UP, organisation_id, reference)
                if known_units != units:
                    detail = f"`reference` was used before, for a top-up with `units` {known_units}."
                    raise Refusal("reference_reused", 409, detail, "reference")
                balance = await _balance(connection, organisation_id)
        top_up = TopUp(
            organisation_id=organisation_id, reference=reference, units=units, at=at, balance=balance
        )
        return top_up, added

    async def balance(self, organisation_id: int) -> Balance:
        """The balance after the last usage that the ledger has booked. Raises Refusal 404."""
        async with self._pool.connection() as connection:
            return await _balance(connection, organisation_id)


async def claim_once(connection: Any, once: IdempotentCall | None, *, repeatable: bool = False) -> None:
    """Take the Idempotency-Key for this transaction; `once` None: there is none to take.

    Raises Refusal 409 when it was used for another request. When it was used for the same request and
    that is not `repeatable`, it raises Refusal 409 too: the first answer cannot be given again, because
    it showed a secret of which only the digest was kept.
    """
    answer = await claim(connection, once)
    if answer is None or repeatable:
        return
    made = msgspec.json.decode(answer, type=_Made)
    raise Refusal(
        "idempotency_key_used",
        409,
        f"This request was answered before: it made key {made.key_id} of organisation"
        f" {made.organisation_id}, whose secret cannot be shown again;"
        " if it was lost, revoke that key and create another.",
        "Idempotency-Key",
    )


async def keep_made(connection: Any, once: IdempotentCall | None, organisation_id: int, key_id: int) -> None:
    """Keep with the Idempotency-Key which key the call has made; nothing when `once` is None."""
    await keep_answer(connection, once, msgspec.json.encode(_Made(organisation_id, key_id)))


async def _add(connection: Any, organisation_id: int, units: int, reference: str) -> Balance:
    try:
        posted, held, available = await connection.fetchrow(_ADD, organisation_id, units)
    except asyncpg.NumericValueOutOfRangeError as e:
        detail = "`units` must leave the sum of the organisation's top-ups below 2^63."
        raise Refusal("invalid_field", 422, detail, "units") from e
    await connection.execute(_ADD_TO_JOURNAL, organisation_id, units, reference)
    return Balance(posted=posted, held=held, available=available)


async def _balance(connection: Any, organisation_id: int) -> Balance:
    row = await connection.fetchrow(_BALANCE, organisation_id)
    if row is None:
        raise no_organisation()
    posted, held, available = row
    return Balance(posted=posted, held=held, available=available)


def _organisation(row: Any) -> Organisation:
    organisation_id, name, at, low_balance, suspended, weight, backlog_max, rate_max, since, reason = row
    return Organisation(
        id=organisation_id,
        name=name,
        created_at=at,
        low_balance=low_balance,
        suspended=suspended,
        limits=Limits(weight=weight, backlog_max=backlog_max, rate_max=rate_max),
        paused=None if since is None else Pause(since=since, reason=reason),
    )


async def exists_in(connection: Any, organisation_id: int) -> bool:
    """Whether there is an organisation with this id."""
    found: bool = await connection.fetchval(
        "SELECT EXISTS (SELECT FROM organisations WHERE id = $1)", organisation_id
    )
    return found


def no_organisation() -> Refusal:
    """A 404 for an id that no organisation has."""
    return Refusal("not_found", 404, "There is no organisation with this id.")


def check_text(field: str, text: str, length_max: int = _TEXT_MAX) -> None:
    """Raise Refusal 422 unless PostgreSQL can store `text` and a list can show it."""
    good = 1 <= len(text) <= length_max and not text.isspace()
    if not good or any(unicodedata.category(c) in ("Cc", "Cs") for c in text):
        allowed = f"1 to {length_max} characters, not all blank, without control characters"
        raise Refusal("invalid_field", 422, f"`{field}` must be {allowed}.", field)
