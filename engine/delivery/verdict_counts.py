"""How often a provider gave each verdict."""

from __future__ import annotations

import msgspec

from engine.records import VerdictKind


class VerdictCounts(msgspec.Struct):
    """Verdicts of one provider in one worker, by kind."""

    accepted: int = 0
    temporary: int = 0
    throttled: int = 0
    permanent: int = 0
    unknown: int = 0

    def add(self, kind: VerdictKind) -> None:
        """Count one verdict."""
        if kind == "accepted":
            self.accepted += 1
        else:
            setattr(self, kind, getattr(self, kind) + 1)
