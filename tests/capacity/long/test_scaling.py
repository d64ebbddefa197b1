"""Autoscaling by processes, on the whole engine: workers whose loops cannot do more."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import uvloop

from benchmarks.machine_cpu import OTHERS_MAX, machine_cpu_s
from benchmarks.open_load import OpenLoad
from benchmarks.running import Engine, engine, ours_s
from benchmarks.shaped import archived, latencies_ms
from engine.capacity import costs, response_times
from engine.capacity.peaks import Peak
from engine.capacity.simulation import Arrivals, System
from engine.records import QUEUES

# A worker can do 125 messages a second, and nobody has told the engine.
BUSY_S = 0.008
CALM_S = 10
CONFIG = f"""
[autoscale.express]
processes_max = 3
calm_s = {CALM_S}
[[providers]]
name = "slow"
type = "custom"
factory = "tests.capacity.long.slow_provider:provider"
options = {{ busy_s = {BUSY_S}, takes_s = 0.05 }}
[[routes]]
prefix = ""
providers = ["slow"]
"""


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Engine]:
    with engine(CONFIG, place=tmp_path) as found:
        yield found


def arrivals(rate: float, seconds: float, seed: int) -> Arrivals:
    peaks = [Peak(f"organisation {n}", "express", rate / 10) for n in range(10)]
    answers = dict.fromkeys(QUEUES, response_times.parse("constant(50ms)"))
    system = System(peaks=peaks, answers=answers, costs=costs.REFERENCE, backoff_s=dict.fromkeys(QUEUES, 1.0))
    return Arrivals(system, ["express"], (1, 10**9), seed, seconds)


def eventually(find: Callable[[], Any], timeout_s: float) -> Any:
    deadline = time.monotonic() + timeout_s
    while not (found := find()):
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.2)
    return found


def scaled_to(running: Engine, *processes: int) -> Any:
    """The last change of express, when it led to one of these numbers of processes and they are ready."""
    node = running.call("GET", "/v1/admin/nodes")["nodes"][0]
    ready = [p for p in node["processes"] if p["role"] == "express" and p["state"] == "ready"]
    last = node["scaled"].get("express")
    return last if last and last["processes"] == len(ready) and len(ready) in processes else None


def test_a_process_more_when_one_loop_cannot_do_it_and_one_less_when_it_is_calm(
    running: Engine, tmp_path: Path
) -> None:
    keys = running.organisations(10, 1_000_000)
    load = OpenLoad(running.url, keys, ["express"] * len(keys))
    uvloop.run(load.run(arrivals(14, 10, 1)))
    # Ten times as many, which is more than one worker can do.
    step_us, machine, ours = time.time_ns() // 1000, machine_cpu_s(), ours_s(running)
    sending = threading.Thread(target=lambda: uvloop.run(load.run(arrivals(140, 30, 2))))
    sending.start()
    more = eventually(lambda: scaled_to(running, 2, 3), 60)
    after_s = (more["at_us"] - step_us) / 1e6
    sending.join()
    assert not load.trouble
    archived(running)
    others = machine_cpu_s().others(machine, ours_s(running) - ours)
    count, seen_ms = latencies_ms(tmp_path, "express", step_us + 10_000_000)
    print(f"\na process more after {after_s:.1f} s: {more['reason']}")  # noqa: T201 - the figures
    print(f"from the tenth second on p99 is {seen_ms[0.99]:.0f} ms, of {count} messages")  # noqa: T201 - the figures
    print(f"others used {others:.1f} CPUs")  # noqa: T201 - the figures
    changes = [line for line in (tmp_path / "log").read_text().splitlines() if " autoscaled " in line]
    print(*changes, sep="\n")  # noqa: T201 - the figures
    assert more["reason"].startswith("the loops of the workers are full: ")
    assert more["concurrency"] <= 100, "and no concurrency that is of no use"
    assert count > 2_300
    # Ten seconds after the step, 99 % of what is due is sent within two seconds again. A second worker needs
    # a CPU: when others have it, the latency says nothing of the engine.
    disturbed = others > OTHERS_MAX
    assert disturbed or seen_ms[0.99] <= 2_000
    # Nothing arrives any more.
    less = eventually(lambda: scaled_to(running, 1), CALM_S * 6 + 60)
    print(f"a process less: {less['reason']}")  # noqa: T201 - the figures
    assert less["processes_before"] > 1
    assert less["reason"].startswith("no more was needed for ")
    if disturbed:
        pytest.skip(f"others used {others:.1f} CPUs of this machine: the latency is not judged")
