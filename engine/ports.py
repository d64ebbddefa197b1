"""What the services ask of the world outside; adapters in `stores/` and `providers/` give it.

Deadlines: every coroutine here ends within the time its adapter was built with, or
raises `Unavailable`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from engine.credit.ledger_records import (
    Books,
    UsageEntry,
)


class Decide(Protocol):
    """What the ledger decides on (see `credit_ledger.decide`)."""

    def __call__(self, books: Books, entries: Sequence[UsageEntry], begun: Sequence[UsageEntry]) -> None:
        """Apply `entries`, then of the fences in `begun` what the books hold. Raises Broken."""
