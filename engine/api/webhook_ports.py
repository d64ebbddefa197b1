"""What the calls on webhooks need of PostgreSQL and Redis, as protocols."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Protocol

import msgspec

from engine.webhooks.records import DeliveryState, MadeDelivery, ShownDelivery, ShownEndpoint, WebhookEvent


class NewEndpoint(Protocol):
    """An endpoint, with the secret that is shown this once."""

    @property
    def endpoint(self) -> ShownEndpoint:
        """The endpoint."""

    @property
    def secret(self) -> str:
        """Its secret, as receivers use it."""


class WebhookBook(Protocol):
    """Endpoints, and deliveries that are kept. Every call raises Unavailable."""

    async def endpoints(self, organisation_id: int) -> list[ShownEndpoint]:
        """Those of an organisation. Raises Refusal 404."""

    async def create(
        self, organisation_id: int, url: str, events: Sequence[str] | None = None
    ) -> NewEndpoint:
        """One more, that is told of these types of events; None: of all. Raises Refusal 404, 409, 422."""

    async def set_events(
        self, organisation_id: int, endpoint_id: int, events: Sequence[str] | None
    ) -> ShownEndpoint:
        """Tell it of these types of events alone; None: of all. Raises Refusal 404, 422."""

    async def remove(self, organisation_id: int, endpoint_id: int) -> None:
        """Tell it nothing more. Raises Refusal 404."""

    async def rotate(self, organisation_id: int, endpoint_id: int | None, overlap_s: float) -> NewEndpoint:
        """A new secret beside the old one; None: that of callback URLs. Raises Refusal 404, 422."""

    async def check(self, organisation_id: int, endpoint_id: int) -> None:
        """Raises Refusal 404 when the organisation has no such endpoint with a URL."""

    async def deliveries(
        self, organisation_id: int, state: DeliveryState | None, before_id: int, limit: int
    ) -> list[ShownDelivery]:
        """At most `limit` with ids below `before_id`, the newest first."""

    async def replay(self, organisation_id: int, delivery_id: int) -> ShownDelivery:
        """Make it again, now. Raises Refusal 404."""

    async def replay_since(self, organisation_id: int, since: datetime) -> int:
        """Make all again that have failed since then; how many."""


class WebhookQueue(Protocol):
    """Where an event is put that organisations are told. Every call raises Unavailable."""

    async def put(self, shard: int, events: Sequence[WebhookEvent]) -> None:
        """Put events on the stream of their shard, all or none."""

    async def made(self, shard: int, endpoint_id: int) -> list[MadeDelivery]:
        """The last deliveries that an endpoint took, the newest first."""


class WebhookServices(msgspec.Struct, frozen=True):
    """What the calls on webhooks work with."""

    book: WebhookBook
    queue: WebhookQueue
    shards: int
