"""What `benchmarks.peers` has found: the rounds as a JSON file, and their medians as text, page and chart."""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
from collections.abc import Callable
from pathlib import Path

import msgspec

from benchmarks.chart import Panel, svg
from engine.hosts.cores import usable_cores

NAMES = {
    "kannel": "Kannel, one message a request",
    "single": "smsengine, one message a request",
    "batch": "smsengine, 100 messages a request",
}


class Result(msgspec.Struct, kw_only=True):
    """One case of one round."""

    # Messages that were answered as accepted, and that arrived at the simulator; the same by the second.
    accepted: int
    accepted_per_s: float
    arrived: int
    arrived_per_s: float
    # Quantiles of the answers, milliseconds.
    answer_ms: dict[str, float]
    # Requests that were answered otherwise, by how.
    wrong: dict[str, int]
    # CPU for each message that arrived, microseconds, by process.
    cpu_us: dict[str, float]

    @property
    def own_cpu_us(self) -> float:
        """CPU for each message of the system itself, without the simulator and the load, microseconds."""
        return sum(us for name, us in self.cpu_us.items() if not name.startswith("("))


class Round(msgspec.Struct, kw_only=True):
    """All cases, once each."""

    store: str
    window: int
    # How long each was offered load.
    seconds: float
    results: dict[str, Result]


class Results(msgspec.Struct, kw_only=True):
    """All rounds, and where they were made."""

    machine: dict[str, str] = {}
    rounds: list[Round] = []

    @classmethod
    def read(cls, path: Path | None) -> Results:
        """Those of the file; none when there is none."""
        if path is None or not path.exists():
            return cls()
        return msgspec.json.decode(path.read_bytes(), type=cls)

    def write(self, path: Path) -> None:
        """Replace the file."""
        path.write_bytes(msgspec.json.format(msgspec.json.encode(self), indent=1) + b"\n")

    def note_machine(self, kannel: str) -> None:
        """Note what this runs on; `kannel`: its version, "" without it."""
        self.machine = {
            "processor": _cpu_model(),
            "cores": f"{usable_cores():g}",
            "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.1f} GiB",
            "system": f"{platform.system()} {platform.release()}",
            "Python": platform.python_version(),
            "smsengine": _commit(),
            **({"Kannel": kannel} if kannel else {}),
        }

    def medians(self, of: Callable[[Result], float]) -> dict[str, float]:
        """The median of a figure over the rounds, by case."""
        return {
            case: statistics.median(of(r.results[case]) for r in self.rounds if case in r.results)
            for case in NAMES
            if any(case in r.results for r in self.rounds)
        }

    def ratios(self, case: str, of: Callable[[Result], float]) -> list[float]:
        """A figure of `case` divided by that of Kannel, round by round."""
        both = [r.results for r in self.rounds if {case, "kannel"} <= r.results.keys()]
        return [of(results[case]) / of(results["kannel"]) for results in both if of(results["kannel"])]


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def _commit() -> str:
    command = ["git", "describe", "--always", "--dirty"]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    return found.stdout.strip() or "unknown"


def line_of(result: Result) -> str:
    """One case of one round on one line."""
    cpu = ", ".join(f"{name} {us:.0f}" for name, us in sorted(result.cpu_us.items()) if us >= 0.5)
    wrong = f"  {result.wrong}" if result.wrong else ""
    missing = f"  {result.accepted - result.arrived} missing" if result.accepted != result.arrived else ""
    return (
        f"accepted {result.accepted_per_s:7.0f}/s  arrived {result.arrived_per_s:7.0f}/s  "
        f"answer p50 {result.answer_ms['p50']:.1f} ms{missing}{wrong}\n"
        f"         CPU {result.own_cpu_us:.0f} µs a message: {cpu}"
    )


def _table(results: Results) -> list[str]:
    accepted = results.medians(lambda r: r.accepted_per_s)
    arrived = results.medians(lambda r: r.arrived_per_s)
    cpu = results.medians(lambda r: r.own_cpu_us)
    answer = {q: results.medians(lambda r, q=q: r.answer_ms[q]) for q in ("p50", "p99")}  # type: ignore[misc]
    lines = [
        "| | accepted/s | arrived/s | answer, p50 ms | answer, p99 ms | CPU a message, µs |",
        "|---|---|---|---|---|---|",
    ]
    return lines + [
        f"| {NAMES[case]} | {accepted[case]:.0f} | {arrived[case]:.0f} | {answer['p50'][case]:.1f} | "
        f"{answer['p99'][case]:.1f} | {cpu[case]:.0f} |"
        for case in accepted
    ]


def _ratios(results: Results) -> list[str]:
    lines = []
    for case in ("single", "batch"):
        rates = results.ratios(case, lambda r: r.arrived_per_s)
        cpu = results.ratios(case, lambda r: r.own_cpu_us)
        if rates:
            lines.append(f"| {NAMES[case]} | {_list(rates)} | {_list(cpu)} |")
    if not lines:
        return []
    head = ["| in parts of Kannel's, round by round | arrived/s | CPU a message |", "|---|---|---|"]
    return head + lines


def _list(ratios: list[float]) -> str:
    each = ", ".join(f"{ratio:.2f}" for ratio in ratios)
    return f"{each}; median {statistics.median(ratios):.2f}"


def _processes(results: Results) -> list[str]:
    lines = ["| CPU a message, µs, medians | |", "|---|---|"]
    for case, shares in _cpu_by_process(results).items():
        parts = ", ".join(
            f"{name} {us:.0f}" for name, us in sorted(shares.items(), key=lambda item: -item[1])
        )
        lines.append(f"| {NAMES[case]} | {parts} |")
    return lines


def _cpu_by_process(results: Results) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = {}
    for case in results.medians(lambda r: r.own_cpu_us):
        rounds = [r.results[case] for r in results.rounds if case in r.results]
        names = {name for result in rounds for name in result.cpu_us}
        shares = {name: statistics.median(r.cpu_us.get(name, 0.0) for r in rounds) for name in names}
        found[case] = {name: us for name, us in shares.items() if us >= 0.5}
    return found


def text_of(results: Results) -> str:
    """The medians as text; it is Markdown, too."""
    if not results.rounds:
        return "There are no rounds yet."
    parts = [_table(results), _ratios(results), _processes(results)]
    return "\n\n".join("\n".join(part) for part in parts if part)


def write(results: Results, directory: Path) -> None:
    """Write peers.md and peers.svg."""
    directory.mkdir(parents=True, exist_ok=True)
    stores = ", ".join(sorted({f"`{r.store}`" for r in results.rounds}))
    facts = "\n".join(f"- {name}: {value}" for name, value in results.machine.items())
    one = results.rounds[0]
    page = f"""# Beside Kannel

HTTP in, SMPP out to the same simulator, on one machine, which also makes the load. Rounds:
{len(results.rounds)}, in each of which every case is offered load for {one.seconds:g} s, in turn. One SMPP
session each with a window of {one.window}, no receipts. `python -m benchmarks.peers` repeats it; how it is
taken stands in its head.

{facts}

What a 202 promises differs. smsengine has the message on the disk (`appendfsync always`), has charged it,
and records each event in ClickHouse; its figures include that. Kannel has it in its store (`store-type`:
{stores}), which the operating system writes to the disk some time later, and knows no credit.

![messages a second, and CPU a message](peers.svg)

{text_of(results)}
"""
    (directory / "peers.md").write_text(page)
    (directory / "peers.svg").write_text(_chart(results))


def _chart(results: Results) -> str:
    rates = {
        NAMES[case]: [r.results[case].arrived_per_s for r in results.rounds if case in r.results]
        for case in results.medians(lambda r: r.arrived_per_s)
    }
    own = {
        NAMES[case]: {name: us for name, us in shares.items() if not name.startswith("(")}
        for case, shares in _cpu_by_process(results).items()
    }
    return svg(
        [
            Panel("messages a second that arrive; a dot for each round, the bar is the median", dots=rates),
            Panel("CPU for each message, µs", stacks=own),
        ]
    )
