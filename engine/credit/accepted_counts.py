"""How many messages one process has admitted."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from engine.records import Addressed


class AcceptedCounts(msgspec.Struct):
    """Messages that were accepted, by the queue that they are for."""

    express: int = 0
    normal: int = 0

    def add(self, messages: Iterable[Addressed]) -> None:
        """Count messages that are in Redis."""
        for message in messages:
            if message.queue == "express":
                self.express += 1
            else:
                self.normal += 1
