"""Results of benchmarks: a line of JSON for each, with the facts of the machine, under benchmarks/results/.

The folder is not kept in git, but for the baselines of `make bench` in benchmarks/results/baselines.
"""

from __future__ import annotations

import datetime
import os
import platform
import subprocess
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import msgspec

from engine.hosts.cores import usable_cores

RESULTS = Path(__file__).parent / "results"
REPORTS = Path(__file__).parent.parent / "docs" / "reports"


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """What a figure depends on beside the code."""

    processor: str
    cores: float
    memory_gib: float
    kernel: str
    python: str
    # The commit that was measured, with a "+" when files differ from it; "": not known.
    commit: str

    def __str__(self) -> str:
        system = f"Linux {self.kernel}, Python {self.python}"
        return f"{self.cores:g} cores of {self.processor}, {self.memory_gib:g} GiB, {system}"


@cache
def machine() -> Machine:
    """The facts of this machine."""
    return Machine(
        processor=_processor(),
        cores=usable_cores(),
        memory_gib=round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        kernel=platform.release(),
        python=platform.python_version(),
        commit=_commit(),
    )


def note(benchmark: str, result: msgspec.Struct | Mapping[str, Any]) -> Path:
    """Append `result` to benchmarks/results/BENCHMARK.jsonl; where that is."""
    RESULTS.mkdir(exist_ok=True)
    line = {
        "benchmark": benchmark,
        "at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "machine": msgspec.to_builtins(machine()),
        **msgspec.to_builtins(result),
    }
    file = RESULTS / f"{benchmark}.jsonl"
    # One write, so that a benchmark that is killed leaves whole lines.
    with file.open("ab") as lines:
        lines.write(msgspec.json.encode(line) + b"\n")
    return file


def read(benchmark: str) -> list[dict[str, Any]]:
    """All results of a benchmark that were noted here; a last line that is not whole is left out."""
    file, found = RESULTS / f"{benchmark}.jsonl", []
    if file.is_file():
        for line in file.read_bytes().splitlines(keepends=True):
            if line.endswith(b"\n"):
                found.append(msgspec.json.decode(line))
    return found


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return platform.machine()


def _commit() -> str:
    root = Path(__file__).parent.parent

    def git(*arguments: str) -> str:
        found = subprocess.run(
            ["git", "-C", str(root), *arguments], capture_output=True, text=True, check=False
        )
        return found.stdout.strip() if found.returncode == 0 else ""

    commit = git("rev-parse", "--short", "HEAD")
    return commit + ("+" if commit and git("status", "--porcelain", "--untracked-files=no") else "")
