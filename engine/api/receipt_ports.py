"""What the API asks of those that read the receipts which providers push."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from engine.receipts.records import ReceiptsRead


class ReceiptReply(Protocol):
    """What a provider is answered once its receipts are kept."""

    @property
    def status(self) -> int:
        """The HTTP status, 200 to 299."""

    @property
    def content_type(self) -> str:
        """The value of Content-Type."""

    @property
    def body(self) -> str:
        """The body as text."""


class ReceiptReader(Protocol):
    """How to read the receipts that a provider pushes, and what to answer."""

    @property
    def token(self) -> str:
        """The secret word that must stand in the path."""

    @property
    def read(self) -> Callable[[str, str, str, bytes, int], ReceiptsRead]:
        """The function (method, query of the URL as it came, content type, body, now_us) → receipts.

        It raises nothing; what cannot be read is in the refusal.
        """

    @property
    def reply(self) -> ReceiptReply:
        """What the provider is answered once its receipts are kept."""
