"""The list of benchmarks is made of the modules themselves."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from benchmarks.__main__ import benchmarks, docstring

PLACE = Path(__file__).parents[2] / "benchmarks"


def test_every_module_that_runs_is_listed_or_started_by_another():
    listed = {one.command.rpartition(".")[2] for one in benchmarks() if one.takes}
    texts = {file.stem: file.read_text(encoding="utf-8") for file in PLACE.glob("*.py")}
    runs = {name for name, text in texts.items() if '__name__ == "__main__"' in text} - {"__main__"}
    assert listed <= runs
    for name in runs - listed:
        others = "".join(text for other, text in texts.items() if other != name)
        assert f"benchmarks.{name}" in others or f"{name}.py" in others, f"say what {name} takes"


def test_every_line_says_in_one_sentence_what_is_answered():
    found = benchmarks()
    assert {"python -m benchmarks.verify_plan", "benchmarks/micro/bench_histogram.py"} <= {
        one.command for one in found
    }
    for one in found:
        assert one.answers.endswith("."), one.command
        assert len(one.answers) <= 110


def test_a_listed_module_says_how_it_is_run():
    for one in benchmarks():
        if one.takes:
            module = one.command.rpartition(".")[2]
            assert f"benchmarks.{module}" in docstring(PLACE / f"{module}.py")


def test_the_command_prints_them():
    printed = subprocess.run(
        [sys.executable, "-m", "benchmarks"], check=True, capture_output=True, text=True, cwd=PLACE.parent
    ).stdout
    assert all(one.command in printed and one.answers in printed for one in benchmarks())
