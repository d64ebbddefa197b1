"""The simulation has teeth: each way to spoil the protocol breaks a promise for some seed."""

from __future__ import annotations

import pytest

from tests.simulation.mutations import MUTATIONS, Mutation
from tests.simulation.runs import run

# When the known seed does not catch it any more, so many others are tried.
SEEDS = 40


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name.replace(" ", "-"))
def test_it_is_noticed(mutation: Mutation) -> None:
    for seed in (mutation.seed, *range(SEEDS)):
        with mutation.applied() as world:
            if run(seed, **world).violation:
                return
    raise AssertionError(f"no seed notices: {mutation.name}")


def test_the_seeds_that_catch_mutations_pass_without_them() -> None:
    for seed in {mutation.seed for mutation in MUTATIONS if mutation.seed >= SEEDS}:
        assert run(seed).violation == ""
