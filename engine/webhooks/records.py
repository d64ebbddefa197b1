"""Records of webhooks: endpoints, events, and deliveries of an event to a URL.

`WebhookEvent` is a MessagePack array on a stream in Redis: its order is the wire format, and fields may only
be added at the end, with a default.
"""

from __future__ import annotations

from datetime import datetime
from typing import Literal

import msgspec

from engine.hosts.webhook_urls import Target

# The type of the event that an organisation has sent to try its endpoint.
TEST_EVENT = "webhook.test"
# What became of a delivery that is kept: it is tried again, or it has failed for good.
DeliveryState = Literal["waiting", "failed"]
# So many deliveries that were made are listed of each endpoint, and for so long after the last one, seconds.
MADE_MAX = 100
MADE_KEPT_S = 7 * 86_400


class WebhookEvent(msgspec.Struct, frozen=True, array_like=True, kw_only=True, gc=False):
    """An event that an organisation is told, as it lies on the stream `webhooks:{s}`.

    Whoever records something that is no row of activity (a message that was received, a test) puts one there
    (`engine.stores.redis.webhook_stream`). The events of sent messages are made of their rows.
    """

    # The same for every attempt and every endpoint; letters, digits and `_.-`, at most 100.
    id: str
    organisation_id: int
    # Such as "message.received".
    type: str
    # When it happened.
    at_us: int
    # What the event says: a JSON object. The receiver finds it under `data`.
    data: str
    # A URL that is told as well as the organisation's endpoints; "": none.
    callback_url: str = ""
    # The one endpoint that is told; 0: all of the organisation.
    endpoint_id: int = 0


class Endpoint(msgspec.Struct, frozen=True, kw_only=True):
    """A URL of an organisation, and the secrets that its deliveries are signed with."""

    id: int
    organisation_id: int
    # "": it stands for the callback URLs of messages, which are signed with its secrets.
    url: str
    # Raw octets.
    secret: bytes
    # The secret before it, which signs as well until then, UTC, seconds since 1970.
    previous: bytes | None = None
    previous_until_s: float = 0.0
    # The types of the events that it is told of; None: all.
    events: frozenset[str] | None = None

    def gets(self, event: WebhookEvent) -> bool:
        """Whether it is told of an event of its organisation. One that is for it alone, it always is."""
        if event.endpoint_id:
            return event.endpoint_id == self.id
        return self.events is None or event.type in self.events

    def secrets(self, now_s: float) -> tuple[bytes, ...]:
        """Those that sign at `now_s`, the newest first."""
        if self.previous is None or now_s >= self.previous_until_s:
            return (self.secret,)
        return self.secret, self.previous


class Delivery(msgspec.Struct, kw_only=True, eq=False):
    """One event on its way to one URL."""

    event_id: str
    type: str
    organisation_id: int
    shard: int
    endpoint_id: int
    target: Target
    # The body of the request: the same octets in every attempt.
    body: bytes
    at_us: int
    # Attempts that have failed.
    attempts: int = 0
    # When it was first put into PostgreSQL; 0: it is not there.
    kept_since_us: int = 0
    # Its row in PostgreSQL; 0: it has none.
    row_id: int = 0
    # Monotonic, when it was put in line, seconds.
    queued_s: float = 0.0
    # Of the last attempt: the status, 0 when there was no answer, and a word for what went wrong.
    status: int = 0
    reason: str = ""
    # What has to be settled before the position in the streams may go on; None for one that was kept.
    part: ReadPart | None = None


class MadeDelivery(msgspec.Struct, frozen=True, array_like=True, kw_only=True, gc=False):
    """A delivery that an endpoint took, as it lies in Redis (`webhooks:{s}:made:ENDPOINT`)."""

    event_id: str
    type: str
    url: str
    # When the event happened, and when the endpoint answered, microseconds since 1970.
    event_at_us: int
    at_us: int
    # The HTTP status of the answer, and how long it took.
    status: int
    duration_ms: float
    # Together with the one that succeeded.
    attempts: int


class ReadPart:
    """What one read brought of one shard: the position behind it, and how much of it is not settled yet."""

    __slots__ = ("activity", "events", "open", "shard")

    def __init__(self, shard: int, activity: str, events: str) -> None:
        """`activity`, `events`: the stream ids of the last entry read; "": none of that stream."""
        self.shard = shard
        self.activity = activity
        self.events = events
        self.open = 0


class ShownEndpoint(msgspec.Struct, frozen=True, kw_only=True):
    """An endpoint as its organisation sees it."""

    id: int
    # null: it stands for the callback URLs of messages.
    url: str | None
    created_at: datetime
    # Until when a replaced secret signs beside the present one; null: there is one secret.
    previous_secret_until: datetime | None
    # The types of the events that it is told of; null: all.
    events: tuple[str, ...] | None = None


class ShownMadeDelivery(msgspec.Struct, frozen=True, kw_only=True):
    """A delivery that was made, as its organisation sees it."""

    event_id: str
    type: str
    url: str
    # When the event happened, and when the endpoint answered.
    event_at: datetime
    delivered_at: datetime
    # The HTTP status of the answer, and how long it took.
    status: int
    duration_ms: float
    # Together with the one that succeeded.
    attempts: int


class ShownDelivery(msgspec.Struct, frozen=True, kw_only=True):
    """A delivery that is kept, as its organisation sees it."""

    id: int
    state: DeliveryState
    event_id: str
    type: str
    url: str
    # When the event happened.
    event_at: datetime
    attempts: int
    # Of a delivery that waits.
    next_attempt_at: datetime | None
    # Of one that has failed.
    failed_at: datetime | None
    # Of the last attempt: the HTTP status, null when there was no answer, and a word for what went wrong.
    last_status: int | None
    last_reason: str
