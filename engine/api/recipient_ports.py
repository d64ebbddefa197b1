"""What the calls about recipients and senders need of the rest of the engine."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from engine.inbound.auto_replies import AutoReply
from engine.inbound.ports import InboundSink
from engine.inbound.records import InboundMessage, InboundRoute
from engine.inbound.words import WordList
from engine.intake.records import DestinationSheet, OptOut, OptOutSource, SenderKind, SenderRules


class OptOutBook(Protocol):
    """Who wants no messages of an organisation. Every call raises Unavailable and Refusal 404."""

    async def listed(self, organisation_id: int, after: int, limit: int) -> list[OptOut]:
        """At most `limit` of them whose digits are above `after`, in that order."""

    async def one(self, organisation_id: int, number: str) -> OptOut:
        """That of a number in E.164; Refusal 404 when it has not opted out."""

    async def add(self, organisation_id: int, numbers: Sequence[str], source: OptOutSource) -> int:
        """Opt numbers in E.164 out; how many had not opted out before. After Unavailable some may have."""

    async def remove(self, organisation_id: int, numbers: Sequence[str], source: OptOutSource) -> int:
        """Let numbers have messages again; how many had opted out. After Unavailable some may already."""


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


# (organisation, 0 for nobody; (time in microseconds, id) behind which it begins; limit) → inbound messages,
# the newest first. Raises Unavailable.
InboundPage = Callable[[int, tuple[int, str], int], Awaitable[list[InboundMessage]]]


class InboundRoutes(Protocol):
    """Whose inbound messages are. Every call raises Unavailable."""

    async def routes(self) -> list[InboundRoute]:
        """All routes."""

    async def put(self, route: InboundRoute) -> InboundRoute:
        """Add a route or change its organisation; as it is kept. Raises Refusal 404, 422."""

    async def remove(self, number: str, keyword: str) -> None:
        """Remove a route. Raises Refusal 422."""


class AutoReplyBook(Protocol):
    """What organisations answer to STOP, START and HELP. Every call raises Unavailable and Refusal 404."""

    async def of(self, organisation_id: int) -> list[AutoReply]:
        """Those of one, in order."""

    async def put(self, organisation_id: int, wanted: AutoReply) -> AutoReply:
        """Add a reply or change its text; as it is kept. Raises Refusal 409, 422."""

    async def remove(self, organisation_id: int, action: str, number: str, language: str) -> None:
        """Remove a reply, if there is one. Raises Refusal 422."""


@dataclass(frozen=True, kw_only=True)
class RecipientServices:
    """What a process passes to the calls about recipients and senders."""

    opt_outs: OptOutBook
    senders: SenderBook
    # Where inbound messages are kept first, where they stay, and whose they are.
    inbound: InboundSink
    inbound_page: InboundPage
    inbound_routes: InboundRoutes
    auto_replies: AutoReplyBook
    # The words STOP, START and HELP.
    words: WordList
    # UTC, microseconds since 1970.
    now_us: Callable[[], int]
