"""Rule: what nodes are, as seen from their notes, and whether the others can do without one of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from engine.errors import Refusal
from engine.nodes.records import NodeNote, NodeWish, OwnNode, OwnProcess, SeenNode, SeenState, State

# A node that has noted nothing for so long is gone, microseconds.
GONE_US = 15_000_000
# One that is gone, or has stopped, is forgotten after so long.
FORGOTTEN_US = 86_400_000_000
# More nodes than that are not kept, those that noted themselves longest ago are forgotten.
NODES_MAX = 256
# The roles that a drained node has, too.
KEPT = ("ingest", "admin", "node")


def state_of(own: OwnNode, wish: NodeWish) -> State:
    """What the node of this supervisor does now."""
    if own.stopping:
        return "stopped"
    if not wish.drained:
        return "running"
    busy = any(process.pid and _is_busy(process) for process in own.processes)
    return "draining" if busy else "drained"


def _is_busy(process: OwnProcess) -> bool:
    return process.admits if process.role == "ingest" else process.role not in KEPT


def seen(note: NodeNote, wish: NodeWish | None, now_us: int) -> SeenNode:
    """The node as others see it at `now_us`; `wish` None: nobody knows what operators wish."""
    state: SeenState = note.state
    if state != "stopped" and now_us - note.at_us > GONE_US:
        state = "gone"
    fields = msgspec.structs.asdict(note)
    return SeenNode(**fields, seen=state, drain_wished=None if wish is None else wish.drained)


def forgotten(notes: Mapping[str, NodeNote], now_us: int) -> list[str]:
    """The names of the nodes whose notes are to be removed."""
    old = [name for name, note in notes.items() if now_us - note.at_us > FORGOTTEN_US]
    kept = sorted((note.at_us, name) for name, note in notes.items() if name not in old)
    return old + [name for _, name in kept[: max(0, len(kept) - NODES_MAX)]]


def check_others_can(
    name: str,
    roles: Iterable[str],
    notes: Iterable[NodeNote],
    wishes: Mapping[str, NodeWish],
    now_us: int,
    what: str,
) -> None:
    """Raise Refusal 409 when no other node does one of `roles`.

    `what`: how the sentence begins, such as "The node a cannot be drained". A node counts when it has noted
    itself lately, works, and nobody wishes it drained.
    """
    alone = [role for role in roles if not _is_done(role, name, notes, wishes, now_us)]
    if alone:
        only = f"no other node has {_named(alone)} that works"
        raise Refusal("last_node", 409, f"{what}: {only}; use `force` to do it nevertheless.")


def _named(roles: list[str]) -> str:
    words = {"ingest": "an API", "ledger": "a ledger", "archiver": "an archiver", "notifier": "a notifier"}
    named = [words.get(role, f"a worker of {role}") for role in roles]
    return named[0] if len(named) == 1 else f"{', '.join(named[:-1])} or {named[-1]}"


def _is_done(
    role: str, name: str, notes: Iterable[NodeNote], wishes: Mapping[str, NodeWish], now_us: int
) -> bool:
    for note in notes:
        wish = wishes.get(note.name, NodeWish())
        works = seen(note, wish, now_us).seen == "running" and not wish.drained
        if note.name != name and works and _has(note, role):
            return True
    return False


def _has(note: NodeNote, role: str) -> bool:
    ready = any(p.role == role and p.state == "ready" for p in note.processes)
    return bool(note.roles.get(role)) and (ready or bool(note.more_processes))
