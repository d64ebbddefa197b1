"""The calls on API keys of organisations, in PostgreSQL.

Under failure: as `engine.stores.postgres.directory`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import msgspec

from engine import api_keys
from engine.errors import Refusal
from engine.organisations import ANY_KEY, ApiKey, ApiKeyWish, NewKey
from engine.records import IdempotentCall
from engine.stores.postgres.api_keys import OVERLAP_S_MAX, add_key, keys_of, revoke, set_networks, succeed
from engine.stores.postgres.changes import note_change
from engine.stores.postgres.directory import (
    check_text,
    claim_once,
    exists_in,
    keep_made,
    no_organisation,
)  # fmt: skip
from engine.stores.postgres.pool import Pool


class ApiKeyBook:
    """Makes, lists, changes and revokes API keys. Every call raises Unavailable."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def create(
        self, organisation_id: int, once: IdempotentCall | None = None, wish: ApiKeyWish = ANY_KEY
    ) -> NewKey:
        """Make one more key; the others stay valid.

        Raises Refusal 404, 409 when `once` was used before, 422.
        """
        if wish.name:
            check_text("name", wish.name)
        wish = msgspec.structs.replace(wish, scopes=tuple(dict.fromkeys(wish.scopes)))

        async def make(connection: Any, secret: str) -> int:
            if not await exists_in(connection, organisation_id):
                raise no_organisation()
            key_id = await add_key(connection, organisation_id, wish, secret)
            await note_change(connection, None, {"key_id": key_id, **msgspec.structs.asdict(wish)})
            return key_id

        return await self._made(organisation_id, once, make)

    async def rotate(
        self, organisation_id: int, key_id: int, overlap_s: float, once: IdempotentCall | None = None
    ) -> NewKey:
        """Make a key like this one, and let this one be good for `overlap_s` seconds more.

        Raises Refusal 404; 409 when the key is good no more, or `once` was used before; 422.
        """
        if not 0 <= overlap_s <= OVERLAP_S_MAX:
            allowed = f"from 0 to {OVERLAP_S_MAX} seconds"
            raise Refusal("invalid_field", 422, f"`overlap_s` must be {allowed}.", "overlap_s")

        async def make(connection: Any, secret: str) -> int:
            return await succeed(connection, organisation_id, key_id, overlap_s, secret)

        return await self._made(organisation_id, once, make)

    async def _made(
        self, organisation_id: int, once: IdempotentCall | None, make: Callable[[Any, str], Awaitable[int]]
    ) -> NewKey:
        secret = api_keys.new_secret()
        async with self._pool.transaction() as connection:
            await claim_once(connection, once)
            key_id = await make(connection, secret)
            await keep_made(connection, once, organisation_id, key_id)
        return NewKey(id=key_id, api_key=api_keys.key_text(key_id, secret))

    async def keys(self, organisation_id: int) -> list[ApiKey]:
        """The newest 1,000 keys, also revoked ones, newest first. Raises Refusal 404."""
        async with self._pool.connection() as connection:
            found = await keys_of(connection, organisation_id)
            if not found and not await exists_in(connection, organisation_id):
                raise no_organisation()
        return found

    async def set_networks(self, organisation_id: int, key_id: int, networks: Sequence[str]) -> ApiKey:
        """Let a key be used from these networks alone; none: from everywhere. Again changes nothing.

        Raises Refusal 404, 409 when the key is good no more.
        """
        async with self._pool.transaction() as connection:
            return await set_networks(connection, organisation_id, key_id, networks)

    async def revoke(self, organisation_id: int, key_id: int) -> None:
        """Revoke a key; revoking it again changes nothing. Raises Refusal 404."""
        async with self._pool.transaction() as connection:
            await revoke(connection, organisation_id, key_id)
