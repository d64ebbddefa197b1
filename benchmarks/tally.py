"""What came back of a load."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from engine.capacity.simulation import BINS, Latencies, bin_of
from engine.providers.http_client.connection import HttpOutcome


@dataclass
class Tally:
    """What came back of one load."""

    # Messages, or requests where a request is no message, that were answered as they should be.
    accepted: int = 0
    # Requests without that answer, by what came instead, and messages refused, by code.
    trouble: Counter[str] = field(default_factory=Counter)
    # Requests by the time from the instant at which each was due to its answer, in the bins of `Latencies`,
    # which take the same memory however long a load lasts.
    bins: list[int] = field(default_factory=lambda: [0] * BINS)
    seconds: float = 0.0

    @property
    def accepted_per_s(self) -> float:
        """How much was accepted a second."""
        return self.accepted / self.seconds if self.seconds else 0.0

    @property
    def requests(self) -> int:
        """Requests that have come to an end."""
        return sum(self.bins)

    def took(self, latency_s: float) -> None:
        """Note that a request ended so long after it was due, seconds."""
        self.bins[bin_of(latency_s)] += 1

    def answered(self, outcome: HttpOutcome, status: int) -> bool:
        """Whether a request got an answer with `status`; it is noted what it got instead."""
        if outcome.kind == "answered" and outcome.status == status:
            return True
        self.trouble[
            f"status {outcome.status}" if outcome.kind == "answered" else f"{outcome.kind}: {outcome.reason}"
        ] += 1
        return False

    def quantile_ms(self, q: float) -> float:
        """The latency that a share `q` (0 to 1) of the requests did not exceed, to 1 %, milliseconds."""
        return self.quantiles_ms([q])[0]

    def quantiles_ms(self, parts: Sequence[float]) -> list[float]:
        """The same for several at once."""
        seen = Latencies(self.bins, 0.0, 0.0)
        return [seen.quantile_s(q) * 1000 for q in parts]
