"""What `make bench COMPARE=1` calls slower."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from benchmarks.compare import Run, compare, find_baseline, read_run, show


def run(calibration_us: float, **times_s: tuple[float, float]) -> Run:
    """A run with benchmarks by name: (shortest, median)."""
    made = {
        "machine_info": {"calibration_us": calibration_us},
        "commit_info": {"id": "0123456789"},
        "datetime": "2026-11-28T12:00:00",
        "benchmarks": [
            {"name": name, "fullname": f"benchmarks/micro/{name}", "stats": {"min": low, "median": middle}}
            for name, (low, middle) in times_s.items()
        ],
    }
    return msgspec.convert(made, Run)


def test_a_machine_that_is_half_as_fast_makes_nothing_slower():
    before = run(500.0, send=(1.0, 1.2), settle=(2.0, 2.2))
    found = compare(run(1000.0, send=(2.0, 2.4), settle=(6.0, 6.6)), before)
    assert [(c.name, c.verdict(0.25)) for c in found] == [("send", ""), ("settle", "slower")]
    assert found[1].shortest == pytest.approx(1.5)


def test_one_is_slower_or_faster_when_both_its_times_say_so():
    before = run(500.0, a=(1.0, 1.0), b=(1.0, 1.0), c=(1.0, 1.0), d=(1.0, 1.0))
    now = run(500.0, a=(1.3, 1.4), b=(1.0, 2.0), c=(0.7, 0.7), d=(0.7, 1.0), e=(9.0, 9.0))
    found = compare(now, before)
    assert [c.verdict(0.25) for c in found] == ["slower", "", "faster", ""]
    assert show(found, 0.25).splitlines()[1].split() == ["1.30", "1.40", "slower", "a"]


def test_a_baseline_is_found_by_its_name_or_its_number(tmp_path: Path):
    for name in ("0001_before", "0002_after"):
        (tmp_path / f"{name}.json").touch()
    found = [find_baseline(name, tmp_path).stem for name in ("", "before", "0001", "0002_after")]
    assert found == ["0002_after", "0001_before", "0001_before", "0002_after"]
    with pytest.raises(ValueError, match=r"There is no baseline 'x'.*0001_before, 0002_after"):
        find_baseline("x", tmp_path)


def test_a_file_that_is_no_run_is_refused_in_a_sentence(tmp_path: Path):
    with pytest.raises(ValueError, match="Run make bench first"):
        read_run(tmp_path / "none.json")
    (tmp_path / "some.json").write_text("{}")
    with pytest.raises(ValueError, match=r"some.json is no run of make bench: .*machine_info"):
        read_run(tmp_path / "some.json")


def test_the_baseline_in_the_repository_can_be_compared_with():
    baseline = read_run(find_baseline(""))
    assert len(compare(baseline, baseline)) == len(baseline.benchmarks) > 0
