"""What the API asks of those that read what providers push."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar

from engine.errors import Refusal
from engine.inbound.records import InboundPart
from engine.receipts.records import Receipt

_Found_co = TypeVar("_Found_co", covariant=True)


class PushReply(Protocol):
    """What a provider is answered once all that it pushed is kept."""

    @property
    def status(self) -> int:
        """The HTTP status, 200 to 299."""

    @property
    def content_type(self) -> str:
        """The value of Content-Type."""

    @property
    def body(self) -> str:
        """The body as text."""


class PushReader(Protocol[_Found_co]):
    """How to read what a provider pushes, and what to answer."""

    @property
    def token(self) -> str:
        """The secret word that must stand in the path."""

    @property
    def read(self) -> Callable[[str, str, str, bytes, int], tuple[_Found_co, Refusal | None]]:
        """The function (method, query of the URL as it came, content type, body, now_us) → what was found,
        and why the request is refused, if it is. It raises nothing."""

    @property
    def reply(self) -> PushReply:
        """What the provider is answered once all is kept."""


ReceiptReader = PushReader[list[Receipt]]
# Messages, each with what it is known again by and for how long, seconds.
InboundReader = PushReader[list[tuple[InboundPart, bytes, int]]]
