"""What a sweeper asks of all shards, in `test_model.py`."""

from __future__ import annotations

from random import Random
from typing import Any

from engine.stores.redis import queue_wire as wire

QUESTIONS = ("due_in", "unread_in", "pending_in")


def drawn(rng: Random) -> tuple[Any, ...]:
    """(what, worker, mark) of one question."""
    return rng.choice(QUESTIONS), rng.choice(("w1", "w2")), rng.choice((4, 100))


def command(shard: int, what: str, worker: str, mark: int) -> Any:
    """The question as the engine's own adapter writes it, of one shard."""
    if what == "due_in":
        return wire.due_in("normal", [shard], mark)
    if what == "unread_in":
        return wire.unread_in("normal", [shard])
    return wire.pending_in("normal", worker, [shard])
