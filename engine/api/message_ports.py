"""What the calls on messages that were accepted need of the rest of the engine, as protocols."""

from __future__ import annotations

from typing import Protocol

import msgspec

from engine.activity.message_list import MessagePage
from engine.activity.records import CampaignPlace, MessageFilter
from engine.batches import Batch


class Cancels(Protocol):
    """Takes back messages that no provider has been given. Every call raises Unavailable."""

    async def message(self, organisation_id: int, message_id: str) -> msgspec.Struct | None:
        """Cancel one, by its lower-case UUID; None when the organisation has no such message.

        Raises Refusal 409 when it cannot be canceled any more."""

    async def batch(self, organisation_id: int, batch: Batch) -> msgspec.Struct | None:
        """Cancel those of a batch that can be canceled; None when the organisation has no such batch."""

    async def campaign(self, organisation_id: int, campaign: str, place: CampaignPlace) -> msgspec.Struct:
        """Cancel those of a campaign that can be, from a place on, as many as one call does."""


class Lists(Protocol):
    """The messages of organisations. Every call raises Unavailable."""

    async def page(self, organisation_id: int, wanted: MessageFilter, before: str, limit: int) -> MessagePage:
        """At most `limit` messages that are older than the message `before` ("": all are), the newest
        first."""


class Batches(Protocol):
    """The batches of organisations. Every call raises Unavailable."""

    async def progress(self, organisation_id: int, batch: Batch) -> msgspec.Struct | None:
        """What has become of its messages; None when the organisation has no such batch."""
