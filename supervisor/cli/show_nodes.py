"""Nodes and their processes as the commands print them for people. Pure: facts in, text out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from rich.console import RenderableType
from rich.text import Text

from supervisor.cli.answers import Node, NodeProcess, Process, Status
from supervisor.cli.tables import table
from supervisor.cli.text import counted, number, span


class NodeRows(NamedTuple):
    """One node as it is shown."""

    # None: only its processes are known, from its supervisor.
    node: Node | None
    title: str
    # With the version of the routes in each, "" where it is not known.
    processes: list[tuple[NodeProcess, str]]


def rows_of(seen: Status) -> list[NodeRows]:
    """Every node with its processes, that of the answer first."""
    own = next((node for node in seen.nodes or () if node.name == seen.node), None)
    found = []
    if own is not None or seen.processes:
        title = _title(own) if own else f"node {seen.node}"
        noted = [(p, "") for p in own.processes] if own else []
        found.append(NodeRows(own, title, _own(seen.processes, own) if seen.processes else noted))
    for node in seen.nodes or ():
        if node.name != seen.node:
            alive = node.seen in ("running", "draining", "drained")
            found.append(NodeRows(node, _title(node), [(p, "") for p in node.processes] if alive else []))
    return found


def nodes_of(seen: Status, now_us: int) -> list[RenderableType]:
    """Every node with its processes, as `smsengine status` shows them."""
    parts: list[RenderableType] = []
    for rows in rows_of(seen):
        parts += [
            Text(rows.title),
            *scaled(rows.node, now_us),
            *(_processes(rows.processes, now_us) if rows.processes else [Text()]),
        ]
    return parts


def scaled(node: Node | None, now_us: int) -> list[Text]:
    """A line for each queue that autoscaling has changed: from what to what, when and why."""
    return [
        Text(
            f"autoscaled {queue} {last.processes_before} × {last.concurrency_before} → "
            f"{last.processes} × {last.concurrency}, {span(max(now_us - last.at_us, 0) // 1000)} ago: "
            f"{last.reason}"
        )
        for queue, last in (node.scaled if node else {}).items()
    ]


def scarce_disks(seen: Iterable[Node]) -> list[str]:
    """A sentence for each node whose data directory is on a disk that is nearly full."""
    return [
        f"the disk of the data directory {disk.place} of node {node.name} has {number(disk.free_mb)} MB free,"
        f" of {number(disk.total_mb)} MB: make room"
        for node in seen
        if (disk := node.disk) is not None and disk.free_mb < disk.low_below_mb
    ]


def _title(node: Node) -> str:
    scaled = [
        f"{role} {count} (configured {node.configured[role]})"
        for role, count in node.roles.items()
        if node.configured.get(role, count) != count
    ]
    scaled += [
        f"concurrency of {queue} {count} (configured {node.configured_concurrency[queue]})"
        for queue, count in node.concurrency.items()
        if node.configured_concurrency.get(queue, count) != count
    ]
    more = f", {counted(node.more_processes, 'process')} more" if node.more_processes else ""
    scale = f", {', '.join(scaled)}" if scaled else ""
    return f"node {node.name}: {state(node)}, version {node.version}{scale}{more}"


def _own(processes: Sequence[Process], own: Node | None) -> list[tuple[NodeProcess, str]]:
    """Those of the node that answers, as its supervisor knows them now, with what the node has noted; and
    the version of the routes in each."""
    noted = {(p.role, p.index): p for p in own.processes} if own else {}
    found = []
    for p in processes:
        note = noted.get((p.role, p.index))
        same = note is not None and note.pid == p.pid
        merged = NodeProcess(
            role=p.role,
            index=p.index,
            pid=p.pid,
            state=p.state,
            since_us=p.since_us,
            restarts=p.restarts,
            generation=p.generation,
            cpu_percent=note.cpu_percent if same and note else 0.0,
            memory_mb=note.memory_mb if same and note else 0,
            degraded=p.degraded,
            last_words=died(p) if p.degraded else "",
        )
        found.append((merged, "" if p.routing is None else f"version {p.routing}"))
    return found


def _processes(processes: Sequence[tuple[NodeProcess, str]], now_us: int) -> list[RenderableType]:
    rows = table(
        ("process", "pid", "state", "since", "restarts", "CPU", "memory", "routes"),
        (
            (
                f"{p.role} {p.index}",
                str(p.pid or "-"),
                f"{p.state}, degraded" if p.degraded else p.state,
                span(max(now_us - p.since_us, 0) // 1000),
                str(p.restarts),
                f"{p.cpu_percent:.0f} %" if p.memory_mb else "",
                f"{p.memory_mb} MB" if p.memory_mb else "",
                routes,
            )
            for p, routes in processes
        ),
        frozenset({1, 3, 4, 5, 6}),
    )
    ill = [Text(f"{p.role} {p.index} is degraded: {p.last_words}") for p, _ in processes if p.degraded]
    return [rows, Text(), *ill, *([Text()] if ill else [])]


def nodes(seen: Iterable[Node], now_us: int) -> RenderableType:
    """All nodes, one a line."""
    return table(
        ("node", "state", "up for", "version", "formats", "ready", "restarts"),
        (
            (
                node.name,
                state(node),
                span(max(now_us - node.since_us, 0) // 1000) if node.since_us else "",
                node.version,
                str(node.formats),
                f"{sum(p.state == 'ready' for p in node.processes)} of {len(node.processes)}",
                str(sum(p.restarts for p in node.processes)),
            )
            for node in seen
        ),
        frozenset({2, 4, 5, 6}),
    )


def state(node: Node) -> str:
    """What a node does, and why."""
    reason = f" ({node.reason})" if node.reason else ""
    # A wish that the node has not carried out yet, or cannot because it is away.
    to_come = ", to be drained" if node.drain_wished and node.seen in ("running", "gone", "stopped") else ""
    return f"{node.seen}{to_come}{reason}"


def in_hand(node: Node) -> str:
    """Which of its processes a node that drains still has."""
    left = [
        f"{p.role} {p.index}" for p in node.processes if p.pid and p.role not in ("ingest", "admin", "node")
    ]
    return f"it still has {', '.join(left)}" if left else "its API still takes messages"


def died(process: Process) -> str:
    """How often in a row processes died in the place of this one, and why the last did."""
    return f"{counted(process.deaths, 'process')} died there in a row. {process.last_words}"
