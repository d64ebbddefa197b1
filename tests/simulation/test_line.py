"""The line of a queue in the simulation is fair as the real one is, and a load notices when it is not."""

from __future__ import annotations

import asyncio
from random import Random
from typing import Any

import msgspec
import pytest

from tests.simulation.clock import Clock
from tests.simulation.fair_load import FairLoad, random_load
from tests.simulation.line import Line, Waiting
from tests.simulation.redis_functions import Functions
from tests.simulation.redis_server import RedisServer
from tests.simulation.test_model import Nobody

_unpack = msgspec.msgpack.Decoder().decode


def broken_rules(line: type[Line], seed: int, *, limits: bool = False, takes: bool = False) -> list[str]:
    """What a random load sees of a line that breaks the rule."""
    clock = Clock(seed)
    server = RedisServer(clock, Nobody(), type("Own", (Functions,), {"line": line}))

    async def execute(commands: list[Any]) -> list[Any]:
        clock.now += 0.001
        return [server._run(_simulated(command)) for command in commands]

    load = FairLoad(execute, Random(seed), takes=takes)
    marks = (4, 4, 8) if seed % 2 else (16, 64, 100)
    asyncio.run(random_load(load, Random(seed), 300, marks=marks, limits=limits))
    return load.broken


def _simulated(command: Any) -> Any:
    return (command[0], command[1].rpartition("_")[0], *command[2:]) if command[0] == "FCALL" else command


@pytest.mark.parametrize("seed", range(10))
def test_a_line_is_within_one_message_of_a_fluid_server(seed: int) -> None:
    assert broken_rules(Line, seed) == []
    assert broken_rules(Line, seed, limits=True, takes=True) == []


@pytest.mark.parametrize("seed", range(20))
def test_weights_and_pauses_keep_it_within_one_message_of_a_fluid_server(seed: int) -> None:
    assert broken_rules(Line, seed, limits=True) == []


def _by_arrival(self: Line, turns: list[Waiting]) -> Waiting:
    return turns[0]


def _never_waits(self: Line, organisation: bytes, segments: int, payload: bytes) -> None:
    self.make_ready(segments, payload)


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


def _ignores_the_weight(self: Line, of: Waiting, segments: int) -> float:
    return segments


def _multiplies_by_the_weight(self: Line, of: Waiting, segments: int) -> float:
    return segments * of.weight


def _serves_the_paused(self: Line, kept: bytes | None) -> tuple[float, bool]:
    return Line.limits(self, kept)[0], False


def _puts_back_at_the_end(self: Line, organisation: bytes, payloads: list[bytes]) -> None:
    for payload in payloads:
        self.enter(organisation, _unpack(payload)[6], payload)


# Of the limits of organisations.
OF_LIMITS: dict[str, dict[str, Any]] = {
    "ignore the weight": {"cost": _ignores_the_weight},
    "a larger weight for less": {"cost": _multiplies_by_the_weight},
    "serve the paused": {"limits": _serves_the_paused},
    "put what is given back at the end": {"put_back": _puts_back_at_the_end},
}


@pytest.mark.parametrize("name", [*MUTATIONS, *OF_LIMITS])
def test_a_spoiled_line_is_noticed(name: str) -> None:
    spoiled = type("Spoiled", (Line,), (MUTATIONS | OF_LIMITS)[name])

    def noticed(seed: int) -> bool:
        try:
            return bool(broken_rules(spoiled, seed, limits=name in OF_LIMITS))
        except (KeyError, TypeError):
            return True

    assert any(noticed(seed) for seed in range(10))
