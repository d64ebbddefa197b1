"""How the simulated carrier behaves: settings, their checks, and one decision per send.

Rules only: no I/O, no clock, and the randomness is an argument, so that a seed replays
the same decisions in the same order.
"""

from __future__ import annotations

import csv
import math
import re
from bisect import bisect_right
from collections.abc import Callable, Mapping
from itertools import pairwise
from random import Random
from typing import Any, Literal

import msgspec

from engine.errors import Refusal

LATENCY_MS_MAX = 3_600_000.0
QUANTILES_MAX = 10_000

Fate = Literal[
    "accepted", "temporary", "permanent", "timeout", "reset", "throttled", "outage", "refuse", "hang"
]


class _Record(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pass


class Lognormal(_Record, frozen=True):
    median_ms: float
    # Standard deviation of the logarithm; p99 is median * exp(2.326 * sigma).
    sigma: float


class Latency(_Record, frozen=True, omit_defaults=True):
    """How long an answer takes. Exactly one of the three."""

    constant_ms: float | None = None
    lognormal: Lognormal | None = None
    # [quantile 0 to 1, milliseconds], rising; linear in between, level outside.
    quantiles: list[tuple[float, float]] | None = None


class ErrorRates(_Record, frozen=True):
    """Share of sends, 0 to 1, that end in each way; together at most 1."""

    temporary: float = 0.0
    permanent: float = 0.0
    # Never answered.
    timeout: float = 0.0
    # The connection is reset after the request was read.
    reset: float = 0.0


class Behaviour(_Record, frozen=True):
    latency: Latency = Latency(constant_ms=0.0)
    error_rates: ErrorRates = ErrorRates()
    # A send that is never answered or reset was taken all the same, and is counted.
    lost_answers_count: bool = True
    # Sends a second; what exceeds it, after a tenth of a second's worth, is refused. None: no bound.
    throughput: float | None = None
    # true: refuses with 503; "refuse": closes the connection; "hang": never answers.
    outage: bool | Literal["refuse", "hang"] = False
    # None: different decisions every time.
    seed: int | None = None


def changed(current: Behaviour, change: bytes) -> Behaviour:
    """The behaviour after a change, given as JSON of all or some of its fields.

    `error_rates` is changed rate by rate, everything else is replaced.
    Raises Refusal naming the field.
    """
    try:
        wanted = msgspec.json.decode(change, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError) as e:
        raise Refusal("not_json", 400, f"The body is not a JSON object: {e}.") from e
    merged: dict[str, Any] = msgspec.to_builtins(current)
    rates = wanted.get("error_rates")
    if isinstance(rates, dict):
        wanted = {**wanted, "error_rates": {**merged["error_rates"], **rates}}
    return decode({**merged, **wanted})


def decode(settings: Mapping[str, Any]) -> Behaviour:
    """A behaviour from plain values. Raises Refusal naming the field and what is allowed."""
    try:
        behaviour = msgspec.convert(settings, Behaviour)
    except msgspec.ValidationError as e:
        raise _refusal(*_located(str(e))) from e
    check(behaviour)
    return behaviour


def check(behaviour: Behaviour) -> None:
    """Raises Refusal naming the first field that is out of bounds. NaN is out of every bound."""
    _check_latency(behaviour.latency)
    rates = msgspec.structs.asdict(behaviour.error_rates)
    for name, rate in rates.items():
        _need(0 <= rate <= 1, f"error_rates.{name}", "must be from 0 to 1")
    _need(sum(rates.values()) <= 1 + 1e-9, "error_rates", "must add up to at most 1")
    throughput = behaviour.throughput
    _need(
        throughput is None or 0 < throughput <= 1e9,
        "throughput",
        "must be greater than 0 and at most 1000000000 sends a second, or null for no bound",
    )


def _check_latency(latency: Latency) -> None:
    given = [kind for kind in (latency.constant_ms, latency.lognormal, latency.quantiles) if kind is not None]
    _need(len(given) == 1, "latency", "must be one of constant_ms, lognormal and quantiles")
    span = f"must be from 0 to {LATENCY_MS_MAX:.0f}"
    if latency.constant_ms is not None:
        _need(0 <= latency.constant_ms <= LATENCY_MS_MAX, "latency.constant_ms", span)
    if latency.lognormal is not None:
        _need(
            0 < latency.lognormal.median_ms <= LATENCY_MS_MAX,
            "latency.lognormal.median_ms",
            f"must be greater than 0 and at most {LATENCY_MS_MAX:.0f}",
        )
        _need(0 <= latency.lognormal.sigma <= 5, "latency.lognormal.sigma", "must be from 0 to 5")
    if latency.quantiles is not None:
        points = latency.quantiles
        field = "latency.quantiles"
        _need(2 <= len(points) <= QUANTILES_MAX, field, f"must have from 2 to {QUANTILES_MAX} points")
        _need(all(0 <= q <= 1 for q, _ in points), field, "must have quantiles from 0 to 1")
        _need(all(0 <= ms <= LATENCY_MS_MAX for _, ms in points), field, f"{span} milliseconds")
        _need(
            all(a[0] < b[0] and a[1] <= b[1] for a, b in pairwise(points)),
            field,
            "must rise from point to point",
        )


def quantiles_from_csv(text: str) -> list[tuple[float, float]]:
    """Points from lines `quantile,ms`; a first line of words is taken for a heading.

    Raises Refusal naming the line; bounds are checked with the behaviour.
    """
    points: list[tuple[float, float]] = []
    for number, row in enumerate(csv.reader(text.splitlines()), 1):
        if not row:
            continue
        try:
            quantile, ms = map(float, row)
        except ValueError as e:
            if number == 1 and not any(character.isdigit() for character in "".join(row)):
                continue
            raise _refusal("latency.quantiles", f"line {number} must be quantile,milliseconds") from e
        points.append((quantile, ms))
    return points


class Sampler:
    """Draws the fate of one send after another for one behaviour."""

    def __init__(self, behaviour: Behaviour, random: Random) -> None:
        self._random = random.random
        self._latency_s = latency_source(behaviour.latency, random)
        rates = behaviour.error_rates
        # Cumulated, so that one draw decides.
        self._temporary = rates.temporary
        self._permanent = self._temporary + rates.permanent
        self._timeout = self._permanent + rates.timeout
        self._reset = self._timeout + rates.reset
        self._throttle = Throttle(behaviour.throughput) if behaviour.throughput else None
        outage = behaviour.outage
        self._outage: Fate | None = "outage" if outage is True else outage or None
        # Every send is accepted at once: nothing need be drawn.
        self.plain = not self._reset and behaviour.latency.constant_ms == 0 and not (outage or self._throttle)

    def fate(self, now_s: float) -> tuple[Fate, float]:
        """What becomes of a send that arrives at `now_s` (any steady clock), and after how
        many seconds it is answered. `throttled` comes with the seconds until there is room.
        """
        if self._outage is not None:
            return self._outage, 0.0
        if self._throttle is not None:
            wait_s = self._throttle.wait_s(now_s)
            if wait_s > 0:
                return "throttled", wait_s
        draw = self._random() if self._reset else 1.0
        if draw >= self._reset:
            return "accepted", self._latency_s()
        if draw < self._temporary:
            return "temporary", self._latency_s()
        if draw < self._permanent:
            return "permanent", self._latency_s()
        return ("timeout", 0.0) if draw < self._timeout else ("reset", self._latency_s())


class Throttle:
    """At most `rate` sends a second, with a tenth of a second's worth at once: the generic
    cell rate algorithm, virtual scheduling (ITU-T I.371, annex A).
    """

    def __init__(self, rate: float) -> None:
        self._interval_s = 1 / rate
        # Slack for rounding: k intervals after the first send, send k+1 is due, not early.
        self._tolerance_s = max(0.1 - self._interval_s, 0.0) + 1e-9
        self._due_s = -math.inf

    def wait_s(self, now_s: float) -> float:
        """0.0 and the send is counted, or the seconds after which one would be."""
        wait_s = self._due_s - self._tolerance_s - now_s
        if wait_s > 0:
            return wait_s
        self._due_s = max(now_s, self._due_s) + self._interval_s
        return 0.0


def latency_source(latency: Latency, random: Random) -> Callable[[], float]:
    """A function that draws one latency, in seconds."""
    if latency.lognormal is not None:
        mu, sigma = math.log(latency.lognormal.median_ms / 1000), latency.lognormal.sigma
        return lambda: min(random.lognormvariate(mu, sigma), LATENCY_MS_MAX / 1000)
    if latency.quantiles is not None:
        quantiles = [q for q, _ in latency.quantiles]
        seconds = [ms / 1000 for _, ms in latency.quantiles]
        return lambda: _between(quantiles, seconds, random.random())
    constant_s = (latency.constant_ms or 0.0) / 1000
    return lambda: constant_s


def _between(quantiles: list[float], values: list[float], draw: float) -> float:
    """The inverse of a piecewise linear distribution function at `draw`."""
    i = bisect_right(quantiles, draw)
    if i == 0:
        return values[0]
    if i == len(quantiles):
        return values[-1]
    share = (draw - quantiles[i - 1]) / (quantiles[i] - quantiles[i - 1])
    return values[i - 1] + share * (values[i] - values[i - 1])


def _need(holds: bool, field: str, rule: str) -> None:
    if not holds:
        raise _refusal(field, rule)


def _refusal(field: str, rule: str) -> Refusal:
    return Refusal("behaviour_invalid", 422, f"{field} {rule}." if field else f"{rule}.", field or None)


def _located(sentence: str) -> tuple[str, str]:
    """Field and rule from msgspec's words, e.g. "Expected `float`, got `str` - at `$.seed`"."""
    what, _, where = sentence.partition(" - at `$.")
    unknown = re.search(r"unknown field `([^`]*)`", what)
    field = where.rstrip("`")
    if unknown:
        return ".".join(filter(None, (field, unknown[1]))), "is not a setting"
    return field, f"is wrong: {what[:1].lower()}{what[1:]}"
