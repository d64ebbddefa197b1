"""`smsengine node`: the nodes of the engine, over the admin API; drain one, for an upgrade or a repair."""

from __future__ import annotations

import time
import uuid
from typing import Annotated
from urllib.parse import quote

import msgspec
import typer
from rich.console import Console

from engine.errors import EngineError, Unavailable
from supervisor.cli import options, show_nodes
from supervisor.cli.answers import Node
from supervisor.cli.client import Client

app = typer.Typer(
    help="Nodes: list, drain, resume.",
    no_args_is_help=True,
    rich_markup_mode="rich",
)

_LOOK_S = 0.5


class _Nodes(msgspec.Struct, frozen=True, kw_only=True):
    node: str
    nodes: list[Node]
    missing: dict[str, str] = {}


class _Wish(msgspec.Struct, frozen=True, kw_only=True):
    drained_at: str | None = None
    reason: str = ""
    processes: dict[str, int] = {}


class _Wished(msgspec.Struct, frozen=True, kw_only=True):
    node: str
    wish: _Wish


class NotDrained(EngineError):
    """The node has something in hand still; the text says what."""


_Name = Annotated[
    str, typer.Argument(metavar="[NAME]", help="Name of the node; without it, the one of the data directory.")
]


@app.command("list")
@options.admin_options
def list_nodes(*, engine: options.EngineOptions) -> None:
    """Show all nodes of the engine: state, version, and how many processes of each role are ready.

    [bold]Example[/bold]

    [cyan]smsengine node list[/cyan]
    """
    found = engine.admin().get("/v1/admin/nodes", _Nodes)
    if engine.print_json(found):
        return
    console = Console(highlight=False, markup=False)
    console.print(show_nodes.nodes(found.nodes, time.time_ns() // 1000))
    for what, why in found.missing.items():
        console.print(f"{what} is not known: {why}")


@app.command()
@options.admin_options
def drain(
    name: _Name = "",
    reason: Annotated[str, typer.Option(metavar="TEXT", help="Why, for whoever asks later.")] = "",
    wait: Annotated[bool, typer.Option("--wait", help="Return when the node has nothing in hand.")] = False,
    timeout: Annotated[
        int, typer.Option(min=1, max=3600, metavar="SECONDS", help="How long to wait at most.")
    ] = 120,
    force: Annotated[
        bool, typer.Option("--force", help="Also when no other node does what this one does.")
    ] = False,
    *,
    engine: options.EngineOptions,
) -> None:
    """Let a node take nothing new, until it is resumed; also after a restart of it.

    Its API says on /readyz that it is not ready, and ten seconds later refuses messages with
    503. Its workers finish what they have begun and hand back the rest; ledger and archiver leave
    their work to other nodes at once. The API goes on to answer everything else.

    [bold]Examples[/bold]

    [cyan]smsengine node drain --wait[/cyan]
    [cyan]smsengine node drain sms-2 --reason "new disk"[/cyan]
    """
    client, name = engine.admin(), name or engine.node()
    path = f"/v1/admin/nodes/{quote(name, safe='')}/drain"
    wanted = {"reason": reason, "force": force}
    found = client.post(path, wanted, _Wished, idempotency_key=str(uuid.uuid4()))
    if wait:
        _wait_until_drained(client, name, timeout, quiet=engine.as_json)
    if not engine.print_json(found):
        print(f"The node {name} is drained." if wait else f"The node {name} takes nothing new.")


@app.command()
@options.admin_options
def resume(name: _Name = "", *, engine: options.EngineOptions) -> None:
    """Let a drained node work again.

    [bold]Example[/bold]

    [cyan]smsengine node resume[/cyan]
    """
    client, name = engine.admin(), name or engine.node()
    path = f"/v1/admin/nodes/{quote(name, safe='')}/resume"
    found = client.post(path, {}, _Wished, idempotency_key=str(uuid.uuid4()))
    if not engine.print_json(found):
        print(f"The node {name} works again.")


def _wait_until_drained(client: Client, name: str, timeout_s: float, *, quiet: bool) -> None:
    """Raises NotDrained when the node has not drained after `timeout_s` seconds."""
    deadline, left, printed = time.monotonic() + timeout_s, "nothing is known of it", ""
    while True:
        try:
            nodes = client.get("/v1/admin/nodes", _Nodes).nodes
        except Unavailable as e:
            # A look that fails says nothing about the node.
            nodes, left = [], e.detail
        for node in nodes:
            if node.name == name:
                # A node that has stopped has nothing in hand either.
                if node.seen in ("drained", "stopped"):
                    return
                left = f"it is {node.seen}; {show_nodes.in_hand(node)}"
        if time.monotonic() > deadline:
            raise NotDrained(f"The node {name} has not drained after {timeout_s:g} s: {left}.")
        if left != printed and not quiet:
            print(left, flush=True)
            printed = left
        time.sleep(_LOOK_S)
