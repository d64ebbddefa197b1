"""The page of `smsengine plan --report`: one HTML file with plots, which opens without a network."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from html import escape

from engine.capacity import consequences, durations
from engine.capacity.plan import Bounds, Plan, QueuePlan
from engine.capacity.plan_answer import QueueAnswer, TargetAnswer, VariationAnswer
from engine.written_numbers import plural
from supervisor.cli.plan_answer import Answer
from supervisor.cli.plan_show import latency, p99
from supervisor.cli.svg_chart import Axis, Line, Mark, chart, ticks_between
from supervisor.cli.text import counted

# Of every page with plots.
STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --paper: #ffffff; --soft: #d5dae1; --one: #0b62c4;
  --two: #b3540a; --mark: #b3123f; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ee; --paper: #14171b; --soft: #39414b; --one:
#6cb0ff;
  --two: #f0a35e; --mark: #ff7a9c; } }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); margin: 2rem auto;
  max-width: 75rem; padding: 0 1rem; }
table { border-collapse: collapse; margin: 1rem 0; } th, td { padding: .25rem .8rem .25rem 0; text-align:
right; } th:first-child, td:first-child { text-align: left; } th { border-bottom: 1px solid var(--soft); }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(20rem, 1fr)); gap: 1.5rem; } svg {
width: 100%; height: auto; } svg text { font-size: 12px; fill: var(--ink); } .grid { stroke: var(--soft); }
.line { fill: none; stroke-width: 2; } .line0 { stroke: var(--one); } .line1 { stroke: var(--two); }
text.name { stroke: none; } text.line0 { fill: var(--one); } text.line1 { fill: var(--two); } line.mark {
stroke: var(--mark); stroke-dasharray: 5 4; } text.mark { fill: var(--mark); } pre { border: 1px solid
var(--soft); padding: .8rem; overflow: auto; } .missed { color: var(--mark); font-weight: 600; }
"""
# The quantiles of the plot of a distribution, in nines, so that the tail can be seen.
_PARTS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.97, 0.98, 0.99, 0.995, 0.998, 0.999)
_PART_TICKS = (0.0, 0.5, 0.9, 0.99, 0.999)


def page(plan: Plan, facts: Answer, bounds: Bounds) -> str:
    """The whole page. It simulates the neighbours of the plan, which takes a few seconds."""
    verdict = (
        "The plan meets every target."
        if facts.meets
        else f'<span class="missed">No plan meets the targets.</span> {escape(facts.reason)}'
    )
    parts = [
        "<!doctype html><html lang='en'><meta charset='utf-8'>",
        "<meta name='viewport' content='width=device-width, initial-scale=1'>",
        f"<title>Capacity plan</title><style>{STYLE}</style><h1>Capacity plan</h1><p>{verdict}</p>",
        _table(
            (
                "queue",
                "peak",
                "burst",
                "processes",
                "concurrency",
                "p50",
                "p95",
                "p99",
                "p99.9",
                "used",
                "binds",
            ),
            map(_row, facts.queues),
        ),
    ]
    for found, queue in zip(plan.queues, facts.queues, strict=True):
        parts.append(f"<h2>{found.queue}</h2>{_targets(queue)}<div class='charts'>")
        parts += [_distribution(found), _curve(plan, found, bounds), "</div>"]
    parts.append("<h2>When something is different</h2>")
    parts.append(_variations(facts, [*facts.sensitivity, *facts.what_if]))
    nodes = facts.nodes
    cores = f"{nodes.cores_per_node:g} {plural('core', nodes.cores_per_node)}"
    parts.append(
        f"<h2>Machines</h2><p>{nodes.nodes} of {cores}; {nodes.cores_needed:.2f} "
        "cores are busy at the peak, embedded stores among them.</p>"
    )
    parts.append(_table(("part", "cores"), ((name, f"{c:.3f}") for name, c in nodes.cores.items())))
    parts.append(f"<h2>Configuration</h2><pre>{escape(facts.config)}</pre>")
    parts.append(f"<p>Costs: {escape(facts.costs)}.</p>")
    parts += [f"<p>Note: {escape(warning)}</p>" for warning in facts.warnings]
    return "\n".join(parts) + "\n"


def _distribution(found: QueuePlan) -> str:
    points = [(found.latencies.quantile_s(part), _nines(part)) for part in _PARTS]
    marks = [Mark(str(t).partition(" ")[2], x=t.latency_s) for t in found.targets]
    seen = [x for x, _ in points] + [t.latency_s for t in found.targets]
    ticks = ticks_between(max(min(seen), 1e-4), max(seen), logarithmic=True)
    name = "latency, from submission to acceptance by the provider"
    x = Axis(name, _fewer(ticks), durations.show, logarithmic=True)
    y = Axis("", [_nines(p) for p in _PART_TICKS], lambda n: f"p{(1 - 10**-n) * 100:.4g}")
    return chart(f"Latency in {found.queue} by quantile", x, y, [Line("predicted", points)], marks)


def _curve(plan: Plan, found: QueuePlan, bounds: Bounds) -> str:
    tried = consequences.curve(plan, found.queue, bounds)
    lines = [
        Line(f"p{part * 100:g}", [(n, latencies.quantile_s(part)) for n, latencies in tried])
        for part in (0.99, 0.5)
    ]
    marks = [Mark(str(t).partition(" ")[2], y=t.latency_s) for t in found.targets]
    marks.append(Mark("planned", x=found.shape.concurrency))
    values = [s for line in lines for _, s in line.points] + [t.latency_s for t in found.targets]
    x = Axis(
        f"concurrency of each of {counted(found.shape.processes, 'process')}",
        ticks_between(tried[0][0], tried[-1][0]),
        lambda n: f"{n:,.0f}",
    )
    low = max(min(values), 1e-4)
    y = Axis("", ticks_between(low, max(values), logarithmic=True), durations.show, logarithmic=True)
    return chart(f"Latency in {found.queue} by concurrency", x, y, lines, marks)


def _fewer(ticks: Sequence[float]) -> list[float]:
    """At most nine of them or so, the first and the last among them."""
    step = max(1, math.ceil(len(ticks) / 9))
    return sorted({*ticks[::step], ticks[-1]})


def _nines(part: float) -> float:
    """Of a quantile, the count of its nines: 0.9 is 1, 0.99 is 2."""
    return -math.log10(1 - part)


def _targets(queue: QueueAnswer) -> str:
    lines = [
        f"p{t.quantile * 100:g} at most {_ms(t.at_most_ms)}: {_of_target(queue, t)}, "
        + ("met" if t.met else '<span class="missed">missed</span>')
        for t in queue.targets
    ]
    used = ", ".join(f"{name} {part:.0%}" for name, part in queue.utilisations.items())
    return "".join(f"<p>{line}.</p>" for line in lines) + f"<p>Used at the peak: {escape(used)}.</p>"


def _of_target(queue: QueueAnswer, target: TargetAnswer) -> str:
    if queue.predicted.grows and not target.met:
        return "more arrives than is sent"
    return f"{_ms(target.predicted_ms)} is predicted"


def _variations(facts: Answer, variations: Sequence[VariationAnswer]) -> str:
    rows = (
        (v.name, *(p99(v.predicted[q.queue]) for q in facts.queues), "" if v.met else "misses")
        for v in variations
    )
    return _table(("when", *(f"{q.queue} p99" for q in facts.queues), ""), rows)


def _row(queue: QueueAnswer) -> tuple[str, ...]:
    seen = queue.predicted
    return (
        queue.queue,
        f"{queue.messages_per_second:,.1f}/s",
        f"{queue.burst:,.0f}",
        f"{queue.processes:,}",
        f"{queue.concurrency:,}",
        *(latency(seen, ms) for ms in (seen.p50_ms, seen.p95_ms, seen.p99_ms, seen.p999_ms)),
        f"{queue.utilisation:.0%}",
        queue.bottleneck,
    )


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in columns)
    body = "".join("<tr>" + "".join(f"<td>{escape(c)}</td>" for c in row) + "</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _ms(milliseconds: float) -> str:
    return durations.show(milliseconds / 1000)
