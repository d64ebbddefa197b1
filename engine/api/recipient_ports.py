"""What the calls about recipients and senders need of the rest of the engine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from engine.intake.records import DestinationSheet, OptOut, OptOutSource, SenderKind, SenderRules


class OptOutBook(Protocol):
    """Who wants no messages of an organisation. Every call raises Unavailable and Refusal 404."""

    async def listed(self, organisation_id: int, after: int, limit: int) -> list[OptOut]:
        """At most `limit` of them whose digits are above `after`, in that order."""

    async def one(self, organisation_id: int, number: str) -> OptOut:
        """That of a number in E.164; Refusal 404 when it has not opted out."""

    async def add(self, organisation_id: int, numbers: Sequence[str], source: OptOutSource) -> int:
        """Opt numbers in E.164 out; how many had not opted out before."""

    async def remove(self, organisation_id: int, numbers: Sequence[str], source: OptOutSource) -> int:
        """Let numbers have messages again; how many had opted out."""


class SenderBook(Protocol):
    """Who may use which senders, and what destinations take. Every call raises Unavailable."""

    async def of(self, organisation_id: int) -> SenderRules:
        """The rules of an organisation. Raises Refusal 404."""

    async def change(self, organisation_id: int, values: Mapping[str, Any]) -> SenderRules:
        """Set some fields of them; all of them then. Raises Refusal 404, 422."""

    async def destinations(self) -> DestinationSheet:
        """What destinations take."""

    async def replace_destinations(
        self, rules: Mapping[str, tuple[SenderKind, ...]], version: int | None = None
    ) -> DestinationSheet:
        """Let `rules` be what all of them take; with `version` only if that one stands."""
