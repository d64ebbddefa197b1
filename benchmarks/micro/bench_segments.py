"""What it costs to price a message: to measure its text, check its number and find its price.

    pytest benchmarks/micro/bench_segments.py -s

It is compared with the libraries that the tests compare it with. BENCH_ROUNDS makes it longer.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable
from functools import partial

import phonenumbers
import pytest
import smsutil
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.micro.rounds import fastest_ns
from engine.intake.phone_numbers import e164, sender
from engine.intake.pricing import PriceTable
from engine.intake.segments import measure, split

ROUNDS = int(os.environ.get("BENCH_ROUNDS", "20"))
CALLS = 1_000
# The library takes up to a thousand times as long.
CALLS_LIBRARY = 20

CODE = "Your verification code is 482913. It expires in five minutes; do not share it with anyone. Thank you"
OFFER = "Spring sale: 20 % off everything until Sunday, in all our shops and online. Reply STOP to opt out. "
PERSIAN = "کد تأیید شما ۴۸۲۹۱۳ است. این کد تا پنج دقیقه معتبر است؛ آن را به کسی"
TEXTS = {
    "one-time code, GSM-7, 100 characters": CODE[:100],
    "with 2 of the extension table": CODE[:98] + "[]",
    "German, with accents and €": "Ihre Bestellung über 20 € ist da. Schöne Grüße aus Köln, Ihr Händler",
    "campaign, GSM-7, 3 segments": (OFFER * 5)[:450],
    "campaign, GSM-7 with extension, 3 segments": "[" + (OFFER * 5)[:449],
    "Persian, UCS-2, 1 segment": PERSIAN[:70],
    "Persian, UCS-2, 3 segments": (PERSIAN * 3)[:200],
    "with emoji, UCS-2, 1 segment": CODE[:60] + "😀",
}
MEASURE_US_MAX = 2.0
E164_US_MAX = 0.5


def many(call: Callable[[str], Hashable | list[str]], argument: str, times: int = CALLS) -> None:
    """Call `times` times with this argument."""
    for _ in range(times):
        call(argument)


@pytest.mark.parametrize("name", TEXTS)
def test_measure(benchmark: BenchmarkFixture, name: str) -> None:
    text = TEXTS[name]
    ways = {"measure": partial(many, measure, text), "split": partial(many, split, text)}
    us = {way: ns / 1e3 for way, ns in fastest_ns(ways, CALLS, ROUNDS).items()}
    theirs = {"smsutil": partial(many, smsutil.split, text, CALLS_LIBRARY)}
    us["smsutil"] = fastest_ns(theirs, CALLS_LIBRARY, ROUNDS)["smsutil"] / 1e3
    print(
        f"\n{name}: measure {us['measure']:.2f} µs, split {us['split']:.2f} µs, "
        f"smsutil {us['smsutil']:.1f} µs; smsutil/measure {us['smsutil'] / us['measure']:.0f}"
    )
    benchmark.extra_info.update(us)
    benchmark.pedantic(many, (measure, text), rounds=5)  # type: ignore[no-untyped-call]
    if len(text) <= 100:
        assert us["measure"] <= MEASURE_US_MAX


def test_numbers_and_prices(benchmark: BenchmarkFixture) -> None:
    flat, deep = PriceTable({"": 1}), PriceTable({"": 1, "+98": 2, "+4477": 3, "+1": 4})
    clean = "+989121234567"
    ways = {
        "e164, clean": partial(many, e164, clean),
        "e164, with separators": partial(many, e164, "00 98 912-123-4567"),
        "sender, name": partial(many, sender, "ACME Shop"),
        "sender, short code": partial(many, sender, "10008663"),
        "price, one for all": partial(many, flat.units_per_segment, clean),
        "price, three prefix lengths": partial(many, deep.units_per_segment, clean),
    }
    us = {way: ns / 1e3 for way, ns in fastest_ns(ways, CALLS, ROUNDS).items()}
    theirs = {"parse": partial(many, phonenumbers.parse, clean, CALLS_LIBRARY)}
    us["phonenumbers.parse"] = fastest_ns(theirs, CALLS_LIBRARY, ROUNDS)["parse"] / 1e3
    print("\n" + "\n".join(f"{way}: {time_us:.2f} µs" for way, time_us in us.items()))
    print(f"phonenumbers.parse/e164 {us['phonenumbers.parse'] / us['e164, clean']:.0f}")
    benchmark.extra_info.update(us)
    benchmark.pedantic(many, (e164, clean), rounds=5)  # type: ignore[no-untyped-call]
    assert us["e164, clean"] <= E164_US_MAX
