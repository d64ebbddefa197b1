"""How the simulated provider behaves: settings, and their checks. Rules only; no I/O."""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping
from itertools import pairwise
from typing import Any, Literal
from urllib.parse import urlsplit

import msgspec

from engine.errors import Refusal

LATENCY_MS_MAX = 3_600_000.0
QUANTILES_MAX = 10_000

IdForm = Literal["same", "hex", "decimal", "upper", "leading_zeros"]


class _Record(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pass


class Lognormal(_Record, frozen=True):
    """A lognormal distribution of latencies."""

    median_ms: float
    # Standard deviation of the logarithm; p99 is median * exp(2.326 * sigma).
    sigma: float


class Latency(_Record, frozen=True, omit_defaults=True):
    """How long an answer or a receipt takes. Exactly one of the three fields is set."""

    constant_ms: float | None = None
    lognormal: Lognormal | None = None
    # Points (quantile 0 to 1, milliseconds), rising: linear between two points, level outside.
    quantiles: list[tuple[float, float]] | None = None


class ErrorRates(_Record, frozen=True):
    """Share of sends, 0 to 1, that end in each way; together at most 1."""

    temporary: float = 0.0
    permanent: float = 0.0
    # Never answered.
    timeout: float = 0.0
    # The connection is reset after the request was read.
    reset: float = 0.0


class Receipts(_Record, frozen=True):
    """The receipts of what the provider took. Shares are from 0 to 1; each is drawn by itself."""

    # Time from the answer to the first receipt, and from one receipt of a send to its next.
    delay: Latency = Latency(constant_ms=0.0)
    # Share of messages that the recipient never gets.
    undelivered: float = 0.0
    # Share whose last receipt is sent twice.
    duplicate: float = 0.0
    # Share whose first receipt goes out before the answer to the send.
    before_response: float = 0.0
    # Share that gets a receipt `pending` before the last one.
    pending: float = 0.0
    # Address for the receipts of HTTP sends; None: they get none. Those of SMPP go over its sessions.
    url: str | None = None
    # How receipts write the id, compared with the answer: see `supervisor.simulator.receipts`.
    id_form: IdForm = "same"


class Smpp(_Record, frozen=True):
    """The part of the behaviour that only SMPP sessions show."""

    # What a bind must name; None: any.
    system_id: str | None = None
    password: str | None = None
    # Submits that a session may have unanswered; a further one gets ESME_RMSGQFUL. None: no bound.
    window: int | None = None
    # Share of submits whose answer comes after a malformed PDU.
    malformed: float = 0.0
    # PDUs from the client, its bind included, after which the session is closed. None: never.
    disconnect_every: int | None = None
    # Sessions that one system_id may have; a further bind gets ESME_RBINDFAIL. None: no bound.
    sessions_max: int | None = None
    # Where a deliver_sm holds the receipt: in its text, in optional parameters, or in both.
    receipt_form: Literal["text", "tlv", "both"] = "both"


class Behaviour(_Record, frozen=True):
    """How the simulated provider behaves: what `GET /behaviour` shows and `PUT /behaviour` takes."""

    latency: Latency = Latency(constant_ms=0.0)
    error_rates: ErrorRates = ErrorRates()
    # Whether a send that ends in `timeout` or `reset` was taken all the same, and is counted.
    lost_answers_count: bool = True
    # Sends a second, a tenth of a second's worth of them at once; more is throttled. None: no bound.
    throughput: float | None = None
    # With "segments" an HTTP send counts once for each of its segments. A submit_sm counts once.
    throughput_unit: Literal["sends", "segments"] = "sends"
    # true: refuses sends with 503 or ESME_RSYSERR; "refuse": closes the connection; "hang": never answers.
    outage: bool | Literal["refuse", "hang"] = False
    # Seed of all draws. None: different decisions every time.
    seed: int | None = None
    # None: no receipts are sent.
    receipts: Receipts | None = None
    smpp: Smpp = Smpp()


def changed(current: Behaviour, change: bytes) -> Behaviour:
    """The behaviour after a change, given as JSON of all or some of its fields.

    `error_rates`, `receipts` and `smpp` are changed field by field, everything else is replaced.
    Raises Refusal naming the field.
    """
    try:
        wanted = msgspec.json.decode(change, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError) as e:
        raise Refusal("not_json", 400, f"The body is not a JSON object: {e}.") from e
    merged: dict[str, Any] = msgspec.to_builtins(current)
    for name in ("error_rates", "receipts", "smpp"):
        part = wanted.get(name)
        if isinstance(part, dict):
            wanted[name] = {**(merged[name] or {}), **part}
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
    _check_latency(behaviour.latency, "latency")
    rates = msgspec.structs.asdict(behaviour.error_rates)
    for name, rate in rates.items():
        _need(0 <= rate <= 1, f"error_rates.{name}", "must be from 0 to 1")
    _need(sum(rates.values()) <= 1 + 1e-9, "error_rates", "must add up to at most 1")
    throughput = behaviour.throughput
    _need(
        throughput is None or 0 < throughput <= 1e9,
        "throughput",
        "must be greater than 0 and at most 1000000000 a second, or null for no bound",
    )
    if behaviour.receipts is not None:
        _check_receipts(behaviour.receipts)
    _check_smpp(behaviour.smpp)


def _check_receipts(receipts: Receipts) -> None:
    _check_latency(receipts.delay, "receipts.delay")
    for name in ("undelivered", "duplicate", "before_response", "pending"):
        _need(0 <= getattr(receipts, name) <= 1, f"receipts.{name}", "must be from 0 to 1")
    url = receipts.url
    _need(url is None or _is_address(url), "receipts.url", "must be http://HOST[:PORT][/PATH][?QUERY]")


def _is_address(text: str) -> bool:
    try:
        url = urlsplit(text)
        _ = url.port  # raises when it is no number
    except ValueError:
        return False
    # The address goes into the request line as it is: no blanks, no line ends, nothing to escape.
    plain = all("!" <= character <= "~" for character in text)
    return bool(plain and url.scheme == "http" and url.hostname and not (url.username or url.fragment))


def _check_smpp(smpp: Smpp) -> None:
    # Sizes without the NUL, as in SMPP 3.4, 5.2.1 and 5.2.2; but some providers issue longer
    # passwords.
    for name, longest in (("system_id", 15), ("password", 63)):
        text = getattr(smpp, name)
        fits = text is None or (len(text) <= longest and all("\0" < c < "\u0100" for c in text))
        _need(fits, f"smpp.{name}", f"must be at most {longest} characters of Latin-1, or null for any")
    for name in ("window", "disconnect_every", "sessions_max"):
        number = getattr(smpp, name)
        _need(number is None or number >= 1, f"smpp.{name}", "must be at least 1, or null for no bound")
    _need(0 <= smpp.malformed <= 1, "smpp.malformed", "must be from 0 to 1")


def _check_latency(latency: Latency, at: str) -> None:
    given = [kind for kind in (latency.constant_ms, latency.lognormal, latency.quantiles) if kind is not None]
    _need(len(given) == 1, at, "must be one of constant_ms, lognormal and quantiles")
    span = f"must be from 0 to {LATENCY_MS_MAX:.0f}"
    if latency.constant_ms is not None:
        _need(0 <= latency.constant_ms <= LATENCY_MS_MAX, f"{at}.constant_ms", span)
    if latency.lognormal is not None:
        _need(
            0 < latency.lognormal.median_ms <= LATENCY_MS_MAX,
            f"{at}.lognormal.median_ms",
            f"must be greater than 0 and at most {LATENCY_MS_MAX:.0f}",
        )
        _need(0 <= latency.lognormal.sigma <= 5, f"{at}.lognormal.sigma", "must be from 0 to 5")
    if latency.quantiles is not None:
        points = latency.quantiles
        field = f"{at}.quantiles"
        _need(2 <= len(points) <= QUANTILES_MAX, field, f"must have from 2 to {QUANTILES_MAX} points")
        _need(all(0 <= q <= 1 for q, _ in points), field, "must have quantiles from 0 to 1")
        _need(all(0 <= ms <= LATENCY_MS_MAX for _, ms in points), field, f"{span} milliseconds")
        _need(
            all(a[0] < b[0] and a[1] <= b[1] for a, b in pairwise(points)),
            field,
            "must rise from point to point",
        )


def quantiles_from_csv(text: str) -> list[tuple[float, float]]:
    """Points (quantile 0 to 1, milliseconds) from lines `quantile,ms`; a first line of words is a heading.

    Raises Refusal naming the line that is none. The bounds are checked with the behaviour.
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
