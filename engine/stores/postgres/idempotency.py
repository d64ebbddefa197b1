"""Idempotency-Keys of calls that PostgreSQL answers.

A key is kept in the same transaction as the change that it guards: both are committed or neither.
"""

from __future__ import annotations

from typing import Any

from engine.errors import Refusal, Unavailable
from engine.records import IdempotentCall

# An Idempotency-Key is remembered for 30 days; a call with a new one deletes a few old ones.
_SWEEP = """
    DELETE FROM idempotency WHERE (scope, key) IN (
        SELECT scope, key FROM idempotency WHERE at < now() - interval '30 days'
        ORDER BY at LIMIT 100 FOR UPDATE SKIP LOCKED)
"""
# Waits for another transaction with the same key; inserts nothing when that one commits.
_CLAIM = """
    INSERT INTO idempotency (scope, key, fingerprint, status, answer) VALUES ($1, $2, $3, 201, '')
    ON CONFLICT DO NOTHING RETURNING true
"""
_CLAIMED = "SELECT fingerprint, answer FROM idempotency WHERE scope = $1 AND key = $2"
_KEEP_ANSWER = "UPDATE idempotency SET answer = $3 WHERE scope = $1 AND key = $2"


async def claim(connection: Any, once: IdempotentCall | None) -> bytes | None:
    """Take the key for this transaction; None when this call is the first with it, or `once` is None.

    Otherwise the same request was carried out before, and the bytes are the answer that was kept, b""
    when none was. Raises Refusal 409 when the key was used for another request, Unavailable when it
    was deleted just now.
    """
    if once is None:
        return None
    await connection.execute(_SWEEP)
    if await connection.fetchval(_CLAIM, once.scope, once.key, once.fingerprint):
        return None
    claimed = await connection.fetchrow(_CLAIMED, once.scope, once.key)
    if claimed is None:
        raise Unavailable("The Idempotency-Key was forgotten just now, after 30 days; try again.")
    fingerprint, answer = claimed
    if fingerprint != once.fingerprint:
        raise Refusal(
            "idempotency_key_reused",
            409,
            "`Idempotency-Key` was used for another request; use a new key for a new request.",
            "Idempotency-Key",
        )
    return bytes(answer)


async def keep_answer(connection: Any, once: IdempotentCall | None, answer: bytes) -> None:
    """Keep `answer` with the key that this transaction has claimed; nothing when `once` is None."""
    if once is not None:
        await connection.execute(_KEEP_ANSWER, once.scope, once.key, answer)
