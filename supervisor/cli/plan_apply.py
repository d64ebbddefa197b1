"""`smsengine plan --apply`: the shapes of a plan become those of the nodes that run, by the calls of `queue
scale`.

Each call is for one queue on one node, and stands or does not. After an error the lines that were printed
say what stands; repeated, it changes nothing more.
"""

from __future__ import annotations

import math
import sys
import uuid
from collections.abc import Iterator, Mapping, Sequence

import msgspec
import typer
from rich.console import Console

from engine.capacity.simulation import Shape
from engine.errors import EngineError
from engine.records import Queue
from supervisor.cli import show
from supervisor.cli.answers import Node
from supervisor.cli.client import Client
from supervisor.cli.queue import Scaled


class NotApplied(EngineError):
    """The plan was not applied; the text says why."""


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """The workers of one queue on one node: processes and concurrency of each, before and after."""

    node: str
    queue: Queue
    processes_before: int
    # None: a version that does not say so.
    concurrency_before: int | None
    processes: int
    concurrency: int


class _Nodes(msgspec.Struct, frozen=True, kw_only=True):
    nodes: list[Node]


def changes_of(shapes: Mapping[Queue, Shape], client: Client) -> list[Change]:
    """What the plan makes of the nodes that run and have workers of its queues, which share its processes.

    Raises NotApplied when there is none, and what `Client.get` raises.
    """
    nodes = client.get("/v1/admin/nodes", _Nodes).nodes
    running = [node for node in nodes if node.seen == "running" and not node.drain_wished]
    found = []
    for queue, shape in shapes.items():
        workers = [node for node in running if node.roles.get(queue)]
        if not workers:
            raise NotApplied(
                f"The plan is not applied: no node that runs has workers of {queue}; `smsengine node list` "
                "shows all."
            )
        found += [
            Change(
                node=node.name,
                queue=queue,
                processes_before=node.roles[queue],
                concurrency_before=node.concurrency.get(queue),
                processes=math.ceil(shape.processes / len(workers)),
                concurrency=shape.concurrency,
            )
            for node in workers
        ]
    return found


def confirm(changes: Sequence[Change], *, yes: bool, as_json: bool) -> None:
    """Show what would change, and ask. Raises NotApplied when the answer is no, or nobody can be asked."""
    if not as_json:
        Console(highlight=False, markup=False).print(_table(changes))
    if yes:
        return
    if as_json or not sys.stdin.isatty():
        raise NotApplied("The plan is not applied: without a terminal to ask at, --apply needs --yes.")
    if not typer.confirm("Apply it to the running engine?"):
        raise NotApplied("The plan is not applied.")


def carry_out(changes: Sequence[Change], client: Client) -> Iterator[Change]:
    """Make the changes, one after another; each is given when it stands. Raises as `Client.post` does."""
    for change in changes:
        body = {"processes": change.processes, "concurrency": change.concurrency, "node": change.node}
        path = f"/v1/admin/queues/{change.queue}/scale"
        client.post(path, body, Scaled, idempotency_key=str(uuid.uuid4()))
        yield change


def show_kept(changes: Sequence[Change], config: str) -> None:
    """Print what happens at the next restart, and what keeps the plan in the configuration."""
    queues = sorted({change.queue for change in changes})
    ends = "\n".join(f"smsengine queue scale {queue} as-configured" for queue in queues)
    print(
        "\nThe plan is in force within two seconds. It counts in place of the configuration and of\n"
        f"autoscaling, also after a reload or a restart, until this is run:\n\n{ends}\n\n"
        "To keep the plan in the configuration of each node, put these lines there, reload, and then\n"
        f"run that:\n\n{config}",
        end="",
    )


def _table(changes: Sequence[Change]) -> object:
    rows = [
        (change.node, change.queue, _shape(change.processes_before, change.concurrency_before), "→",
         _shape(change.processes, change.concurrency))
        for change in changes
    ]  # fmt: skip
    return show.table(("node", "queue", "before", "", "after"), rows, frozenset({2, 4}))


def _shape(processes: int, concurrency: int | None) -> str:
    return f"{processes} × {'?' if concurrency is None else concurrency}"
