"""What is put off and recalled in `test_model.py`."""

from __future__ import annotations

from random import Random

from engine.delivery.ports import Recall

# Where messages are put off to: the end or the front of the list of a way; from which one they were recalled.
WAYS = {"@1 a": "", "<1 a,b": "1 a", "<1 a": "1 a", "@2 b": ""}


def drawn(rng: Random) -> Recall:
    """One recall of the first shard; often of no way that is there."""
    number, way, segments = rng.randrange(1, 4), rng.choice(list(WAYS))[1:], rng.choice((2, 1 << 30))
    return Recall(0, number, way, rng.choice((1, 5, 300)), segments, plan=2 * (number == 1))
