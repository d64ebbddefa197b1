"""The report of `benchmarks.verify_plan`: a table, a page with plots, and a line of JSON for each run."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path

import msgspec

from benchmarks.verify_records import Measured
from engine.capacity import durations
from engine.capacity.costs import Costs
from supervisor.cli.plan_report import STYLE
from supervisor.cli.svg_chart import Axis, Line, Mark, chart, ticks_between

REPORTS, RESULTS = Path("docs/reports"), Path("benchmarks/results")


def write_reports(runs: Sequence[Measured], costs: Costs, tolerance: float) -> None:
    """Write verify-plan.md and .html under docs/reports, and verify-plan.jsonl under benchmarks/results."""
    REPORTS.mkdir(parents=True, exist_ok=True)
    RESULTS.mkdir(parents=True, exist_ok=True)
    (REPORTS / "verify-plan.md").write_text(_markdown(runs, costs, tolerance), encoding="utf-8")
    (REPORTS / "verify-plan.html").write_text(_page(runs), encoding="utf-8")
    with (RESULTS / "verify-plan.jsonl").open("ab") as lines:
        lines.writelines(msgspec.json.encode(run) + b"\n" for run in runs)


def _markdown(runs: Sequence[Measured], costs: Costs, tolerance: float) -> str:
    near = sum(all(abs(part) <= tolerance for part in run.off().values()) for run in runs if run.planned)
    planned = sum(run.planned for run in runs)
    machine = runs[0].machine if runs else ""
    lines = [
        "# Predicted and measured",
        "",
        f"`make verify-plan`; {machine}. Costs: {costs.machine}. Milliseconds from the instant a message "
        "was due to the provider's acceptance, predicted / measured. "
        f"{near} of {planned} plans are within {tolerance:.0%} at p50, p95 and p99.",
        "",
        "| scenario | queue | shape | p50 | p95 | p99 | largest distance | target | predicted | measured "
        "| load late |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for run in runs:
        worst = max(run.off().values(), key=abs)
        cells = [f"{run.predicted_ms[p]:.0f} / {run.measured_ms[p]:.0f}" for p in ("p50", "p95", "p99")]
        meets = ["met" if meets else "missed" for meets in (run.predicted_meets, run.measured_meets)]
        name = run.scenario if run.planned else f"{run.scenario}, less"
        lines.append(
            f"| {name} | {run.queue} | {run.processes} × {run.concurrency} | {' | '.join(cells)} "
            f"| {worst:+.0%} | "
            f"{', '.join(t.partition(' ')[2] for t in run.targets)} | {' | '.join(meets)} "
            f"| {run.load_late_ms:.0f} ms |"
        )
    return "\n".join(lines) + "\n"


def _page(runs: Sequence[Measured]) -> str:
    charts = "".join(_chart(run) for run in runs if run.planned)
    return (
        "<!doctype html><html lang='en'><meta charset='utf-8'><meta name='viewport' "
        "content='width=device-width, initial-scale=1'><title>Predicted and measured</title>"
        f"<style>{STYLE}</style>"
        f"<h1>Predicted and measured</h1><div class='charts'>{charts}</div>\n"
    )


def _chart(run: Measured) -> str:
    parts = {"p50": 0.0, "p95": 1.0, "p99": 2.0}
    values = [*run.predicted_ms.values(), *run.measured_ms.values()]
    y = Axis(
        "",
        ticks_between(min(values) / 1e3, max(values) / 1e3, logarithmic=True),
        durations.show,
        logarithmic=True,
    )
    x = Axis("", list(parts.values()), lambda n: next(name for name, at in parts.items() if at == n))
    lines = [
        Line(name, [(parts[p], ms / 1e3) for p, ms in by.items()])
        for name, by in (("predicted", run.predicted_ms), ("measured", run.measured_ms))
    ]
    title = f"{run.scenario}: {run.queue} {run.processes} × {run.concurrency}"
    marks: list[Mark] = []
    return f"<figure><figcaption>{escape(title)}</figcaption>{chart(title, x, y, lines, marks)}</figure>"
