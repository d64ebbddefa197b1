"""Inputs made from seeds by chance: the same number gives the same inputs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import repeat
from random import Random

from tests.fuzz.target import Target

_CHANGES_MAX = 4
_OCTETS = (0, 1, 9, 10, 13, 32, 34, 44, 47, 58, 92, 127, 128, 254, 255)


def inputs(
    target: Target, seed: int, count: int | None = None, further: Sequence[bytes] = ()
) -> Iterator[bytes]:
    """The seeds of the target and `further` ones, and `count` mutations of them; None: without end."""
    rng = Random(seed)
    seeds = [*target.seeds(), *further]
    yield from seeds
    for _ in repeat(None) if count is None else repeat(None, count):
        data = bytearray(rng.choice(seeds))
        for _ in range(rng.randint(1, _CHANGES_MAX)):
            _change(rng, data, seeds, target.words)
        yield bytes(data[: target.octets_max])


def _change(rng: Random, data: bytearray, seeds: Sequence[bytes], words: Sequence[bytes]) -> None:
    at = rng.randrange(len(data) + 1)
    end = min(len(data), at + 1 + min(rng.getrandbits(4), rng.getrandbits(4)))
    match rng.randrange(7):
        case 0 if at < len(data):
            data[at] ^= 1 << rng.randrange(8)
        case 1 if at < len(data):
            data[at] = rng.choice(_OCTETS)
        case 2:
            del data[at:end]
        case 3:
            data[at:at] = data[at:end] * rng.randint(1, 3)
        case 4 if words:
            data[at : rng.choice((at, end))] = rng.choice(words)
        case 5:
            other = rng.choice(seeds)
            begin = rng.randrange(len(other) + 1)
            data[at:] = other[begin:]
        case _:
            data[at:at] = bytes(rng.choice(_OCTETS) for _ in range(rng.randint(1, 4)))
