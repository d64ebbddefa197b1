"""The report of `benchmarks.verify_plan`: a table with a plot, and a line of JSON for each run."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import msgspec

from benchmarks.machine_cpu import OTHERS_MAX
from benchmarks.results import REPORTS, Machine, machine, read
from benchmarks.verify_records import Measured
from engine.capacity import durations
from engine.capacity.costs import Costs
from supervisor.cli.svg_chart import Axis, ticks_between

_QUANTILES = ("p50", "p95", "p99")
_WIDTH, _LEFT, _RIGHT, _ROW, _TOP = 900, 330, 20, 40, 50
_COLOURS = {"p50": "#4477aa", "p95": "#228833", "p99": "#ee6677"}


def write_reports(runs: Sequence[Measured], costs: Costs, tolerance: float) -> None:
    """Write verify-plan.md and .svg under docs/reports."""
    REPORTS.mkdir(parents=True, exist_ok=True)
    (REPORTS / "verify-plan.md").write_text(_markdown(runs, costs, tolerance), encoding="utf-8")
    (REPORTS / "verify-plan.svg").write_text(_plot(runs), encoding="utf-8")


def noted_here(*, any_commit: bool = False) -> list[Measured]:
    """What was measured on this machine at this commit, or at any, the newest of each."""
    newest: dict[tuple[str, str, bool], Measured] = {}
    for line in read("verify-plan"):
        was, now = (
            msgspec.convert(one, Machine) for one in (line["machine"], msgspec.to_builtins(machine()))
        )
        if was == now or (any_commit and msgspec.structs.replace(was, commit=now.commit) == now):
            run = msgspec.convert(line, Measured)
            newest[run.scenario, run.queue, run.planned] = run
    return list(newest.values())


def disturbance(runs: Sequence[Measured]) -> str:
    """A sentence when others used much of this machine during some of the runs, "" when not."""
    some = {run.scenario for run in runs if run.others_cpus > OTHERS_MAX}
    if not some:
        return ""
    most = max(run.others_cpus for run in runs)
    scenarios = "1 scenario" if len(some) == 1 else f"{len(some)} scenarios"
    return (
        f"Others used up to {most:.1f} CPUs of this machine during {scenarios}, so how far these are from"
        " their predictions says nothing of the planner: measure again when nothing else runs."
    )


def _markdown(runs: Sequence[Measured], costs: Costs, tolerance: float) -> str:
    plans, less = [r for r in runs if r.planned], [r for r in runs if not r.planned]
    near = sum(all(abs(part) <= tolerance for part in run.off().values()) for run in plans)
    missed = {run.scenario for run in less if not run.measured_meets}
    lines = [
        "# Predicted and measured",
        "",
        f"`make verify-plan`; {machine()}. Costs: {costs.machine}.",
        "",
        "Milliseconds from the instant a message was due to the provider's acceptance: predicted for the",
        "long run / predicted for the load that was sent / measured. The load and the provider's answers",
        "are drawn beforehand, as `benchmarks/typical_load.py` says.",
        "",
        f"{near} of {len(plans)} plans are within {tolerance:.0%} of the prediction for the long run at p50,",
        "p95 and p99; the column *off* has the largest distance. With a tenth less concurrency",
        f"{len(missed)} of {len({run.scenario for run in less})} scenarios miss their target.",
        "",
        *([disturbed, ""] if (disturbed := disturbance(runs)) else []),
        "![predicted and measured](verify-plan.svg)",
        "",
        "| scenario | queue | shape | messages | p50 | p95 | p99 | off | target | predicted | measured |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
        *map(_row, runs),
        "",
        "How far chance moves a load of this length: between these lie 95 of 100 random loads in the planned",
        "shape, as predicted, milliseconds; and how late the load itself was at most.",
        "",
        "| scenario | queue | p50 | p95 | p99 | late |",
        "|---|---|---|---|---|---|",
    ]
    for run in plans:
        ranges = [f"{low:.0f} to {high:.0f}" for low, high in (run.chance_ms[p] for p in _QUANTILES)]
        late = f"{run.load_late_ms:.0f}"
        lines.append(f"| {run.scenario} | {run.queue} | {' | '.join(ranges)} | {late} |")
    return "\n".join(lines) + "\n"


def _row(run: Measured) -> str:
    worst = max(run.off().values(), key=abs)
    cells = [
        " / ".join(f"{by[p]:.0f}" for by in (run.predicted_ms, run.load_ms, run.measured_ms))
        for p in _QUANTILES
    ]
    meets = ["met" if meets else "missed" for meets in (run.predicted_meets, run.measured_meets)]
    promised = ", ".join(target.partition(" ")[2] for target in run.targets)
    name = run.scenario if run.planned else f"{run.scenario}, less"
    return (
        f"| {name} | {run.queue} | {run.processes} × {run.concurrency} | {run.messages} "
        f"| {' | '.join(cells)} | {worst:+.0%} | {promised} | {' | '.join(meets)} |"
    )


def _plot(runs: Sequence[Measured]) -> str:
    """A row for each plan: rings for what was predicted, dots for what was measured, bars for chance."""
    plans = [run for run in runs if run.planned]
    values = [ms for run in plans for by in (run.predicted_ms, run.measured_ms) for ms in by.values()]
    values += [ms for run in plans for both in run.chance_ms.values() for ms in both if ms]
    low, high = min(values, default=1.0) / 1e3, max(values, default=1.0) / 1e3
    axis = Axis("", ticks_between(low, high, logarithmic=True), durations.show, logarithmic=True)
    height = _TOP + _ROW * len(plans) + 40
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" '
        'style="font-family: sans-serif; font-size: 13px">',
        f'<rect width="{_WIDTH}" height="{height}" fill="white"/>',
        '<text x="10" y="20">rings: predicted for the long run; dots: measured; bars: 95 of 100 loads</text>',
    ]
    for tick in axis.ticks:
        x = _x(axis, tick * 1e3)
        parts.append(f'<path d="M{x} {_TOP - 10}V{height - 30}" stroke="#dddddd"/>')
        parts.append(f'<text x="{x}" y="{height - 12}" text-anchor="middle">{escape(axis.text(tick))}</text>')
    for n, (name, colour) in enumerate(_COLOURS.items()):
        parts.append(f'<text x="{_WIDTH - 170 + 55 * n}" y="20" fill="{colour}">● {name}</text>')
    for n, run in enumerate(plans):
        parts += _marks(run, axis, _TOP + _ROW * n)
    return "\n".join([*parts, "</svg>"]) + "\n"


def _marks(run: Measured, axis: Axis, top: int) -> list[str]:
    parts = [f'<text x="10" y="{top + 16}">{escape(f"{run.scenario}: {run.queue}")}</text>']
    for place, (name, colour) in enumerate(_COLOURS.items()):
        y = top + 5 + 8 * place
        first, last = (_x(axis, ms) for ms in run.chance_ms[name])
        predicted, measured = _x(axis, run.predicted_ms[name]), _x(axis, run.measured_ms[name])
        parts += [
            f'<path d="M{first} {y}H{last}" stroke="{colour}" stroke-width="4" opacity="0.25"/>',
            f'<circle cx="{predicted}" cy="{y}" r="5" fill="none" stroke="{colour}"/>',
            f'<circle cx="{measured}" cy="{y}" r="3" fill="{colour}"/>',
        ]
    return parts


def _x(axis: Axis, ms: float) -> float:
    return round(_LEFT + axis.place(max(ms, 1e-3) / 1e3) * (_WIDTH - _LEFT - _RIGHT), 1)
