"""The API keys of organisations, in PostgreSQL: what `directory` does with them in its transactions."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any, NamedTuple

import msgspec

from engine import api_keys
from engine.errors import Refusal
from engine.organisations import ApiKey, ApiKeyWish, Credential
from engine.stores.postgres.changes import note_change

# So many keys of one organisation are listed; nobody needs more.
_KEYS_MAX = 1_000
OVERLAP_S_MAX = 366 * 86_400

_CREDENTIALS = """
    SELECT id, organisation_id, secret_sha256, scopes, networks, EXISTS (
        SELECT FROM unbooked u WHERE u.organisation_id = k.organisation_id AND u.booked_at IS NULL)
    FROM api_keys k
    WHERE id = ANY($1::bigint[]) AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > now())
"""
_NEW = """
    INSERT INTO api_keys (organisation_id, secret_sha256, name, scopes, expires_at, networks)
    VALUES ($1, $2, $3, $4, $5, $6::text[]::cidr[]) RETURNING id
"""
_LIST = """
    SELECT id, name, scopes, created_at, expires_at, revoked_at, last_used_at, networks::text[]
    FROM api_keys WHERE organisation_id = $1 ORDER BY id DESC LIMIT $2
"""
_SET_NETWORKS = """
    UPDATE api_keys SET networks = $2::text[]::cidr[] WHERE id = $1
    RETURNING id, name, scopes, created_at, expires_at, revoked_at, last_used_at, networks::text[]
"""
_LOCK = """
    SELECT name, scopes, networks::text[], expires_at, revoked_at,
        revoked_at IS NULL AND (expires_at IS NULL OR expires_at > now())
    FROM api_keys WHERE id = $1 AND organisation_id = $2 FOR UPDATE
"""
_REVOKE = "UPDATE api_keys SET revoked_at = now() WHERE id = $1 RETURNING revoked_at"
# A key that ends sooner anyway is not given more time.
_EXPIRE = "UPDATE api_keys SET expires_at = least(expires_at, now() + $2) WHERE id = $1 RETURNING expires_at"


async def credentials_of(connection: Any, key_ids: Sequence[int]) -> dict[int, Credential]:
    """The credentials of those keys that exist and are neither revoked nor expired, by key id."""
    rows = await connection.fetch(_CREDENTIALS, key_ids)
    return {
        key_id: Credential(
            key_id=key_id, organisation_id=o, secret_sha256=s, scopes=tuple(scopes), suspended=suspended,
            networks=tuple(networks),
        )
        for key_id, o, s, scopes, networks, suspended in rows
    }  # fmt: skip


async def add_key(connection: Any, organisation_id: int, wish: ApiKeyWish, secret: str) -> int:
    """Make a key; its id. Raises Refusal 422 when it has expired already."""
    if wish.expires_at is not None and wish.expires_at <= await connection.fetchval("SELECT now()"):
        raise Refusal("invalid_field", 422, "`expires_at` must be a time to come.", "expires_at")
    key_id: int = await connection.fetchval(
        _NEW,
        organisation_id,
        api_keys.digest(secret),
        wish.name,
        wish.scopes,
        wish.expires_at,
        wish.networks,
    )
    return key_id


async def keys_of(connection: Any, organisation_id: int) -> list[ApiKey]:
    """The newest 1,000 keys, also revoked ones, newest first."""
    rows = await connection.fetch(_LIST, organisation_id, _KEYS_MAX)
    return [_key(row) for row in rows]


async def set_networks(connection: Any, organisation_id: int, key_id: int, networks: Sequence[str]) -> ApiKey:
    """Let a key be used from these networks alone; none: from everywhere. The key as it is then.

    Raises Refusal 404, 409 when the key is good no more.
    """
    key = await _locked(connection, organisation_id, key_id)
    if not key.is_good:
        raise Refusal("key_over", 409, "The key is revoked or expired: it cannot be changed.", "key_id")
    changed = _key(await connection.fetchrow(_SET_NETWORKS, key_id, networks))
    before = {"key_id": key_id, "networks": key.wish.networks}
    if changed.networks != key.wish.networks:
        await note_change(connection, before, before | {"networks": changed.networks})
    return changed


async def revoke(connection: Any, organisation_id: int, key_id: int) -> None:
    """Revoke a key; revoking it again changes nothing. Raises Refusal 404."""
    if not (await _locked(connection, organisation_id, key_id)).is_revoked:
        at = await connection.fetchval(_REVOKE, key_id)
        before = {"key_id": key_id, "revoked_at": None}
        await note_change(connection, before, before | {"revoked_at": at})


async def succeed(connection: Any, organisation_id: int, key_id: int, overlap_s: float, secret: str) -> int:
    """Make a key like this one, which is good for `overlap_s` seconds more; the id of the new one.

    Raises Refusal 404, 409 when the key is good no more.
    """
    old = await _locked(connection, organisation_id, key_id)
    if not old.is_good:
        raise Refusal("key_over", 409, "The key is revoked or expired: make another one instead.", "key_id")
    wish = msgspec.structs.replace(old.wish, expires_at=None)
    new_id = await add_key(connection, organisation_id, wish, secret)
    expires = await connection.fetchval(_EXPIRE, key_id, timedelta(seconds=overlap_s))
    before = {"key_id": key_id, "expires_at": old.wish.expires_at}
    await note_change(connection, before, before | {"expires_at": expires, "new_key_id": new_id})
    return new_id


def _key(row: Any) -> ApiKey:
    return ApiKey(**{**row, "scopes": tuple(row["scopes"]), "networks": tuple(row["networks"])})


class _Locked(NamedTuple):
    """A key that nobody else changes now."""

    wish: ApiKeyWish
    is_revoked: bool
    is_good: bool


async def _locked(connection: Any, organisation_id: int, key_id: int) -> _Locked:
    """Raises Refusal 404."""
    found = await connection.fetchrow(_LOCK, key_id, organisation_id)
    if found is None:
        raise Refusal("not_found", 404, "The organisation has no key with this id.")
    name, scopes, networks, expires_at, revoked_at, is_good = found
    wish = ApiKeyWish(name=name, scopes=tuple(scopes), networks=tuple(networks), expires_at=expires_at)
    return _Locked(wish, revoked_at is not None, is_good)
