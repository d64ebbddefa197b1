"""How often the ledger gave a holder each kind of answer."""

from __future__ import annotations

import msgspec

from engine.credit.records import LedgerAnswer


class AnswerCounts(msgspec.Struct):
    """Answers of the ledger to one holder, by kind; one that comes a second time counts again."""

    grant: int = 0
    refusal: int = 0
    recall: int = 0

    def add(self, answer: LedgerAnswer) -> None:
        """Count one answer."""
        setattr(self, answer.kind, getattr(self, answer.kind) + 1)
