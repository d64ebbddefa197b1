"""How many messages one process has refused."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from engine.errors import Refusal


class RefusedCounts(Counter[tuple[str, ...]]):
    """Messages that were refused by themselves, by the code of their refusal."""

    def add(self, outcomes: Sequence[object]) -> None:
        """Count those of the outcomes of one submission that are refusals."""
        for outcome in outcomes:
            if isinstance(outcome, Refusal):
                self[outcome.code,] += 1
