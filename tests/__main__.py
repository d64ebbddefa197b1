"""All tests but the long ones, in groups side by side, for most of their time is waiting:
`python -m tests`, or `python -m tests GROUP...` for some of them.

Each line is shown as it comes, behind the name of its group. Each group starts servers of
its own. A few tests that failed are run once more when all groups have ended, for a test that waits
can be starved by the others; the last lines name every test that failed, and whether it
passed alone. The exit code is that of the first group with a test that failed alone too. With
COVERAGE=1 in the environment the lines of the product that were run are counted, which takes half as
long again; then it is 2 when they are fewer than `fail_under` in pyproject.toml asks for.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# The folders of each group, or files of another group's folder; what is in no other is in REST. The tests of
# the whole engine are two groups: they wait most, and one group of them would end long after the others.
# Those of the stores are two as well: ClickHouse takes as much of a core as all else that is tried of stores.
GROUPS = {
    "system": ["system"],
    "starts": [f"system/test_{name}.py" for name in ("faults", "outages", "reload", "service", "up")],
    "stores": ["stores", "activity", "receipts"],
    "clickhouse": ["stores/clickhouse"],
    "credit": ["credit", "delivery", "routing"],
    "failover": ["failover"],
    "supervisor": ["supervisor", "providers", "fuzz", "capacity", "benchmarks"],
    "systemd": ["systemd"],
    "simulation": ["simulation"],
}
REST = "rest"
# Run by targets of their own.
LONG = ["chaos", "operations", "failover/long", "systemd/long", "console/browser"]
# The tracer would slow these down to no purpose: the one measures an engine under load, and the
# other runs lines that the tests of the domains run too.
NOT_MEASURED = {"system", "starts", "simulation", "systemd"}
# Groups at a time, the longest first: two cores, and most of a test is waiting. The last ones begin when the
# simulation, which waits for nothing, has ended.
ORDER = [
    "system", "starts", "rest", "clickhouse", "stores", "supervisor", "credit", "simulation", "systemd",
    "failover",
]  # fmt: skip
AT_ONCE = 8
# More failures than these in a group are no matter of load, and are not tried again.
TRIED_AGAIN = 12
# Name of the measured lines: what is combined must have the same name as the whole.
DATA = ".coverage"


@dataclass
class Outcome:
    """How a group ended: its exit code, and the lines of pytest that name what failed."""

    name: str
    code: int
    failed: list[str] = field(default_factory=list)


def main() -> int:
    wanted = sys.argv[1:] or ORDER
    if unknown := set(wanted) - set(ORDER):
        sys.exit(f"There is no group {min(unknown)!r}, only {', '.join(ORDER)}.")
    compiled()
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(AT_ONCE) as pool:
        running = [pool.submit(run, name, Path(folder)) for name in wanted]
        try:
            outcomes = [group.result() for group in running]
            last = [alone(outcome, Path(folder)) for outcome in outcomes]
        except KeyboardInterrupt:
            # A terminal has told the groups that run too; those that wait are not begun.
            pool.shutdown(cancel_futures=True)
            return 130
        tell(outcomes, last)
        measured = coverage(Path(folder), all_groups=set(wanted) == set(ORDER))
    codes = [outcome.code for outcome in last]
    return next((code for code in [*codes, measured] if code), 0)


def compiled() -> None:
    """Compile the modules once, for hundreds of processes that the tests start."""
    subprocess.run(
        [sys.executable, "-m", "compileall", "-q", "engine", "supervisor", "tests"], cwd=ROOT, check=False
    )


def run(name: str, folder: Path, *more: str) -> Outcome:
    """One group, shown as it goes."""
    measured = os.environ.get("COVERAGE") and name not in NOT_MEASURED
    tracer = ["coverage", "run", "-m"] if measured else []
    kept = ["--override-ini", f"cache_dir={folder / 'failed' / name}"]
    group = subprocess.Popen(
        [sys.executable, "-m", *tracer, "pytest", *arguments(name), *kept, *more],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env=os.environ | {"PYTHONUNBUFFERED": "1", "COVERAGE_FILE": str(folder / DATA)},
    )
    assert group.stdout is not None
    failed = []
    for line in group.stdout:
        # One write for each line: it stays whole, whatever the other groups print meanwhile.
        sys.stdout.write(f"{name:10} | {line}")
        sys.stdout.flush()
        if line.startswith(("FAILED ", "ERROR ")):
            failed.append(line.strip())
    return Outcome(name, group.wait(), failed)


def alone(outcome: Outcome, folder: Path) -> Outcome:
    """The group as it ends when its few failures have been tried again, with nothing beside."""
    if outcome.code != pytest.ExitCode.TESTS_FAILED or len(outcome.failed) > TRIED_AGAIN:
        return outcome
    sys.stdout.write(f"{outcome.name}: {len(outcome.failed)} failed; once more, alone:\n")
    return run(outcome.name, folder, "--last-failed", "--last-failed-no-failures=none")


def tell(outcomes: list[Outcome], last: list[Outcome]) -> None:
    """Print what failed as the last thing, where somebody looks first."""
    for first, second in zip(outcomes, last, strict=True):
        if second.code:
            sys.stdout.write(f"{first.name}: failed with exit code {second.code}\n")
        for line in first.failed:
            test = line.split(" - ")[0]
            passed = not any(again.startswith(test) for again in second.failed)
            sys.stdout.write(f"{first.name}: {'passed alone, but beside the others ' * passed}{line}\n")


def arguments(name: str) -> list[str]:
    own = GROUPS.get(name, ["."])
    others = [place for places in GROUPS.values() if places != own for place in places]
    if name == REST:
        others += LONG
    else:
        others = [place for place in others if Path(place).parent.as_posix() in own]
    return [f"tests/{place}" for place in own] + [f"--ignore=tests/{place}" for place in others]


def coverage(folder: Path, all_groups: bool) -> int:
    """Print how much of the product's lines the measured groups ran; 0 when that is enough.

    A process that was killed has kept nothing of what it ran.
    """
    if not any(folder.glob(f"{DATA}*")):
        return 0
    tool = [sys.executable, "-m", "coverage"]
    data = f"--data-file={ROOT / DATA}"
    subprocess.run(
        [*tool, "combine", "--quiet", data, str(folder)], cwd=ROOT, capture_output=True, check=False
    )
    floor = [] if all_groups else ["--fail-under=0"]
    report = subprocess.run(
        [*tool, "report", "--format=total", data, *floor],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    sys.stdout.write(f"Lines of engine and supervisor that the tests ran: {report.stdout.strip()} %\n")
    if report.returncode:
        sys.stdout.write(
            "That is less than fail_under in pyproject.toml; .venv/bin/coverage report -m shows where.\n"
        )
    return report.returncode


if __name__ == "__main__":
    sys.exit(main())
