"""What there is to measure: `python -m benchmarks` lists every benchmark with what it answers and how long
it takes.

The lines are those of the modules' own docstrings: the first sentence says what is answered, and the sentence
that begins with "Takes" how long it takes on a machine with two cores.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import NamedTuple

_PLACE = Path(__file__).parent
_TAKES = re.compile(r"^Takes (.+?)[.:]\s", re.MULTILINE | re.DOTALL)


class Benchmark(NamedTuple):
    """One that can be run: how, what it answers, and how long it takes; "": with the other parts."""

    command: str
    answers: str
    takes: str


def benchmarks() -> list[Benchmark]:
    """All of the whole, and then all of the parts."""
    found = []
    for file in sorted(_PLACE.glob("*.py")):
        text = docstring(file)
        takes = _TAKES.search(text)
        if takes is not None:
            found.append(
                Benchmark(f"python -m benchmarks.{file.stem}", _first(text), " ".join(takes[1].split()))
            )
    parts = sorted((_PLACE / "micro").glob("bench_*.py"))
    return found + [Benchmark(f"benchmarks/micro/{file.name}", _first(docstring(file)), "") for file in parts]


def docstring(file: Path) -> str:
    """The docstring of a module, which is not imported."""
    return ast.get_docstring(ast.parse(file.read_bytes())) or ""


def _first(text: str) -> str:
    return text.partition("\n")[0]


def main() -> None:
    """Print the list."""
    found = benchmarks()
    print("The whole, each with an engine of its own; --help says more:\n")
    for one in found:
        if one.takes:
            print(f"  {one.command}\n      {one.answers} Takes {one.takes}.")
    print(
        "\nThe parts: make bench, or make bench ARGS='-k NAME'; with COMPARE=1 it says what is slower than\n"
        "the stored baseline, and python -m benchmarks.compare says it once more:\n"
    )
    for one in found:
        if not one.takes:
            print(f"  {one.command}\n      {one.answers}")


if __name__ == "__main__":
    main()
