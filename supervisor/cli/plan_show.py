"""What `smsengine plan` prints for people."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from engine.capacity import durations
from engine.capacity.plan_answer import Predicted, QueueAnswer
from engine.written_numbers import plural
from supervisor.cli import show
from supervisor.cli.plan_answer import Answer

# How the variation is named that shows whether there is room.
_MORE = "arrivals +20 %"


def show_plan(facts: Answer, report: Path | None) -> None:
    """Print a plan for people. `report`: where its page with plots was written."""
    console = Console(highlight=False)
    if facts.reason:
        console.print(f"[bold red]No plan meets the targets.[/bold red] {facts.reason}\nThe nearest:\n")
    columns = ("queue", "peak", "plan", "p50", "p95", "p99", "p99.9", "binds")
    console.print(show.table(columns, map(_row, facts.queues), frozenset(range(1, 7))))
    console.print()
    console.print("[dim]plan: processes × concurrency of each; binds: what is used most[/dim]\n")
    for queue in facts.queues:
        for line in _sentences(queue):
            console.print(line)
    nodes = facts.nodes
    cores = f"{nodes.cores_per_node:g} {plural('core', nodes.cores_per_node)}"
    console.print(
        f"{show.counted(nodes.nodes, 'node')} of {cores}: the "
        f"peak keeps {nodes.cores_needed:.2f} busy, with embedded stores."
    )
    varied = [*facts.sensitivity, *facts.what_if]
    console.print()
    names = ("when", *(f"{queue.queue} p99" for queue in facts.queues), "")
    rows = [
        (
            v.name,
            *(p99(v.predicted[queue.queue]) for queue in facts.queues),
            "" if v.met else "misses",
        )
        for v in varied
    ]
    console.print(show.table(names, rows, frozenset(range(1, len(facts.queues) + 1))))
    seen = [p for v in varied for p in v.predicted.values()] + [q.predicted for q in facts.queues]
    if any(p.grows for p in seen):
        console.print(
            "\n[dim]grows: more arrives than is sent, so it waits longer the longer that lasts[/dim]"
        )
    if facts.meets and any(v.name == _MORE and not v.met for v in facts.sensitivity):
        console.print("\nIt is the smallest plan: with a fifth more than these peaks it misses a target.")
    console.print(
        f"\nFor the configuration{' of each node' if nodes.nodes > 1 else ''}:\n\n{facts.config}",
        markup=False,
    )
    for warning in facts.warnings:
        console.print(f"Note: {warning}", markup=False)
    if report is not None:
        console.print(f"The page with plots: {report}", markup=False)


def _row(queue: QueueAnswer) -> tuple[str, ...]:
    seen = queue.predicted
    return (
        queue.queue,
        f"{queue.messages_per_second:,.0f}/s",
        f"{queue.processes:,} × {queue.concurrency:,}",
        *(latency(seen, ms) for ms in (seen.p50_ms, seen.p95_ms, seen.p99_ms, seen.p999_ms)),
        f"{queue.bottleneck} {queue.utilisation:.0%}",
    )


def _sentences(queue: QueueAnswer) -> list[str]:
    found = []
    for target in queue.targets:
        word, seen = "met" if target.met else "missed", _ms(target.predicted_ms)
        by = (
            f"{seen}, a margin of {target.margin:.0%}" if target.met else f"{seen}, {-target.margin:.0%} more"
        )
        if queue.predicted.grows and not target.met:
            by = "more arrives than is sent"
        promise = f"{queue.queue} p{target.quantile * 100:g} <= {_ms(target.at_most_ms)}"
        found.append(f"{promise} is {word}: {by}.")
    loss = queue.after_loss_of_a_process
    if loss is None:
        found.append(
            f"{queue.queue} has one process alone: when it dies, nothing is sent until it is replaced."
        )
    else:
        word = "still met" if loss.met else "missed"
        found.append(f"{queue.queue} without one process: p99 {p99(loss.predicted)}, the targets are {word}.")
    drained = queue.drained_after_outage_s
    after = "stays while the peak lasts" if drained is None else f"is gone within {durations.show(drained)}"
    found.append(f"{queue.queue} after a minute without the provider: the backlog {after}.")
    return found


def p99(seen: Predicted) -> str:
    """The 99th percentile in words."""
    return latency(seen, seen.p99_ms)


def latency(seen: Predicted, milliseconds: float) -> str:
    """A quantile in words; where the backlog grows, no figure says anything."""
    return "grows" if seen.grows else _ms(milliseconds)


def _ms(milliseconds: float) -> str:
    return durations.show(milliseconds / 1000)
