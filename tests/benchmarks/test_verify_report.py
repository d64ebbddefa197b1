"""What the report of `make verify-plan` says of a machine that others used meanwhile."""

from __future__ import annotations

import msgspec

from benchmarks.machine_cpu import OTHERS_MAX, MachineCpu
from benchmarks.verify_records import Measured
from benchmarks.verify_report import disturbance

_RUN = Measured(
    scenario="light",
    queue="express",
    processes=1,
    concurrency=12,
    planned=True,
    messages=1456,
    predicted_ms={"p99": 470.0},
    load_ms={"p99": 470.0},
    measured_ms={"p99": 900.0},
    chance_ms={"p99": (421.0, 535.0)},
    targets=["express p99 <= 470ms"],
    predicted_meets=True,
    measured_meets=False,
    load_late_ms=2.0,
    trouble={},
)


def run(scenario: str, others_cpus: float) -> Measured:
    return msgspec.structs.replace(_RUN, scenario=scenario, others_cpus=others_cpus)


def test_a_machine_that_others_used_is_said_with_how_much_and_in_how_many_scenarios() -> None:
    assert disturbance([run("light", 0.1), run("strict", OTHERS_MAX)]) == ""
    some = [run("light", 0.1), run("strict", 0.9), run("strict", 1.44)]
    assert disturbance(some).startswith("Others used up to 1.4 CPUs of this machine during 1 scenario, so")
    assert " during 2 scenarios, so" in disturbance([*some, run("failures", 0.7)])


def test_what_others_used_is_what_was_busy_beyond_what_we_used() -> None:
    earlier, later = MachineCpu(busy_s=100.0, at_s=10.0), MachineCpu(busy_s=130.0, at_s=30.0)
    assert later.others(earlier, 10.0) == 1.0
    assert later.others(earlier, 40.0) == 0.0, "ticks of the clock are rounded"
