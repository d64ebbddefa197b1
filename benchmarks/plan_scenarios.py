"""The scenarios by which the planner is held to what really happens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from engine.capacity.peaks import Peak

_QUANTILES = "p50=80ms,p90=150ms,p99=900ms"
_EXPONENTIAL = "exponential(mean=100ms)"
_LOGNORMAL = "lognormal(median=80ms, sigma=0.6)"
_CODES = Peak("codes", "express", 60.0)


class Scenario(NamedTuple):
    """What arrives, what it meets, and what is promised."""

    name: str
    peaks: Sequence[Peak]
    response_times: str
    targets: Sequence[str]
    throughput: float | None = None
    failures: float = 0.0


def _zipf(queue: str, rate: float, organisations: int, burst: int = 1) -> list[Peak]:
    """As uneven as customers are: by Zipf's law."""
    weights = [1 / (n + 1) for n in range(organisations)]
    assert queue in ("express", "normal")
    return [
        Peak(f"{queue} {n}", "express" if queue == "express" else "normal", rate * w / sum(weights), burst)
        for n, w in enumerate(weights)
    ]


SCENARIOS = (
    Scenario("light, exponential", _zipf("express", 40, 10), _EXPONENTIAL, ["express p99 <= 2s"]),
    Scenario("light, quantiles", _zipf("express", 40, 10), _QUANTILES, ["express p99 <= 2s"]),
    Scenario("strict, exponential", _zipf("express", 150, 20), _EXPONENTIAL, ["express p99 <= 550ms"]),
    Scenario("strict, lognormal", _zipf("express", 150, 20), _LOGNORMAL, ["express p99 <= 400ms"]),
    Scenario(
        "90 % of the slots, exponential", _zipf("normal", 200, 20), _EXPONENTIAL, ["normal p99 <= 700ms"]
    ),
    Scenario("90 % of the slots, quantiles", _zipf("normal", 200, 20), _QUANTILES, ["normal p99 <= 1200ms"]),
    Scenario("bursts of 20", _zipf("normal", 150, 10, 20), _LOGNORMAL, ["normal p99 <= 600ms"]),
    Scenario("bursts of 100", _zipf("normal", 150, 10, 100), _EXPONENTIAL, ["normal p99 <= 2s"]),
    Scenario(
        "a provider's limit", _zipf("normal", 150, 10, 10), _LOGNORMAL, ["normal p99 <= 2s"], throughput=200.0
    ),
    Scenario(
        "a campaign beside codes",
        [_CODES, Peak("campaign", "normal", 100.0, 1000)],
        _LOGNORMAL,
        ["express p99 <= 500ms", "normal p95 <= 10s"],
    ),
    Scenario(
        "a campaign beside codes at a limit",
        [Peak("codes", "express", 30.0), Peak("campaign", "normal", 100.0, 500)],
        _LOGNORMAL,
        ["express p99 <= 600ms", "normal p95 <= 30s"],
        throughput=200.0,
    ),
    Scenario("failures", _zipf("express", 80, 10), _LOGNORMAL, ["express p95 <= 1500ms"], failures=0.03),
)
