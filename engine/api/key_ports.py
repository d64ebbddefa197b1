"""What the HTTP API needs of keys and of the record of changes, as protocols."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Protocol

from engine.admin_keys import AdminCredential, AdminKey, NewAdminKey, Scope
from engine.changes import Change, ChangeFilter, ChangeUnderWay
from engine.changes import Outcome as ChangeOutcome
from engine.organisations import ANY_KEY, ApiKey, ApiKeyWish, NewKey
from engine.records import IdempotentCall


class AdminKeyBook(Protocol):
    """Admin keys with names. Every call raises Unavailable."""

    async def credentials(self, key_ids: Sequence[int]) -> Mapping[int, AdminCredential]:
        """Those of the keys that exist and are neither revoked nor expired, by key id."""

    async def keys(self) -> list[AdminKey]:
        """The keys, newest first, revoked ones too."""

    async def create(
        self,
        name: str,
        scopes: Sequence[Scope],
        expires_at: datetime | None,
        once: IdempotentCall | None = None,
        networks: Sequence[str] = (),
    ) -> NewAdminKey:
        """One more key. Raises Refusal 409, 422."""

    async def set_networks(self, key_id: int, networks: Sequence[str]) -> AdminKey:
        """Set those that the key may be used from; none: from everywhere. Raises Refusal 404, 409."""

    async def revoke(self, key_id: int) -> None:
        """Make the key good for nothing; again changes nothing. Raises Refusal 404."""


class Changes(Protocol):
    """The records of what operators changed. Every call raises Unavailable."""

    async def add(self, change: ChangeUnderWay, outcome: ChangeOutcome, begun_id: int | None = None) -> int:
        """Add a record of the change; its id. `begun_id`: the record with `begun` that it ends."""

    async def page(self, wanted: ChangeFilter, before_id: int, limit: int) -> list[Change]:
        """At most `limit` records with ids below `before_id`, the newest first."""


class ApiKeyBook(Protocol):
    """API keys of organisations. Every call raises Unavailable."""

    async def create(
        self, organisation_id: int, once: IdempotentCall | None = None, wish: ApiKeyWish = ANY_KEY
    ) -> NewKey:
        """One more key of the organisation. Raises Refusal 404, 409, 422."""

    async def rotate(
        self, organisation_id: int, key_id: int, overlap_s: float, once: IdempotentCall | None = None
    ) -> NewKey:
        """A key like this one, which is good for `overlap_s` seconds more. Raises Refusal 404, 409, 422."""

    async def keys(self, organisation_id: int) -> list[ApiKey]:
        """The organisation's keys, newest first, revoked ones too. Raises Refusal 404."""

    async def set_networks(self, organisation_id: int, key_id: int, networks: Sequence[str]) -> ApiKey:
        """Set those that the key may be used from; none: from everywhere. Raises Refusal 404, 409."""

    async def revoke(self, organisation_id: int, key_id: int) -> None:
        """Make the key good for nothing; again changes nothing. Raises Refusal 404."""
