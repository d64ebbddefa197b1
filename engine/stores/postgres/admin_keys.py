"""Admin keys with names, in PostgreSQL.

Under failure: as `engine.stores.postgres.directory`. A key that was made by a call without an answer is
listed, and good for nothing: nobody has its secret.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import msgspec

from engine import api_keys
from engine.admin_keys import AdminCredential, AdminKey, NewAdminKey, Scope
from engine.errors import Refusal
from engine.records import IdempotentCall
from engine.stores.postgres.changes import note_change
from engine.stores.postgres.directory import check_text
from engine.stores.postgres.idempotency import claim, keep_answer
from engine.stores.postgres.pool import Pool

# The name of the key of the configuration in the records of changes.
RESERVED = "configuration"
_KEYS_MAX = 1_000

_CREDENTIALS = """
SELECT id, name, scopes, secret_sha256, networks FROM admin_keys
WHERE id = ANY($1::bigint[]) AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > now())"""
_LIST = """
SELECT id, name, scopes, created_at, expires_at, revoked_at, last_used_at, networks::text[] FROM admin_keys
ORDER BY id DESC LIMIT $1"""
_NEW = """
INSERT INTO admin_keys (name, scopes, secret_sha256, expires_at, networks)
VALUES ($1, $2, $3, $4, $5::text[]::cidr[])
ON CONFLICT (name) WHERE revoked_at IS NULL DO NOTHING RETURNING id"""
_LOCK = """
SELECT name, revoked_at, networks::text[], revoked_at IS NULL AND (expires_at IS NULL OR expires_at > now())
    AS is_good
FROM admin_keys WHERE id = $1 FOR UPDATE"""
_SET_NETWORKS = """
UPDATE admin_keys SET networks = $2::text[]::cidr[] WHERE id = $1
RETURNING id, name, scopes, created_at, expires_at, revoked_at, last_used_at, networks::text[]"""
_REVOKE = "UPDATE admin_keys SET revoked_at = now() WHERE id = $1 RETURNING revoked_at"


class AdminKeyBook:
    """Reads and changes admin keys. Every call raises Unavailable."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def credentials(self, key_ids: Sequence[int]) -> dict[int, AdminCredential]:
        """The credentials of those keys that exist and are neither revoked nor expired, by key id."""
        async with self._pool.connection() as connection:
            rows = await connection.fetch(_CREDENTIALS, key_ids)
        return {
            key_id: AdminCredential(
                key_id=key_id, name=name, scopes=tuple(scopes), secret_sha256=digest, networks=tuple(networks)
            )
            for key_id, name, scopes, digest, networks in rows
        }

    async def keys(self) -> list[AdminKey]:
        """The newest 1,000 keys, also revoked ones, newest first."""
        async with self._pool.connection() as connection:
            rows = await connection.fetch(_LIST, _KEYS_MAX)
        return [_key(row) for row in rows]

    async def create(
        self,
        name: str,
        scopes: Sequence[Scope],
        expires_at: datetime | None,
        once: IdempotentCall | None = None,
        networks: Sequence[str] = (),
    ) -> NewAdminKey:
        """Make a key. Raises Refusal 409 when another key has the name or `once` was used before; 422."""
        check_text("name", name)
        if name == RESERVED:
            raise Refusal(
                "invalid_field", 422, f"`name` must not be {RESERVED}: that key is not here.", "name"
            )
        secret, wanted = api_keys.new_secret(), tuple(dict.fromkeys(scopes))
        async with self._pool.transaction() as connection:
            await _claim(connection, once)
            if expires_at is not None and expires_at <= await connection.fetchval("SELECT now()"):
                raise Refusal("invalid_field", 422, "`expires_at` must be a time to come.", "expires_at")
            key_id = await connection.fetchval(
                _NEW, name, wanted, api_keys.digest(secret), expires_at, networks
            )
            if key_id is None:
                detail = "`name` must be one that no other admin key has; revoke that one first."
                raise Refusal("name_taken", 409, detail, "name")
            after = {"key_id": key_id, "name": name, "scopes": wanted, "expires_at": expires_at}
            await note_change(connection, None, after | {"networks": networks})
            await keep_answer(connection, once, str(key_id).encode())
        return NewAdminKey(
            id=key_id, name=name, scopes=wanted, expires_at=expires_at,
            admin_key=api_keys.admin_key_text(key_id, secret), networks=tuple(networks),
        )  # fmt: skip

    async def set_networks(self, key_id: int, networks: Sequence[str]) -> AdminKey:
        """Let a key be used from these networks alone; none: from everywhere. Again changes nothing.

        Raises Refusal 404, 409 when the key is good no more.
        """
        async with self._pool.transaction() as connection:
            found = await _locked(connection, key_id)
            if not found["is_good"]:
                detail = "The key is revoked or expired: it cannot be changed."
                raise Refusal("key_over", 409, detail, "key_id")
            changed = _key(await connection.fetchrow(_SET_NETWORKS, key_id, networks))
            before = {"key_id": key_id, "name": found["name"], "networks": found["networks"]}
            if list(changed.networks) != found["networks"]:
                await note_change(connection, before, before | {"networks": changed.networks})
        return changed

    async def revoke(self, key_id: int) -> None:
        """Revoke a key; revoking it again changes nothing. Raises Refusal 404."""
        async with self._pool.transaction() as connection:
            found = await _locked(connection, key_id)
            if found["revoked_at"] is None:
                at = await connection.fetchval(_REVOKE, key_id)
                before = {"key_id": key_id, "name": found["name"], "revoked_at": None}
                await note_change(connection, before, before | {"revoked_at": at})


def _key(row: Any) -> AdminKey:
    return AdminKey(**{**row, "scopes": tuple(row["scopes"]), "networks": tuple(row["networks"])})


async def _locked(connection: Any, key_id: int) -> Any:
    """The row of `_LOCK`. Raises Refusal 404."""
    found = await connection.fetchrow(_LOCK, key_id)
    if found is None:
        raise Refusal("not_found", 404, "There is no admin key with this id.")
    return found


async def _claim(connection: Any, once: IdempotentCall | None) -> None:
    """Take the Idempotency-Key for this transaction. Raises Refusal 409 when it was used before."""
    answer = await claim(connection, once)
    if answer is not None:
        raise Refusal(
            "idempotency_key_used",
            409,
            f"This request was answered before: it made the admin key {msgspec.json.decode(answer)}, whose"
            " secret cannot be shown again; if it was lost, revoke that key and create another.",
            "Idempotency-Key",
        )
