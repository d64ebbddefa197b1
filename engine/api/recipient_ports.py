"""What the calls about recipients and senders need of the rest of the engine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from engine.intake.records import OptOut, OptOutSource


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
