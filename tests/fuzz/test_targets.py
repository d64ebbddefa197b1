"""The seeds of every target, what broke a promise once, and some mutations; `make fuzz` does more."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fuzz.mutation import inputs
from tests.fuzz.targets import FOUND, TARGETS, Trial, found_before

# Mutations of each target: about a second of each.
COUNTS = dict.fromkeys(("api_octets", "api_request", "config_file", "smpp_session"), 1000)
COUNT = 3000
SEED = 7


@pytest.mark.parametrize("name", TARGETS)
def test_no_input_breaks_a_promise(name: str, tmp_path: Path) -> None:
    target = TARGETS[name]
    with target.opened() as check:
        trial = Trial(target, check, tmp_path)
        for data in inputs(target, SEED, COUNTS.get(name, COUNT), found_before(name)):
            trial(data)
    assert not trial.findings, "\n".join(str(finding) for finding in trial.findings)
    assert trial.cases >= COUNTS.get(name, COUNT)


def test_what_was_found_belongs_to_a_target() -> None:
    assert {folder.name for folder in FOUND.iterdir()} <= TARGETS.keys()
