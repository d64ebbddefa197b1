"""The simulation has teeth: each way to spoil the protocol breaks a promise for some seed."""

from __future__ import annotations

import warnings

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
                if seed != mutation.seed:
                    # To run seeds that notice nothing is most of what these tests cost.
                    warnings.warn(
                        f"Seed {mutation.seed} notices {mutation.name!r} no more, seed {seed} does: name it.",
                        stacklevel=1,
                    )
                return
    raise AssertionError(f"no seed notices: {mutation.name}")


def test_the_seeds_that_catch_mutations_pass_without_them() -> None:
    for seed in {mutation.seed for mutation in MUTATIONS if mutation.seed >= SEEDS}:
        assert run(seed).violation == ""


def test_the_faults_by_which_mutations_are_caught_break_nothing_without_them() -> None:
    chosen = {(m.seed, tuple(m.world["faults"])) for m in MUTATIONS if "faults" in m.world}
    for seed, faults in sorted(chosen):
        result = run(seed, faults=faults)
        assert result.violation == "", (seed, faults)
