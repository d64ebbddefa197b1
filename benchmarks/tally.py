"""What came back of a load."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from engine.providers.http_client.connection import HttpOutcome


@dataclass
class Tally:
    """What came back of one load."""

    # Messages, or requests where a request is no message, that were answered as they should be.
    accepted: int = 0
    # Requests without that answer, by what came instead, and messages refused, by code.
    trouble: Counter[str] = field(default_factory=Counter)
    # Milliseconds from the instant at which a request was due to its answer, one for each request.
    latencies_ms: list[float] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def accepted_per_s(self) -> float:
        """How much was accepted a second."""
        return self.accepted / self.seconds if self.seconds else 0.0

    def answered(self, outcome: HttpOutcome, status: int) -> bool:
        """Whether a request got an answer with `status`; it is noted what it got instead."""
        if outcome.kind == "answered" and outcome.status == status:
            return True
        self.trouble[
            f"status {outcome.status}" if outcome.kind == "answered" else f"{outcome.kind}: {outcome.reason}"
        ] += 1
        return False

    def quantile_ms(self, q: float) -> float:
        """The latency that a share `q` (0 to 1) of the requests did not exceed, milliseconds; 0.0 of none."""
        return self.quantiles_ms([q])[0]

    def quantiles_ms(self, parts: Sequence[float]) -> list[float]:
        """The same for several at once."""
        ordered = sorted(self.latencies_ms) or [0.0]
        return [ordered[min(len(ordered) - 1, int(q * len(ordered)))] for q in parts]
