"""Everything a carrier can do wrong, under express traffic, while another carrier is well.

    make outages

Nothing accepted is lost, nothing is charged that no carrier took, and express keeps its time:
all but the messages in flight when the trouble began (and those that probe whether it is over)
are sent within two seconds.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.system.carriers import Carriers, Traffic, all_sent, audited, carriers, quantile, seconds_until
from tests.system.client import behave

PER_S = 50.0
TROUBLE_S = 10.0

WELL: dict[str, Any] = {
    "outage": False,
    "latency": {"constant_ms": 20},
    "error_rates": {"temporary": 0, "permanent": 0, "timeout": 0, "reset": 0},
    "throughput": None,
    "smpp": {"malformed": 0, "disconnect_every": None},
}
# What carrier `a` does meanwhile.
FAULTS: dict[str, dict[str, Any]] = {
    "hangs": {"outage": "hang"},
    "refuses connections": {"outage": "refuse"},
    "answers errors": {"outage": True},
    "resets": {"error_rates": {"reset": 0.5}},
    "loses answers": {"error_rates": {"timeout": 0.1}},
    "fails now and then": {"error_rates": {"temporary": 0.3}},
    "answers garbage": {"smpp": {"malformed": 0.2}},
    "cuts sessions": {"smpp": {"disconnect_every": 20}},
    "answers late": {"latency": {"constant_ms": 1500}},
    "throttles at half the rate": {"throughput": PER_S / 2},
    "receipts before answers": {"receipts": {"before_response": 1}, "latency": {"constant_ms": 100}},
}


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Carriers]:
    with carriers(tmp_path_factory.mktemp("faults")) as pair:
        behave(pair.b.url, latency={"constant_ms": 20})
        yield pair


@contextmanager
def flapping(pair: Carriers) -> Iterator[None]:
    """Carrier `a` is away every other second."""
    stop = threading.Event()

    def flap() -> None:
        away = False
        while not stop.wait(1.0):
            away = not away
            behave(pair.a.url, outage="refuse" if away else False)

    thread = threading.Thread(target=flap)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        behave(pair.a.url, outage=False)


def judge(pair: Carriers, fault: str, traffic: Traffic) -> None:
    messages = all_sent(pair.engine, traffic.accepted, 60)
    ids, duplicates = pair.received()
    assert set(traffic.accepted) <= ids
    waited = [seconds_until("sent", m) for m in messages]
    assert [m["id"] for m, w in zip(messages, waited, strict=True) if w is None] == []
    known = [w for w in waited if w is not None]
    slow = [w for w in known if w > 2.0]
    by = [sum(m["provider"] == name for m in messages) for name in ("a", "b")]
    print(  # noqa: T201 - what a long run saw
        f"{fault}: {len(known)} sent (a {by[0]}, b {by[1]}), p50 {quantile(known, 0.5) * 1000:.0f} ms, "
        f"p99 {quantile(known, 0.99) * 1000:.0f} ms, over 2 s {len(slow)}, twice at a carrier {duplicates}"
    )
    # In flight when it began: up to a second's worth until it is noticed, and a few probes.
    assert len(slow) <= 1.5 * PER_S + TROUBLE_S
    assert all(m["charge"] == "captured" for m in messages)
    audited(pair.engine)


@pytest.mark.parametrize("fault", list(FAULTS))
def test_express_keeps_its_time_while_the_preferred_carrier(pair: Carriers, fault: str) -> None:
    behave(pair.a.url, **WELL)
    time.sleep(5)
    traffic = Traffic(pair.engine, PER_S)
    with traffic.flowing():
        time.sleep(2)
        behave(pair.a.url, **FAULTS[fault])
        time.sleep(TROUBLE_S)
        behave(pair.a.url, **WELL)
        time.sleep(2)
    judge(pair, fault, traffic)


def test_express_keeps_its_time_while_the_preferred_carrier_comes_and_goes(pair: Carriers) -> None:
    behave(pair.a.url, **WELL)
    traffic = Traffic(pair.engine, PER_S)
    with traffic.flowing(), flapping(pair):
        time.sleep(TROUBLE_S + 4)
    judge(pair, "flaps every second", traffic)
