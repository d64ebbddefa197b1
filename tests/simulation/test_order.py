"""The simulated steps keep the order of each organisation's messages, and a load notices when they do not."""

from __future__ import annotations

import asyncio
from random import Random
from typing import Any, cast

import pytest

from engine.delivery.settlement import put_back, put_off_in
from tests.simulation.clock import Clock
from tests.simulation.line import Line
from tests.simulation.order_load import WAY, OrderLoad
from tests.simulation.redis_functions import Functions
from tests.simulation.redis_server import RedisServer
from tests.simulation.test_model import Nobody

SEEDS = 70


def loaded(
    seed: int, line: dict[str, Any], functions: dict[str, Any], worker: dict[str, Any] | None = None
) -> OrderLoad:
    """A load on steps of which some decisions are others; `worker`: on a worker of which some are."""
    clock = Clock(seed)
    own = {"line": type("OwnLine", (Line,), line), **functions}
    server = RedisServer(clock, Nobody(), type("Own", (Functions,), own))

    async def execute(commands: list[Any]) -> list[Any]:
        clock.now += 0.001
        return [server.execute(None, None, command) for command in commands]

    load = cast(OrderLoad, type("OwnLoad", (OrderLoad,), worker or {})(execute, Random(seed)))
    asyncio.run(load.run(200))
    return load


@pytest.mark.parametrize("seed", range(SEEDS))
def test_all_is_sent_in_order_once_or_canceled(seed: int) -> None:
    assert loaded(seed, {}, {}).broken == []


SPOILED: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "leave what is behind a canceled message where it is": ({}, {"goes_along": lambda *_: False}),
    "let what is written again be ready since then": ({}, {"from_id": lambda *_: b""}),
    "leave the unread where it is": ({"take_unread": lambda *_: []}, {}),
    "put off to the end what comes back": ({"comes_back": lambda *_: False}, {}),
}


@pytest.mark.parametrize("name", SPOILED)
def test_a_spoiled_step_is_noticed(name: str) -> None:
    assert any(loaded(seed, *SPOILED[name]).broken for seed in range(SEEDS))


# Decisions of a worker whose only provider, or whose queue, is paused.
SPOILED_WORKERS: dict[str, dict[str, Any]] = {
    "send what a read under way gives": {"all_back": property(lambda *_: False, lambda *_: None)},
    "put off what waits for the only provider": {"left": lambda _, entry: put_off_in(entry, WAY, front=True)},
    "put off to the end what waits for one of several": {
        "left": lambda load, entry: put_back(entry) if load.alone else put_off_in(entry, WAY)
    },
}


@pytest.mark.parametrize("name", SPOILED_WORKERS)
def test_a_spoiled_worker_is_noticed(name: str) -> None:
    assert any(loaded(seed, {}, {}, SPOILED_WORKERS[name]).broken for seed in range(SEEDS))
