"""A number in digits of another script is refused, and never read as one that nobody else would read; and
what stands behind a number agrees with it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from engine.capacity import peaks, response_times, targets
from engine.config.addresses import split_listen
from engine.errors import ConfigError
from engine.providers.http.json_path import find
from engine.stores.redis.url import parse_url
from engine.written_numbers import is_whole, plural, real, whole
from supervisor.cli import org_limits, provider
from supervisor.simulator.options import options

# 5 in Arabic-Indic, extended Arabic-Indic, Devanagari and full-width digits; and what is no decimal digit.
FIVES = ("\u0665", "\u06f5", "\u096b", "\uff15", "\u00b2", "\u2465")


def test_a_noun_agrees_with_the_number_before_it() -> None:
    assert [plural("unit", count) for count in (0, 1, 1.0, -1, 1.5, 2)] == [
        "units", "unit", "unit", "unit", "units", "units",
    ]  # fmt: skip
    assert [plural(noun, 2) for noun in ("process", "batch", "entry", "day", "reply")] == [
        "processes", "batches", "entries", "days", "replies",
    ]  # fmt: skip


@pytest.mark.parametrize("five", FIVES)
def test_numbers_are_read_in_ascii_alone(five: str) -> None:
    assert not is_whole(five)
    assert not is_whole(f"1{five}")
    for read in (real, whole):
        for text in (five, f"1{five}", f"-{five}", "1_000", "", " "):
            with pytest.raises(ValueError):
                read(text)


def test_numbers_in_ascii_are_read() -> None:
    assert (whole("-12"), whole("0"), real("1e3"), real("-0.5")) == (-12, 0, 1000.0, -0.5)
    assert is_whole("0" * 18)
    assert not any(map(is_whole, ("", "-1", "+1", "1.0", "1 ", "9" * 19)))


@pytest.mark.parametrize("five", FIVES)
@pytest.mark.parametrize(
    "read",
    [
        lambda five: targets.parse(f"express p9{five} <= 2s"),
        lambda five: response_times.parse(f"lognormal(median=80ms, sigma=0.{five})"),
        lambda five: response_times.parse_lines([f"0.{five},80ms"], "a file"),
        lambda five: parse_url(f"redis://127.0.0.1:6379/{five}"),
        lambda five: parse_url(f"redis+sentinel://127.0.0.1:26379/main/{five}"),
        lambda five: org_limits._weight(five),
        lambda five: provider._rate(five),
        lambda five: options(["--throughput", five]),
        lambda five: options(["--seed", five]),
        lambda five: options(["--latency-lognormal", f"1{five}:0.5"]),
    ],
)
def test_what_an_operator_writes_in_other_digits_is_refused(read: Callable[[str], Any], five: str) -> None:
    with pytest.raises((ConfigError, ValueError)) as refused:
        read(five)
    assert "ASCII" not in str(refused.value)


@pytest.mark.parametrize("five", FIVES)
@pytest.mark.parametrize("column", ["messages_per_second", "burst"])
def test_peaks_in_other_digits_are_refused(five: str, column: str) -> None:
    row = {"organisation": "a", "queue": "express", "messages_per_second": "5", "burst": "5"} | {column: five}
    with pytest.raises(ValueError, match=f"{column} must be"):
        peaks.read([",".join(row), ",".join(row.values())], "a file")


@pytest.mark.parametrize("five", FIVES)
def test_an_address_and_a_place_in_a_document_are_none_in_other_digits(five: str) -> None:
    assert split_listen(f"127.0.0.1:808{five}") == ()
    assert find(list(range(10)), (five,)) is None
