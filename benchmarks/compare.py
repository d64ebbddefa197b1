"""What has become slower or faster: the last run of `make bench` beside a stored baseline.

    make bench COMPARE=1                   runs all parts, and compares with the last baseline
    python -m benchmarks.compare [NAME]    compares the last run once more, with the baseline NAME

Machines differ, and so does what else they do. So each run also times a fixed piece of work that has nothing
to do with the engine (benchmarks/micro/conftest.py), and all times are divided by that of their run. A
benchmark is called slower or faster only when its shortest time and its median say so both, by more than
`--noise`. Exit code 1: one is slower, or there is nothing to compare.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from benchmarks.arguments import from_0, parser_of
from benchmarks.results import RESULTS

BASELINES = RESULTS / "baselines"
LAST_RUN = RESULTS / "bench.json"
_NOISE = 0.25


class _Stats(msgspec.Struct):
    min: float
    median: float


class _Benchmark(msgspec.Struct):
    name: str
    fullname: str
    stats: _Stats


class _Processor(msgspec.Struct, frozen=True):
    brand_raw: str = "an unknown processor"


class _Machine(msgspec.Struct):
    calibration_us: float
    cpu: _Processor = _Processor()


class _Commit(msgspec.Struct):
    id: str = "unknown"


class Run(msgspec.Struct):
    """One run of `make bench`, as pytest-benchmark has written it."""

    machine_info: _Machine
    commit_info: _Commit
    benchmarks: list[_Benchmark]
    datetime: str


class Compared(NamedTuple):
    """One benchmark: its times as multiples of those of the baseline, by the speed of the machine."""

    name: str
    shortest: float
    median: float

    def verdict(self, noise: float) -> str:
        """ "slower", "faster" or "" when the two times do not both say so by more than `noise`."""
        if min(self.shortest, self.median) > 1 + noise:
            return "slower"
        return "faster" if max(self.shortest, self.median) < 1 / (1 + noise) else ""


def read_run(file: Path) -> Run:
    """A run from its file. Raises ValueError: what is wrong with it."""
    try:
        return msgspec.json.decode(file.read_bytes(), type=Run)
    except OSError as e:
        raise ValueError(f"{file} cannot be read: {e.strerror}. Run make bench first.") from None
    except msgspec.MsgspecError as e:
        raise ValueError(f"{file} is no run of make bench: {e}.") from None


def compare(now: Run, baseline: Run) -> list[Compared]:
    """The benchmarks that both have, in the order of `now`."""
    speed = now.machine_info.calibration_us / baseline.machine_info.calibration_us
    before = {one.fullname: one.stats for one in baseline.benchmarks}
    return [
        Compared(
            _short(one.fullname),
            one.stats.min / before[one.fullname].min / speed,
            one.stats.median / before[one.fullname].median / speed,
        )
        for one in now.benchmarks
        if one.fullname in before
    ]


def find_baseline(name: str, folder: Path = BASELINES) -> Path:
    """The file of the baseline of this name or number; "": of the last. Raises ValueError: there is none."""
    stored = sorted(folder.rglob("*.json"), key=lambda file: file.name)
    if not name and stored:
        return stored[-1]
    fits = [file for file in stored if name and name in (file.stem, *file.stem.split("_", 1))]
    if not fits:
        have = ", ".join(file.stem for file in stored) or "none"
        raise ValueError(f"There is no baseline {name!r} in {folder}; there are: {have}.")
    return fits[-1]


def show(compared: Sequence[Compared], noise: float) -> str:
    """A line for each: both ratios, the verdict, the name; the slowest first."""
    ordered = sorted(compared, key=lambda one: -min(one.shortest, one.median))
    lines = ["   min  median          (times now / baseline, by the speed of the machine)"]
    lines += [f"{c.shortest:6.2f}  {c.median:6.2f}  {c.verdict(noise):6}  {c.name}" for c in ordered]
    return "\n".join(lines)


def _short(fullname: str) -> str:
    return fullname.removeprefix("benchmarks/micro/")[:120]


def main() -> None:
    """Compare, and print what was found."""
    parser = parser_of("compare", __doc__)
    parser.add_argument("baseline", nargs="?", default="", help="its name or number (the last)")
    parser.add_argument("--run", type=Path, default=LAST_RUN, help="what to compare (the last run)")
    parser.add_argument("--noise", type=from_0, default=_NOISE, help="what is no difference (0.25)")
    given = parser.parse_args()
    try:
        file = find_baseline(given.baseline)
        now, baseline = read_run(given.run), read_run(file)
    except ValueError as e:
        sys.exit(str(e))
    compared = compare(now, baseline)
    processor, commit = baseline.machine_info.cpu.brand_raw, baseline.commit_info.id[:8]
    print(f"baseline {file.stem}, {baseline.datetime[:10]}, {processor}, commit {commit}")
    speed = now.machine_info.calibration_us / baseline.machine_info.calibration_us
    print(f"a fixed piece of work takes {speed:.2f} times as long here and now")
    print(show(compared, given.noise))
    slower = sum(one.verdict(given.noise) == "slower" for one in compared)
    print(f"{slower} of {len(compared)} are slower, by more than {given.noise:.0%}")
    sys.exit(bool(slower) or not compared)


if __name__ == "__main__":
    main()
