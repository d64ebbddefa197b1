"""How many requests one process has answered, and how."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from engine.api.response import Response

_ACCEPTED = ("202",)


@dataclass(frozen=True, slots=True)
class RequestCounts:
    """Of one process, since it began; without what never became a request of the application."""

    # By HTTP status, three digits.
    statuses: Counter[tuple[str, ...]] = field(default_factory=Counter)
    # Requests that were answered with a problem document as a whole, by its code.
    codes: Counter[tuple[str, ...]] = field(default_factory=Counter)

    def add_accepted(self) -> None:
        """Count one answer 202, the most frequent."""
        self.statuses[_ACCEPTED] += 1

    def add(self, response: Response) -> None:
        """Count one answer."""
        self.statuses[f"{response.status}",] += 1
        if response.code:
            self.codes[response.code,] += 1
