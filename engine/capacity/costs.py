"""Rule: what the engine itself costs, CPU and waiting, in figures that were measured.

The figures of `REFERENCE` are those of one machine; `make calibrate` measures this one in under two minutes
and writes them to a file, which `smsengine plan` reads.

A loop works in rounds: what has come up meanwhile is done together, so a message costs a worker `round_us` by
itself when nothing else waits, and next to nothing of it in a backlog.
"""

from __future__ import annotations

from functools import cache

import msgspec

from engine.capacity.response_times import ResponseTimes, of_quantiles

# The file of the data directory in which `make calibrate` writes what this machine costs.
CALIBRATION = "calibration.json"
# The processes whose cost is known by message, in the order in which a message meets them.
PARTS = ("ingest", "redis", "ledger", "postgres", "archiver", "clickhouse")


class PartCost(msgspec.Struct, frozen=True, kw_only=True):
    """CPU of one part a message, microseconds: of one that comes alone, and of one in a request of 100."""

    single_us: float
    batch_us: float

    def us(self, burst: float) -> float:
        """CPU a message when `burst` messages come in one request, at most 100."""
        part = (1 / min(max(burst, 1.0), 100.0) - 0.01) / 0.99
        return self.batch_us + max(part, 0.0) * (self.single_us - self.batch_us)


class Costs(msgspec.Struct, frozen=True, kw_only=True):
    """What was measured, and where."""

    # Of which machine the figures are, and when they were taken.
    machine: str
    # CPU of a worker, microseconds: of one round of its loop, and of one message in it, sent and answered.
    round_us: float
    message_us: float
    parts: dict[str, PartCost]
    # From submission to the provider's answer in an idle engine, without the provider's own time: quantiles
    # (part, milliseconds).
    inner_ms: list[tuple[float, float]]
    # From the death of a worker until the next one in its place is ready; and until it is fenced, after which
    # others may have what it had in hand, seconds.
    replaced_s: float = 0.10
    fenced_s: float = 0.13

    def inner(self) -> ResponseTimes:
        """The waiting inside the engine, as a distribution."""
        return _inner(tuple(self.inner_ms))


@cache
def _inner(quantiles_ms: tuple[tuple[float, float], ...]) -> ResponseTimes:
    return of_quantiles([(part, ms / 1000) for part, ms in quantiles_ms], "inner")


# As `make calibrate` measured it, with a provider over HTTP.
REFERENCE = Costs(
    machine="reference: 2 virtual cores of an AMD EPYC, appendfsync always",
    round_us=462.6,
    message_us=26.79,
    parts={
        "ingest": PartCost(single_us=47.17, batch_us=7.99),
        "redis": PartCost(single_us=47.07, batch_us=8.67),
        "ledger": PartCost(single_us=10.66, batch_us=1.59),
        "postgres": PartCost(single_us=1.81, batch_us=0.82),
        "archiver": PartCost(single_us=2.72, batch_us=1.22),
        "clickhouse": PartCost(single_us=15.99, batch_us=9.52),
    },
    inner_ms=[(0.1, 1.605), (0.5, 1.883), (0.9, 2.614), (0.99, 8.909)],
)


def decode(octets: bytes) -> Costs:
    """Costs from a file that `make calibrate` wrote. Raises ValueError: what is wrong with it."""
    try:
        found = msgspec.json.decode(octets, type=Costs)
    except (msgspec.ValidationError, msgspec.DecodeError) as e:
        raise ValueError(str(e)) from None
    if missing := [part for part in PARTS if part not in found.parts]:
        raise ValueError(f"it lacks the cost of {missing[0]}")
    found.inner()
    return found
