"""All tests but the long ones, in groups side by side, for most of their time is waiting:
`python -m tests`, or `python -m tests GROUP...` for some of them.

Each line is shown as it comes, behind the name of its group. Each group starts servers of
its own. The exit code is that of the first group that failed. With COVERAGE=1 in the environment the lines
of the product that were run are counted, which takes half as long again; then it is 2 when they are
fewer than `fail_under` in pyproject.toml asks for.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# The folders of each group; what is in no other is in REST.
GROUPS = {
    "system": ["system"],
    "stores": ["stores", "activity", "receipts", "failover"],
    "credit": ["credit", "delivery", "routing"],
    "supervisor": ["supervisor"],
    "systemd": ["systemd"],
    "simulation": ["simulation"],
}
REST = "rest"
# Run by targets of their own.
LONG = ["chaos", "operations", "failover/long", "systemd/long"]
# The tracer would slow these down to no purpose: the one measures an engine under load, and the
# other runs lines that the tests of the domains run too.
NOT_MEASURED = {"system", "simulation", "systemd"}
# Groups at a time, the longest first: two cores, and most of a test is waiting.
ORDER = ["system", "credit", "stores", "rest", "simulation", "supervisor", "systemd"]
AT_ONCE = 6
# Name of the measured lines: what is combined must have the same name as the whole.
DATA = ".coverage"


def main() -> int:
    wanted = sys.argv[1:] or ORDER
    if unknown := set(wanted) - set(ORDER):
        sys.exit(f"There is no group {min(unknown)!r}, only {', '.join(ORDER)}.")
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(AT_ONCE) as pool:
        running = [pool.submit(run, name, Path(folder)) for name in wanted]
        try:
            codes = [group.result() for group in running]
        except KeyboardInterrupt:
            # A terminal has told the groups that run too; those that wait are not begun.
            pool.shutdown(cancel_futures=True)
            return 130
        measured = coverage(Path(folder), all_groups=set(wanted) == set(ORDER))
    return next((code for code in [*codes, measured] if code), 0)


def run(name: str, folder: Path) -> int:
    """One group, shown as it goes; its exit code."""
    measured = os.environ.get("COVERAGE") and name not in NOT_MEASURED
    tracer = ["coverage", "run", "-m"] if measured else []
    group = subprocess.Popen(
        [sys.executable, "-m", *tracer, "pytest", *arguments(name)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env=os.environ | {"PYTHONUNBUFFERED": "1", "COVERAGE_FILE": str(folder / DATA)},
    )
    assert group.stdout is not None
    for line in group.stdout:
        # One write for each line: it stays whole, whatever the other groups print meanwhile.
        sys.stdout.write(f"{name:10} | {line}")
        sys.stdout.flush()
    return group.wait()


def arguments(name: str) -> list[str]:
    if name != REST:
        return [f"tests/{folder}" for folder in GROUPS[name]]
    apart = [folder for folders in GROUPS.values() for folder in folders] + LONG
    return ["tests", *(f"--ignore=tests/{folder}" for folder in apart)]


def coverage(folder: Path, all_groups: bool) -> int:
    """Print how much of the product's lines the measured groups ran; 0 when that is enough.

    A process that was killed has kept nothing of what it ran.
    """
    if not any(folder.iterdir()):
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
