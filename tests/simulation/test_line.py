"""The line of a queue in the simulation is fair as the real one is, and a load notices when it is not."""

from __future__ import annotations

import asyncio
from random import Random
from typing import Any

import pytest

from tests.simulation.clock import Clock
from tests.simulation.fair_load import FairLoad, random_load
from tests.simulation.line import Line, Waiting
from tests.simulation.redis_functions import Functions
from tests.simulation.redis_server import RedisServer
from tests.simulation.test_model import Nobody


def broken_rules(line: type[Line], seed: int) -> list[str]:
    """What a random load sees of a line that breaks the rule."""
    clock = Clock(seed)
    server = RedisServer(clock, Nobody(), type("Own", (Functions,), {"line": line}))

    async def execute(commands: list[Any]) -> list[Any]:
        clock.now += 0.001
        return [server._run(_simulated(command)) for command in commands]

    load = FairLoad(execute, Random(seed))
    asyncio.run(random_load(load, Random(seed), 300, marks=(4, 4, 8) if seed % 2 else (16, 64, 100)))
    return load.broken


def _simulated(command: Any) -> Any:
    return (command[0], command[1].rpartition("_")[0], *command[2:]) if command[0] == "FCALL" else command


@pytest.mark.parametrize("seed", range(10))
def test_a_line_is_within_one_message_of_a_fluid_server(seed: int) -> None:
    assert broken_rules(Line, seed) == []


def _by_arrival(self: Line, turns: list[Waiting]) -> Waiting:
    return turns[0]


def _never_waits(self: Line, organisation: bytes, segments: int, payload: bytes) -> None:
    self.make_ready(payload)


def _earns_by_idling(self: Line, organisation: bytes) -> float:
    return self.store.hash(self.ahead).get(organisation, 0)  # type: ignore[call-overload,no-any-return]


def _owes_nothing(self: Line, organisation: bytes) -> float:
    return self.time


def _counts_messages(self: Line, of: Waiting) -> None:
    before = of.start
    Line.serve(self, of)
    of.start = before + 1


def _stands_still(self: Line) -> None:
    before = self.time
    Line.refill(self)
    self.time = before


MUTATIONS: dict[str, dict[str, Any]] = {
    "forget the refill": {"refill": lambda _: None},
    "wait without a turn": {"take_turn": lambda *_: None},
    "a turn without a backlog": {"has_list": lambda *_: True},
    "serve the first until it has nothing left": {"next": _by_arrival},
    "serve by arrival": {"enter": _never_waits},
    "let idleness earn credit": {"begins_at": _earns_by_idling},
    "forget what was served ahead": {"begins_at": _owes_nothing},
    "count messages instead of segments": {"serve": _counts_messages},
    "let the virtual time stand still": {"refill": _stands_still},
}


@pytest.mark.parametrize("name", MUTATIONS)
def test_a_spoiled_line_is_noticed(name: str) -> None:
    spoiled = type("Spoiled", (Line,), MUTATIONS[name])

    def noticed(seed: int) -> bool:
        try:
            return bool(broken_rules(spoiled, seed))
        except (KeyError, TypeError):
            return True

    assert any(noticed(seed) for seed in range(10))
