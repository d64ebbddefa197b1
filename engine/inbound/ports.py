"""What the inbox asks of the stores. Every call raises Unavailable, and may be repeated."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from engine.inbound.auto_replies import AutoReply, DueReply
from engine.inbound.records import InboundMessage, InboundPart, InboundRoute, KeptPart
from engine.intake.records import OptOutSource
from engine.stream_id import StreamId


class InboundSink(Protocol):
    """Where providers put the messages that they bring."""

    def put(self, parts: Sequence[tuple[InboundPart, bytes, int]], stored: Callable[[bool], None]) -> None:
        """Take parts, each with what tells it from others and how long it may come again, seconds. Returns
        at once.

        `stored` is called exactly once, on the loop, and never from inside `put`: with True when all of them
        are in Redis and cannot be lost any more, also when they were there before; with False when they could
        not be kept, and the provider should send them again.
        """


class InboundStream(Protocol):
    """The parts that are kept in Redis."""

    async def lease(self, owner: str, ttl_ms: int) -> bool:
        """Become or stay the one active inbox for `ttl_ms`; False while another is."""

    async def release(self, owner: str) -> None:
        """Give the lease up at once, if it is `owner`'s."""

    async def read(self) -> list[KeptPart]:
        """The oldest parts, some thousands at most."""

    async def remove(self, stream_ids: Sequence[StreamId]) -> None:
        """Remove what is done with."""


class InboundRoutes(Protocol):
    """Where the routes are kept."""

    async def routes(self) -> list[InboundRoute]:
        """All of them."""


class OptOuts(Protocol):
    """Where it is kept who wants no messages; a number is in E.164."""

    async def add(
        self,
        organisation_id: int,
        numbers: Sequence[str],
        source: OptOutSource,
        messages: Mapping[str, str] = ...,
    ) -> int:
        """Opt numbers out. `messages`: by number, the id of the message that says so. Raises Refusal 404 for
        an organisation that is none."""

    async def made_by(self, wanted: Sequence[tuple[int, str, str]]) -> set[tuple[int, str]]:
        """Which of these (organisation, number, id of a message) are opted out by that message, as
        (organisation, number)."""

    async def remove(self, organisation_id: int, numbers: Sequence[str], source: OptOutSource) -> int:
        """Let numbers have messages again. Raises Refusal 404."""


class InboundStore(Protocol):
    """Where inbound messages stay."""

    async def add(self, messages: Sequence[InboundMessage]) -> None:
        """Store messages; one that is there already stays once."""


class InboundEvents(Protocol):
    """Where organisations are told of their messages."""

    async def add(self, messages: Sequence[InboundMessage]) -> None:
        """Have the organisations told; a receiver knows a message that comes twice by its id."""


class ReplyTexts(Protocol):
    """Where it stands what organisations answer."""

    async def replies(self, organisation_ids: Sequence[int]) -> list[tuple[int, AutoReply]]:
        """(organisation, reply) of some organisations."""


class ReplyQueue(Protocol):
    """Where replies wait until they are sent."""

    async def put(self, replies: Sequence[DueReply]) -> int:
        """Have them sent, each once however often it is put; how many wait now, or waited. The others are
        more than one number is sent in an hour."""
