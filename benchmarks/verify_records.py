"""What `benchmarks.verify_plan` predicted and measured."""

from __future__ import annotations

import msgspec

from engine.records import Queue

# A prediction that is nearer to what was measured than this, milliseconds, is right whatever the part of it.
_NEAR_MS = 5.0


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """One queue of one run; latencies in milliseconds by quantile, such as "p99"."""

    scenario: str
    queue: Queue
    processes: int
    concurrency: int
    # Whether it is the plan itself, or one that has a little less.
    planned: bool
    messages: int
    # For the long run; for this load; what was measured; and between what 95 of 100 loads of this length are
    # predicted to be.
    predicted_ms: dict[str, float]
    load_ms: dict[str, float]
    measured_ms: dict[str, float]
    chance_ms: dict[str, tuple[float, float]]
    targets: list[str]
    predicted_meets: bool
    measured_meets: bool
    # How late the load itself was at most, milliseconds, and what it got instead of 202.
    load_late_ms: float
    trouble: dict[str, int]
    # How many CPUs of this machine others used while the load was sent.
    others_cpus: float = 0.0

    def off(self) -> dict[str, float]:
        """By quantile, how far what was measured is from the prediction, as a part of it; 0 when it is near.

        A plan is held to the prediction for the long run, a shape that is too small to that for its load.
        """
        found = {}
        for name, predicted in (self.predicted_ms if self.planned else self.load_ms).items():
            distance = self.measured_ms[name] - predicted
            found[name] = distance / predicted if abs(distance) > _NEAR_MS else 0.0
        return found
