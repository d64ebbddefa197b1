"""Records of the organisations, of their API keys and of their credit."""

from __future__ import annotations

from datetime import datetime
from typing import Literal, get_args

import msgspec

from engine.networks import Network


class Balance(msgspec.Struct, frozen=True, kw_only=True):
    """The credit of an organisation as it sees it, units.

    posted     paid in and not spent: top-ups less captures
    held       the part of it that is set aside for messages under way
    available  the part that new messages can use: posted less held
    """

    posted: int
    held: int
    available: int


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What an operator has set for one organisation; None: as for all."""

    # Its share of a queue, beside others that wait: 1 for all.
    weight: float | None = None
    # Most messages of it that wait; for all as `limits.backlog_max` of the configuration says.
    backlog_max: int | None = None
    # Most messages of it that are accepted, a second; for all without an end.
    rate_max: float | None = None


class Pause(msgspec.Struct, frozen=True, kw_only=True):
    """An operator has paused an organisation, a queue or a provider: nothing of it or through it is sent."""

    since: datetime
    # Why, as the operator says.
    reason: str = ""


class Drain(msgspec.Struct, frozen=True, kw_only=True):
    """An operator drains a queue: it takes no new messages, and delivers those that wait."""

    since: datetime
    # Why, as the operator says.
    reason: str = ""


class Organisation(msgspec.Struct, frozen=True, kw_only=True):
    """A customer of the engine, as the directory lists it."""

    id: int
    name: str
    created_at: datetime
    # The event `low_balance` comes when its usable units fall below this; None: never.
    low_balance: int | None = None
    # It has usage that waits to be booked, and sends nothing until then: `smsengine books repair`.
    suspended: bool = False
    limits: Limits = Limits()
    # None: it is not paused.
    paused: Pause | None = None


# send   submit messages, cancel them, change lists
# read   look at messages, the balance and transactions
# admin  look after the organisation: its keys, endpoints and lists; it includes `read`, and sends nothing
ApiScope = Literal["send", "read", "admin"]
API_SCOPES: tuple[ApiScope, ...] = get_args(ApiScope)
# Of a key for which nobody names any.
USUAL_SCOPES: tuple[ApiScope, ...] = ("send", "read")


class ApiKeyWish(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a new API key is to be like."""

    # For people to read; "" for none.
    name: str = ""
    scopes: tuple[ApiScope, ...] = USUAL_SCOPES
    # None: it does not expire.
    expires_at: datetime | None = None
    # The networks that it may be used from; none: from everywhere.
    networks: tuple[str, ...] = ()


ANY_KEY = ApiKeyWish()


class ApiKey(msgspec.Struct, frozen=True, kw_only=True):
    """An API key of an organisation, without its secret."""

    id: int
    name: str = ""
    scopes: tuple[ApiScope, ...] = USUAL_SCOPES
    created_at: datetime
    # None: it does not expire.
    expires_at: datetime | None = None
    # None while it is not revoked.
    revoked_at: datetime | None
    # To the minute; None: never.
    last_used_at: datetime | None = None
    # The networks that it may be used from; none: from everywhere.
    networks: tuple[str, ...] = ()


class Credential(msgspec.Struct, frozen=True, kw_only=True):
    """What the key of a caller is checked against: the SHA-256 of its secret, 32 bytes."""

    key_id: int
    organisation_id: int
    secret_sha256: bytes
    scopes: tuple[ApiScope, ...] = USUAL_SCOPES
    # Whether new messages of the organisation are refused.
    suspended: bool = False
    # Those that it may be used from; none: from everywhere.
    networks: tuple[Network, ...] = ()


class NewKey(msgspec.Struct, frozen=True, kw_only=True):
    """A key that was just made. Its secret is known only now."""

    id: int
    # The whole key, as the organisation sends it.
    api_key: str


class NewOrganisation(msgspec.Struct, frozen=True, kw_only=True):
    """An organisation that was just made, with its first key."""

    id: int
    name: str
    api_key: str


class TopUp(msgspec.Struct, frozen=True, kw_only=True):
    """Units that were paid in, and the present balance."""

    organisation_id: int
    # The payer's name for it; each counts once for an organisation.
    reference: str
    units: int
    at: datetime
    balance: Balance


class Adjustment(msgspec.Struct, frozen=True, kw_only=True):
    """Units that an operator gave or took, and the balance after it."""

    organisation_id: int
    # The operator's name for it; each counts once for an organisation.
    reference: str
    # Below 0: taken.
    units: int
    reason: str
    at: datetime
    balance: Balance


class Transaction(msgspec.Struct, frozen=True, kw_only=True):
    """A movement of an organisation's units, as the organisation sees it.

    One of messages is a sum of what the ledger booked in one batch.
    """

    # Goes up within an organisation in the order of the commits.
    id: int
    at: datetime
    type: Literal["top-up", "adjustment", "hold", "capture", "release", "reopen"]
    # Below 0 only for an adjustment that took them.
    units: int
    # For a top-up or an adjustment the name that it was given. For a movement that closed books because
    # Redis lost data, the cause. Otherwise None.
    reference: str | None
    # Of an adjustment.
    reason: str | None = None


class UnbookedSum(msgspec.Struct, frozen=True, kw_only=True):
    """Usage of an organisation that the books could not cover, units."""

    organisation_id: int
    # None: the organisation itself is missing.
    name: str | None
    # When the first of it was set aside.
    since: datetime
    # How many entries of usage it is.
    entries: int
    held: int
    captured: int
    released: int
    # What the organisation has to pay for it, and what it lacks.
    available: int
    missing: int


class BookedUsage(msgspec.Struct, frozen=True, kw_only=True):
    """Usage that was unbooked and is in the books now, units; or an organisation that was only made again."""

    organisation_id: int
    held: int
    captured: int
    released: int
    # Units that were given to the organisation for it.
    written_off: int
    # Units that an organisation which was made again lacks; its usage is not booked before it has them.
    missing: int = 0


class RebuiltUsage(msgspec.Struct, frozen=True, kw_only=True):
    """Usage of an organisation that PostgreSQL lost and that recorded activity shows, units."""

    organisation_id: int
    shard: int
    # Units of messages that were sent.
    captured: int
    # Units of messages that were not; below 0 where units had been given back of messages that were sent.
    released: int
    # How many messages were sent.
    messages: int
    # How many of the captured units the organisation lacks: they are set aside as unbooked.
    unbooked: int


class Rebuilding(msgspec.Struct, frozen=True, kw_only=True):
    """What was rebuilt from recorded activity, or would be."""

    dry_run: bool
    # What this call booked; of a dry run, what a call would book.
    rebuilt: list[RebuiltUsage]
    # Of what cannot be rebuilt, or not now, a sentence each.
    not_rebuilt: list[str]


class LossSum(msgspec.Struct, frozen=True, kw_only=True):
    """What was lost at once when Redis or PostgreSQL went back: all shards that lost something together."""

    at: datetime
    who: Literal["redis", "postgres", "both"]
    cause: str
    shards: list[int]
    # Units that the close gave back, and units that were held again.
    released: int
    reopened: int
    # Of Redis: units that were sent and not charged, how many messages that were, how many are gone unsent;
    # None: not counted yet, or nobody can say.
    uncharged_units: int | None
    uncharged_messages: int | None
    gone_messages: int | None
    # Of PostgreSQL: units and messages that were rebuilt, and in how many shards that is still to do.
    rebuilt_units: int
    rebuilt_messages: int
    to_rebuild: int
