"""Records of admin keys, and what their scopes allow."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime
from typing import Literal, get_args

import msgspec

from engine.networks import Network

# read     look at everything
# operate  what is sent, how and when: routes, providers, queues, dead letters, limits and pauses
# money    organisations, their keys, their credit, prices
# all      everything, admin keys too
Scope = Literal["read", "operate", "money", "all"]
SCOPES: tuple[Scope, ...] = get_args(Scope)


def allows(scopes: Collection[Scope], wanted: Scope) -> bool:
    """Whether a key with these scopes is good for a call that needs `wanted`. Each scope includes `read`."""
    return wanted in scopes or "all" in scopes or (wanted == "read" and bool(scopes))


class AdminCredential(msgspec.Struct, frozen=True, kw_only=True):
    """What the admin key of a caller is checked against, and whose it is."""

    # None: the key of the configuration.
    key_id: int | None
    name: str
    scopes: tuple[Scope, ...]
    # The SHA-256 of its secret, 32 bytes.
    secret_sha256: bytes
    # Those that it may be used from; none: from everywhere.
    networks: tuple[Network, ...] = ()


class AdminKey(msgspec.Struct, frozen=True, kw_only=True):
    """An admin key without its secret."""

    id: int
    # One at a time has it.
    name: str
    scopes: tuple[Scope, ...]
    created_at: datetime
    # None: it does not expire.
    expires_at: datetime | None
    # None while it is not revoked.
    revoked_at: datetime | None
    # To the minute; None: never.
    last_used_at: datetime | None
    # The networks that it may be used from; none: from everywhere.
    networks: tuple[str, ...] = ()


class NewAdminKey(msgspec.Struct, frozen=True, kw_only=True):
    """An admin key that was just made. Its secret is known only now."""

    id: int
    name: str
    scopes: tuple[Scope, ...]
    expires_at: datetime | None
    # The whole key, as an operator sends it.
    admin_key: str
    # The networks that it may be used from; none: from everywhere.
    networks: tuple[str, ...] = ()
