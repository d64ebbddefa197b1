"""What is put off, recalled and made ready in `test_model.py`."""

from __future__ import annotations

from random import Random
from typing import Any

from engine.delivery.ports import Recall
from engine.stores.redis import queue_wire as wire
from engine.stores.redis.link import Command

SHARD = 0

# Where messages are put off to: the end or the front of the list of a way; from which one they were recalled.
WAYS = {"@1 a": "", "<1 a,b": "1 a", "<1 a": "1 a", "@2 b": ""}


def drawn(rng: Random) -> Recall:
    """One recall of the first shard; often of no way that is there."""
    number, way, segments = rng.randrange(1, 4), rng.choice(list(WAYS))[1:], rng.choice((2, 1 << 30))
    return Recall(0, number, way, rng.choice((1, 5, 300)), segments, plan=2 * (number == 1))


def room(rng: Random, moments: Random, takes: Random) -> wire.Room:
    """What a stream may hold, as a worker says: now and then one that takes what waits."""
    mark, bundle_max = rng.choice((1, 2, 4, 8, 40)), rng.choice((1, 3, 50, 50, 50))
    moment = moments.choice((None, 1, 2, 40))
    if takes.random() < 0.15:
        mark, moment = 0, moment or 8
    return wire.Room(mark, bundle_max, moment)


def taken(takes: Random, what: str) -> tuple[int | None, ...]:
    """How many messages a worker takes that fills a stream."""
    return (takes.choice((None, None, 1, 8, 40)),) if what == "refill" else ()


def command(what: str, *given: Any) -> Command:
    """A command that makes messages ready."""
    return wire.recall("normal", *given) if what == "recall" else wire.refill("normal", SHARD, *given)
