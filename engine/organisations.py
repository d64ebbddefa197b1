"""Records of the organisations: their keys, their money."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

import msgspec


class Balance(msgspec.Struct, frozen=True, kw_only=True):
    """An organisation's credit as it sees it, units.

    posted     paid in and not spent: top-ups less captures
    held       of that, set aside for messages under way
    available  what new messages can use: posted less held
    """

    posted: int
    held: int
    available: int


class Organisation(msgspec.Struct, frozen=True, kw_only=True):
    """A customer of the engine, as the directory lists it."""

    id: int
    name: str
    created_at: datetime
    # It is told when its usable units fall below so many; None: never.
    low_balance: int | None = None


class ApiKey(msgspec.Struct, frozen=True, kw_only=True):
    """An organisation's key, without anything of its secret."""

    id: int
    created_at: datetime
    # None while the key is good.
    revoked_at: datetime | None


class Credential(msgspec.Struct, frozen=True, kw_only=True):
    """What a key presented by a caller is checked against."""

    key_id: int
    organisation_id: int
    secret_sha256: bytes


class NewKey(msgspec.Struct, frozen=True, kw_only=True):
    """A key just made; the only time that its secret is known."""

    id: int
    # The whole key, as the organisation presents it.
    api_key: str


class NewOrganisation(msgspec.Struct, frozen=True, kw_only=True):
    """An organisation just made, with its first key."""

    id: int
    name: str
    api_key: str


class TopUp(msgspec.Struct, frozen=True, kw_only=True):
    """Money that came in, and the balance as it is now."""

    organisation_id: int
    # The payer's name for it; counts once per organisation.
    reference: str
    units: int
    at: datetime
    balance: Balance


class Transaction(msgspec.Struct, frozen=True, kw_only=True):
    """A movement of an organisation's units, as the organisation sees it.

    Those of messages are sums: what the ledger booked in one batch.
    """

    # Counts up for an organisation in the order in which its movements were committed.
    id: int
    at: datetime
    type: Literal["top-up", "hold", "capture", "release", "reopen"]
    units: int
    # Of a top-up the payer's name for it; where books were closed because Redis lost them,
    # the cause; else None.
    reference: str | None
