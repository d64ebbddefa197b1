"""The scenarios by which the planner is held to what really happens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from engine.capacity.peaks import Peak
from engine.records import Queue

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
    # The most concurrency of one process, and how many of the planned processes are lost when it is measured.
    concurrency_max: int = 10_000
    lost: int = 0
    # The queue of which a worker is killed in the middle of the load, by SIGKILL.
    killed: Queue | None = None
    # Its load lasts so many times as long as others, because its bursts are large and few.
    stretch: float = 1.0


def zipf(queue: Queue, rate: float, organisations: int, burst: int = 1) -> list[Peak]:
    """As uneven as customers are: by Zipf's law."""
    weights = [1 / (n + 1) for n in range(organisations)]
    return [Peak(f"{queue} {n}", queue, rate * w / sum(weights), burst) for n, w in enumerate(weights)]


SCENARIOS = (
    Scenario("light, exponential", zipf("express", 80, 10), _EXPONENTIAL, ["express p99 <= 470ms"]),
    Scenario("light, quantiles", zipf("express", 80, 10), _QUANTILES, ["express p99 <= 950ms"]),
    Scenario("strict, exponential", zipf("express", 150, 20), _EXPONENTIAL, ["express p99 <= 550ms"]),
    Scenario("strict, lognormal", zipf("express", 150, 20), _LOGNORMAL, ["express p99 <= 400ms"]),
    Scenario(
        "90 % of the slots, exponential", zipf("normal", 200, 20), _EXPONENTIAL, ["normal p99 <= 700ms"]
    ),
    Scenario("90 % of the slots, quantiles", zipf("normal", 200, 20), _QUANTILES, ["normal p99 <= 1200ms"]),
    Scenario("bursts of 20", zipf("normal", 150, 10, 20), _LOGNORMAL, ["normal p99 <= 600ms"]),
    Scenario("bursts of 100", zipf("normal", 150, 10, 100), _EXPONENTIAL, ["normal p99 <= 2s"], stretch=2),
    Scenario(
        "a provider's limit", zipf("normal", 150, 10, 10), _LOGNORMAL, ["normal p99 <= 2s"], throughput=200.0
    ),
    Scenario(
        "a campaign beside codes",
        [_CODES, Peak("campaign", "normal", 100.0, 100)],
        _LOGNORMAL,
        ["express p99 <= 500ms", "normal p95 <= 2s"],
        stretch=2,
    ),
    Scenario(
        "a campaign beside codes at a limit",
        [Peak("codes", "express", 50.0), Peak("campaign", "normal", 100.0, 50)],
        _LOGNORMAL,
        ["express p99 <= 380ms", "normal p95 <= 3s"],
        throughput=200.0,
        stretch=2,
    ),
    Scenario(
        "one worker of four lost",
        zipf("express", 100, 20),
        _EXPONENTIAL,
        ["express p99 <= 480ms"],
        concurrency_max=4,
        lost=1,
    ),
    Scenario(
        "one worker of two killed",
        zipf("express", 80, 10),
        "lognormal(median=800ms, sigma=0.3)",
        ["express p99 <= 3s"],
        concurrency_max=50,
        killed="express",
    ),
    Scenario("failures", zipf("express", 80, 10), _LOGNORMAL, ["express p95 <= 1500ms"], failures=0.03),
)
